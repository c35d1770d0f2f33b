"""What a model is worth on examples that no model wrote, and whether it has seen them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpuft.evaluate.benchmark import Benchmark, Case
from cpuft.evaluate.comparison import Mean, mean_of
from cpuft.evaluate.pair import means
from cpuft.roles import Role
from cpuft.synth.duplicates import NearTexts
from cpuft.synth.records import RoleRecord, read_records

GO, NO_GO, UNSURE = "go", "no-go", "not enough examples to tell"
MIN_SCORE = 0.80  # the specification's, 8.4.3


@dataclass(frozen=True)
class Generalization:
    """The score of held-out originals beside the bound that it must reach.

    seen: examples that the model, or one like them, was trained on; they are left out. verdict: one of GO, NO_GO and
    UNSURE, where the bound is inside the interval.
    """

    score: Mean
    bound: float
    n_examples: int
    seen: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """By the interval, not by its middle."""
        if self.score.low >= self.bound:
            return GO
        return NO_GO if self.score.high < self.bound else UNSURE

    def facts(self) -> dict[str, Any]:
        """The section "original" of a result."""
        return {
            "score": self.score.facts(),
            "bound": self.bound,
            "verdict": self.verdict,
            "n_examples": self.n_examples,
            "seen": list(self.seen),
        }


def generalization(
    answered: Sequence[Benchmark], seen: Sequence[Case] = (), bound: float = MIN_SCORE
) -> Generalization:
    """What a model's answers to unseen originals say.

    answered: once for each seed. seen: the originals that were left out.
    """
    left_out = tuple("\n".join(case.inputs.values()) for case in seen)
    scores = means(answered)
    return Generalization(mean_of(scores), bound, len(scores), left_out)


def unseen(cases: Sequence[Case], trained_on: Sequence[Path], role: Role) -> tuple[list[Case], list[Case]]:
    """(those that no training file has, nor one that is nearly the same; the others). Raises DatasetError."""
    records: list[RoleRecord] = [record for path in trained_on for record in read_records(path, role)]
    known = NearTexts(record.asked for record in records)
    fresh: list[Case] = []
    seen: list[Case] = []
    for case in cases:
        (seen if known.has("\n".join(case.inputs.values())) else fresh).append(case)
    return fresh, seen
