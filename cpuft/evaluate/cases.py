"""The questions of a test set, be they conversations or records of a role."""

import json
import random
from pathlib import Path

from cpuft.errors import DatasetError
from cpuft.evaluate.benchmark import Case, read_cases
from cpuft.roles import Role
from cpuft.synth.concepts import read_concepts
from cpuft.synth.records import read_records


def cases_of(path: Path, role: Role, limit: int | None = None) -> list[Case]:
    """The first `limit` questions of a file: conversations in their own words, all else in the role's short ones.

    Raises DatasetError, which names the first bad lines, also where the file holds none.
    """
    if _holds_conversations(path):
        cases = read_cases(path, role)
    else:
        records = read_records(path, role)
        cases = [Case(one.inputs, tuple(role.messages(one.inputs)), one.answer) for one in records]
    if not cases:
        raise DatasetError(f"{path}: the file holds no examples, expected one JSON object a line")
    return cases[:limit]


def draw_cases(path: Path, role: Role, count: int, seed: int) -> list[Case]:
    """So many questions of a file, drawn by the seed and in its order: concepts for a role that is asked one thing.

    For another role, and where it holds them, examples or conversations. They have no reference answer, or their own.
    Raises DatasetError, which names the first bad lines.
    """
    first, *others = role.sources
    if others or _holds_conversations(path):
        cases = cases_of(path, role)
    else:
        asked = [{first: concept.text} for concept in read_concepts(path)]
        cases = [Case(inputs, tuple(role.messages(inputs)), "") for inputs in asked]
    if count >= len(cases):
        return cases
    places = sorted(random.Random(f"{seed}:samples").sample(range(len(cases)), count))
    return [cases[place] for place in places]


def _holds_conversations(path: Path) -> bool:
    """By its first line; what cannot be read is the reader's to say."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            first = next((line for line in stream if line.strip()), "")
        found = json.loads(first)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "messages" in found
