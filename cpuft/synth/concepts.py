"""Concepts to ask a role about: put together from its lexicon, without a model, or varied from seeds by one."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cpuft.backends.generator import PARALLEL, Generator, Request, Sampling, generate_all
from cpuft.chat.message import Completion
from cpuft.errors import ConfigError, CpuftError, DatasetError, list_faults
from cpuft.machine.progress import Progress, silent
from cpuft.roles import Role
from cpuft.synth.duplicates import NearTexts

DOMAIN = "domain "  # before a domain's name, the kind of its subjects in a lexicon
KINDS = ("product", "audience", "complexity")  # what else a lexicon has for concepts
TRIES = 100  # without a new concept, until it is taken that there are none left
VARIATIONS = 4  # that a model is asked for at a time
# How concepts differ beside their words: told to a model so that it does not write the same one again.
COMPLEXITIES = ("a simple tool", "a product of medium size", "a large system for a whole organisation")
AUDIENCES = ("a start-up", "a small business", "a public body", "a large company", "private people")


@dataclass(frozen=True)
class Concept:
    """What a role is asked about. group: what it is a variation of; variations stay together when data are split."""

    text: str
    domain: str
    group: str

    def line(self) -> str:
        """As a line of JSON."""
        return json.dumps({"concept": self.text, "domain": self.domain, "group": self.group}, ensure_ascii=False) + "\n"


def read_concepts(path: Path) -> list[Concept]:
    """The concepts of a file: lines of JSON, as `Concept.line` writes them, or one concept a line in plain text.

    Raises DatasetError, which names the first bad lines.
    """
    concepts, faults = [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file, expected concepts, one a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                concepts.append(_concept(line.strip()))
            except ValueError as error:
                faults.append(f"{path}:{number}: {error}")
    if faults:
        raise DatasetError(list_faults(faults))
    if not concepts:
        raise DatasetError(f"{path}: the file holds no concepts, expected one a line")
    return concepts


def _concept(line: str) -> Concept:
    if not line.startswith("{"):
        return Concept(line, "", line)
    facts = json.loads(line)
    text = facts.get("concept", facts.get("input"))
    if not isinstance(text, str) or not text.strip():
        raise ValueError('expected {"concept": "…"}')
    return Concept(text.strip(), str(facts.get("domain", "")), str(facts.get("group", text.strip())))


def domains_of(role: Role, wanted: Sequence[str] = ()) -> list[str]:
    """The domains of a role's lexicon, or those that are wanted. Raises ConfigError where there are none such."""
    known = [kind.removeprefix(DOMAIN) for kind in role.lexicon if kind.startswith(DOMAIN)]
    if missing := [kind for kind in KINDS if not role.lexicon.get(kind)]:
        raise ConfigError(f"the role {role.name} has no words for {missing[0]}: add them to its lexicon.yaml")
    by_plain = {_plain(name): name for name in known}  # hr is HR, and ecommerce e-commerce
    if unknown := [name for name in wanted if _plain(name) not in by_plain]:
        raise ConfigError(f"{unknown[0]}: no such domain in the role {role.name}, expected some of {', '.join(known)}")
    if not known:
        raise ConfigError(f"the role {role.name} has no domains: add kinds such as {DOMAIN}fintech to its lexicon.yaml")
    return [by_plain[_plain(name)] for name in wanted] or known


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def combine(role: Role, count: int, domains: Sequence[str], seed: int) -> list[Concept]:
    """So many concepts, the domains in turn, no two nearly alike; fewer where the lexicon has no more.

    A concept is a subject of its domain, a product, an audience and sometimes how complex it is.
    """
    rng, names, found = random.Random(f"{seed}:concepts"), domains_of(role, domains), list[Concept]()
    seen = NearTexts()
    missed = 0  # tries since the last new one
    while len(found) < count and missed < TRIES:
        domain = names[(len(found) + missed) % len(names)]
        missed += 1
        subject = rng.choice(role.lexicon[f"{DOMAIN}{domain}"])
        product, audience = (rng.choice(role.lexicon[kind]) for kind in KINDS[:2])
        complexity = rng.choice([*role.lexicon["complexity"], ""])
        text = f"{complexity} {subject} {product} for {audience}".strip()
        text = text[0].upper() + text[1:]
        if not seen.has(text):
            seen.add(text)
            found.append(Concept(text, domain, f"{domain}: {subject}"))
            missed = 0
    return found


def vary(
    role: Role,
    generator: Generator,
    count: int,
    domains: Sequence[str],
    seed: int,
    *,
    n_parallel: int = PARALLEL,
    progress: Progress = silent,
) -> list[Concept]:
    """So many concepts that a model writes: variations of the role's seeds in other domains, sizes and audiences.

    Fewer where it writes the same again and again. The same seed and model ask the same questions.
    Raises what it answered with where it answered nothing else.
    """
    names, found, seen = domains_of(role, domains), list[Concept](), NearTexts()
    asked = _questions(role, names, seed, count + TRIES)
    kept: dict[int, tuple[str, str]] = {}
    failed: CpuftError | None = None
    requests = (_noted(number, question, kept) for number, question in enumerate(asked))
    for number, answer in generate_all(generator, requests, n_parallel):
        domain, group = kept.pop(number)
        failed = answer if isinstance(answer, CpuftError) else failed
        for text in _concepts_in(answer) if isinstance(answer, Completion) else ():
            if len(found) < count and not seen.has(text):
                seen.add(text)
                found.append(Concept(text, domain, group))
        progress("concepts", len(found), count, "concept")
        if len(found) >= count:
            break
    if failed is not None and not found:
        raise failed
    return found


_LIST = {"type": "object", "required": ["concepts"], "additionalProperties": False, "properties": {"concepts": {}}}


def _schema() -> Mapping[str, object]:
    item = {"type": "string", "minLength": 10, "maxLength": 120}
    concepts = {"type": "array", "minItems": VARIATIONS, "maxItems": VARIATIONS, "items": item}
    return {**_LIST, "properties": {"concepts": concepts}}


def _questions(role: Role, domains: Sequence[str], seed: int, most: int) -> Iterator[tuple[Request, str, str]]:
    """(request, domain, group): each seed in turn, in a domain, size and audience of its own."""
    rng = random.Random(f"{seed}:variations")
    first = next(iter(role.sources))
    seeds = [example.inputs[first] for example in role.seeds]
    if not seeds:
        raise ConfigError(f"the role {role.name} has no seed examples: add some to its seeds.yaml")
    for number in range(most):
        example, domain = seeds[number % len(seeds)], domains[number // len(seeds) % len(domains)]
        text = (
            f"Here is a concept of a software project: {example}\n\n"
            f"Write {VARIATIONS} other concepts of one line each, in the domain {domain}: {rng.choice(COMPLEXITIES)}, "
            f"for {rng.choice(AUDIENCES)}. Each names what the software is and for whom. Answer in JSON: "
            '{"concepts": ["…", "…"]}'
        )
        sampling = Sampling(temperature=0.9, top_p=0.95, seed=rng.randrange(2**31), max_tokens=256, schema=_schema())
        yield Request([{"role": "user", "content": text}], sampling), domain, f"{domain}: {example}"


def _noted(number: int, question: tuple[Request, str, str], kept: dict[int, tuple[str, str]]) -> Request:
    request, domain, group = question
    kept[number] = (domain, group)
    return request


def _concepts_in(answer: Completion) -> Iterator[str]:
    """The concepts in an answer; none where it is no JSON of that form."""
    try:
        texts = json.loads(answer.text)["concepts"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    for text in texts if isinstance(texts, list) else ():
        if isinstance(text, str) and 10 <= len(" ".join(text.split())) <= 120:
            yield " ".join(text.split())
