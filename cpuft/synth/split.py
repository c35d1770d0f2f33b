"""Divides a data set into training and validation, so that no validation question has a relative in the training."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cpuft.errors import DatasetError
from cpuft.synth.duplicates import NEAR, clusters, normalized
from cpuft.synth.records import RoleRecord


@dataclass(frozen=True)
class Split:
    """Both parts, each in the order of the records; n_groups: of relatives that stay together."""

    train: list[RoleRecord]
    validation: list[RoleRecord]
    n_groups: int


def split_records(records: Sequence[RoleRecord], share: float, seed: int, near: float = NEAR) -> Split:
    """Divides by groups: of one concept's variations (the fact `group`), and of questions that are nearly the same.

    share: of the records that go to training, from each domain alike. What goes where depends on the seed and on the
    groups alone, not on the order of the records. Raises DatasetError where there are too few groups.
    """
    groups = _groups(records, near)
    members: dict[int, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        members[group].append(number)
    if len(members) < 2:
        raise DatasetError(
            f"all {len(records)} examples ask nearly the same, so none can be held out: add other concepts"
        )
    domains: dict[str, list[list[int]]] = defaultdict(list)
    for numbers in members.values():
        domains[min(str(records[i].facts.get("domain", "")) for i in numbers)].append(numbers)
    held_out: set[int] = set()
    for domain in sorted(domains):
        held_out |= _held_out(domains[domain], records, 1.0 - share, seed)
    if not held_out or len(held_out) == len(records):
        ordered = sorted(members.values(), key=lambda numbers: _rank(records, numbers, seed))
        held_out = set(ordered[0] if share < 1 else ())
    train = [record for i, record in enumerate(records) if i not in held_out]
    return Split(train, [record for i, record in enumerate(records) if i in held_out], len(members))


def _groups(records: Sequence[RoleRecord], near: float) -> list[int]:
    """For each record the smallest number among its relatives."""
    parents = clusters([record.asked for record in records], near)
    by_name: dict[str, int] = {}
    for i, record in enumerate(records):
        name = record.facts.get("group")
        if name is not None:
            other = by_name.setdefault(str(name), parents[i])
            one, two = sorted((other, parents[i]))
            if one != two:
                parents = [one if parent == two else parent for parent in parents]
                by_name = {key: one if group == two else group for key, group in by_name.items()}
    return parents


def _held_out(groups: list[list[int]], records: Sequence[RoleRecord], share: float, seed: int) -> set[int]:
    """Whole groups of one domain, in an order drawn by the seed, until they have about their share."""
    wanted = share * sum(map(len, groups))
    chosen: set[int] = set()
    for numbers in sorted(groups, key=lambda numbers: _rank(records, numbers, seed)):
        if len(chosen) + len(numbers) / 2 > wanted:
            break
        chosen |= set(numbers)
    return chosen


def _rank(records: Sequence[RoleRecord], numbers: list[int], seed: int) -> str:
    first = min(normalized(records[i].asked) for i in numbers)
    return hashlib.sha256(f"{seed}\n{first}".encode()).hexdigest()
