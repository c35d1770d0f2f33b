"""From a role's prompt to a better one, measured on examples that the search has not seen.

The folder gets
  program.json    the best prompt with its examples, in DSPy's form; of what was there before it is never a worse one
  report.json     scores before and after on the held-out examples, with the interval of the difference
  trials.jsonl    what the search tried, a line each
  answers.sqlite  every answer of the model: a search that was stopped goes on where it was
  dspy.log        what DSPy said
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cpuft.backends.generator import Generator, Sampling
from cpuft.backends.remembered import Remembered
from cpuft.errors import ConfigError, DatasetError
from cpuft.evaluate.benchmark import Benchmark, Case, run_benchmark
from cpuft.evaluate.comparison import Difference, Mean, difference, mean_of
from cpuft.machine.disk import disk_errors
from cpuft.machine.files import write_json, write_text
from cpuft.machine.progress import Progress, silent
from cpuft.roles import Role
from cpuft.roles.yaml_grammar import held_to
from cpuft.synth.duplicates import NearTexts
from cpuft.synth.program import Program, read_program
from cpuft.synth.records import RoleRecord
from cpuft.synth.search import Search, Trial
from cpuft.synth.split import split_records

PROGRAM = "program.json"
CONTEXT = 8192  # tokens: whole examples stand before the question
HELD_OUT = 0.4  # of the examples, where none are given to measure by
FOR_DEMOS = 0.5  # of the rest; the other half is what the search tries prompts on


@dataclass(frozen=True)
class PromptReport:
    """What a search found. Scores are of the held-out examples.

    after: of the program in program.json, which is the role's own prompt where nothing better was found.
    chosen: "found", "examples" (the role's prompt with the examples that were found), "before" (of an earlier search in
            the same folder) or "role".
    """

    before: Mean
    after: Mean
    gain: Difference
    chosen: str
    trials: tuple[Trial, ...]
    n_train: int
    n_validation: int
    n_held_out: int

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        counts = {name: getattr(self, name) for name in ("chosen", "n_train", "n_validation", "n_held_out")}
        scores = {name: getattr(self, name).facts() for name in ("before", "after", "gain")}
        return {**counts, **scores, "trials": [asdict(trial) for trial in self.trials]}


@dataclass(frozen=True)
class Parts:
    """The examples of a search, by what they are for."""

    train: Sequence[RoleRecord]
    validation: Sequence[RoleRecord]
    held_out: Sequence[RoleRecord]


def apart(records: Sequence[RoleRecord], held_out: Sequence[RoleRecord]) -> list[RoleRecord]:
    """The records that ask nothing which the held-out ones nearly ask, too."""
    tested = NearTexts(one.asked for one in held_out)
    return [one for one in records if not tested.has(one.asked)]


def divide(records: Sequence[RoleRecord], held_out: Sequence[RoleRecord], seed: int) -> Parts:
    """Divides examples so that no variation of one stands in two parts.

    held_out: empty takes some of the records; else records that nearly ask what these do are left out.

    Raises DatasetError where there are too few.
    """
    try:
        if not held_out:
            first = split_records(records, 1.0 - HELD_OUT, seed)
            records, held_out = first.train, first.validation
        records = apart(records, held_out)
        second = split_records(records, FOR_DEMOS, seed)
    except DatasetError as error:
        raise DatasetError(f"{len(records)} examples are too few to look for a prompt: {error}") from error
    return Parts(second.train, second.validation, held_out)


def answers_of(parts: Parts, search: Search) -> int:
    """About how many answers it takes: those of the search, and each candidate's on the held-out examples."""
    return search.requests(len(parts.train), len(parts.validation)) + 3 * len(parts.held_out)


def optimize_prompt(
    role: Role,
    generator: Generator,
    model: str,
    parts: Parts,
    search: Search,
    folder: Path,
    *,
    progress: Progress = silent,
) -> PromptReport:
    """Searches, measures and keeps the better. model: what tells it from another: it is part of remembered answers.

    Running it again with the same arguments goes on where it stopped.
    """
    from cpuft.synth.language_model import write_program  # not at the top: DSPy takes seconds to import
    from cpuft.synth.optimizer import optimize

    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    most = answers_of(parts, search)

    def heard(total: int, remembered: int) -> None:
        progress("requests", min(total, most), most, "request", remembered=str(remembered))

    progress("requests", 0, most, "request")  # a bar that begins before DSPy's output is turned away
    with Remembered(generator, folder / "answers.sqlite", model, heard) as asked:
        candidates = {"role": Program(role.prompt)}
        earlier = _earlier(folder / PROGRAM, role)
        # One that is shown what it is measured by, because it comes from another division, would win by that.
        if earlier is not None and len(apart(earlier.demos, parts.held_out)) == len(earlier.demos):
            candidates["before"] = earlier
        found = optimize(role, asked, model, parts.train, parts.validation, search, folder / "dspy.log")
        if found.program.demos and found.program.prompt != role.prompt:
            # Often it is the examples that help, and among equals the search takes whatever prompt it tried first.
            candidates["examples"] = Program(role.prompt, found.program.demos)
        candidates["found"] = found.program
        scores = {name: _scores(role, asked, one, parts.held_out, search) for name, one in _unlike(candidates).items()}
    chosen = max(scores, key=lambda name: sum(scores[name]))  # the first of equals: the one that is least new
    report = PromptReport(
        before=mean_of(scores["role"]),
        after=mean_of(scores[chosen]),
        gain=difference(scores["role"], scores[chosen]),
        chosen=chosen,
        trials=found.trials,
        n_train=len(parts.train),
        n_validation=len(parts.validation),
        n_held_out=len(parts.held_out),
    )
    write_program(folder / PROGRAM, role, candidates[chosen])
    write_text(folder / "trials.jsonl", "".join(json.dumps(asdict(trial)) + "\n" for trial in found.trials))
    write_json(folder / "report.json", {"role": role.name, "model": model, "search": asdict(search), **report.facts()})
    return report


def score(
    role: Role,
    generator: Generator,
    program: Program,
    records: Sequence[RoleRecord],
    *,
    constrained: bool,
    max_tokens: int,
    n_parallel: int,
    progress: Progress = silent,
) -> Benchmark:
    """What a model's answers are worth when it is asked by a program, at temperature 0.

    constrained: whether it is held to the role's schema.
    """
    sampling = Sampling(max_tokens=max_tokens)
    if constrained:
        sampling = held_to(role.schema, generator, sampling)
    as_json = sampling.schema is not None
    cases = [
        Case(one.inputs, tuple(program.messages(role, one.inputs, as_json=as_json)), one.answer) for one in records
    ]
    return run_benchmark(generator, cases, role.metric, sampling=sampling, n_parallel=n_parallel, progress=progress)


def _unlike(candidates: dict[str, Program]) -> dict[str, Program]:
    """The candidates, but of those that are the same by another name the last; the role's own prompt always."""
    by_digest = {program.digest: name for name, program in [*candidates.items(), ("role", candidates["role"])]}
    return {name: program for name, program in candidates.items() if by_digest[program.digest] == name}


def _scores(
    role: Role, generator: Generator, program: Program, records: Sequence[RoleRecord], search: Search
) -> list[float]:
    how: dict[str, Any] = {name: getattr(search, name) for name in ("constrained", "max_tokens", "n_parallel")}
    return score(role, generator, program, records, **how).scores


def _earlier(path: Path, role: Role) -> Program | None:
    """The program of an earlier search; None where there is none."""
    try:
        return read_program(path, role) if path.exists() else None
    except ConfigError:
        return None
