"""What of a data set is good enough to be learned, and why the rest is not."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import jsonschema

from cpuft.roles import Role
from cpuft.roles.answer import read_answer
from cpuft.synth.duplicates import NEAR, NearTexts, normalized
from cpuft.synth.records import RoleRecord


@dataclass(frozen=True)
class Criteria:
    """What an example must be.

    min_score: of the role's metric. near: how like two questions may be. held_out: questions that must stay unseen.
    """

    min_score: float = 0.7
    near: float = NEAR
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """An example that was not kept, with its reasons: (kind, sentence)."""

    record: RoleRecord
    reasons: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Filtered:
    """What was kept, with its scores, in its order, and what was not."""

    kept: list[RoleRecord]
    dropped: list[Dropped]
    reasons: Counter[str] = field(default_factory=Counter)


def filter_records(records: Sequence[RoleRecord], role: Role, criteria: Criteria) -> Filtered:
    """Keeps what is good, once. The result does not depend on the order of the records, but for its own order.

    Of examples that ask nearly the same the best is kept, and of equally good ones the one whose text comes first.
    """
    scored = [_scored(record, role) for record in records]
    reasons: dict[int, list[tuple[str, str]]] = {
        i: list(_faults(record, role, criteria)) for i, record in enumerate(scored)
    }
    held_out = NearTexts(criteria.held_out, criteria.near)
    good = sorted((i for i in reasons if not reasons[i]), key=lambda i: _order(scored[i]))
    chosen, numbers, exact = NearTexts(near=criteria.near), list[int](), dict[str, int]()
    for i in good:
        asked = scored[i].asked
        if held_out.has(asked):
            reasons[i].append(("held out", "a test set asks nearly the same"))
        elif (other := exact.get(normalized(asked))) is not None:
            reasons[i].append(("duplicate", f"{_place(scored[other])} asks the same"))
        elif (near := next(chosen.find(asked), None)) is not None:
            reasons[i].append(
                ("near-duplicate", f"{scored[numbers[near]].place or 'another example'} asks nearly the same")
            )
        else:
            exact[normalized(asked)] = i
            chosen.add(asked)
            numbers.append(i)
    dropped = [Dropped(scored[i], tuple(found)) for i, found in reasons.items() if found]
    counts = Counter(kind for one in dropped for kind in dict.fromkeys(kind for kind, _ in one.reasons))
    return Filtered([scored[i] for i in sorted(numbers)], dropped, counts)


def _scored(record: RoleRecord, role: Role) -> RoleRecord:
    score = role.metric(record.answer, record.inputs)
    return RoleRecord(record.inputs, record.answer, {**record.facts, "score": round(score.total, 4)}, record.place)


def _faults(record: RoleRecord, role: Role, criteria: Criteria) -> Iterator[tuple[str, str]]:
    """What is wrong with one example by itself."""
    if record.facts.get("finished") is False:
        yield "unfinished", "the answer was cut off at its longest"
    document = read_answer(record.answer)
    if document is None:
        yield "no YAML", "the answer is no YAML document"
    else:
        for error in jsonschema.Draft202012Validator(dict(role.schema)).iter_errors(document):
            where = error.json_path.removeprefix("$").removeprefix(".") or "the document"
            yield "schema", f"{where}: {error.message[:120]}"
    if record.facts["score"] < criteria.min_score:
        faults = "; ".join(role.metric(record.answer, record.inputs).faults)
        yield "score", f"scores {record.facts['score']:.2f}, expected {criteria.min_score:g}: {faults}"


def _place(record: RoleRecord) -> str:
    return record.place or "another example"


def _order(record: RoleRecord) -> tuple[float, str, str]:
    return -record.facts["score"], record.asked, record.answer
