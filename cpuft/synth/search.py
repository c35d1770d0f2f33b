"""What a search for a better prompt is told, and what it finds."""

from dataclasses import dataclass
from typing import Literal

from cpuft.backends.generator import PARALLEL, Sampling
from cpuft.synth.program import Program

REFLECTED = 3  # answers that GEPA shows to the model with what is wrong with them
Optimizer = Literal["mipro", "gepa"]


@dataclass(frozen=True)
class Search:
    """How long, and among what, to look.

    candidates: prompts, and sets of examples. trials: pairs of these that are tried. demos: examples in a set, at most.
    constrained: whether the model is held to the role's schema while it is tried.
    """

    optimizer: Optimizer = "mipro"
    candidates: int = 8
    trials: int = 10
    demos: int = 6
    seed: int = 0
    max_tokens: int = Sampling.max_tokens
    constrained: bool = False
    n_parallel: int = PARALLEL

    def requests(self, n_train: int, n_val: int) -> int:
        """About how many answers it takes."""
        tried = (self.trials + 1) * n_val
        if self.optimizer == "gepa":  # before and after each change, on the answers that it was made for
            return tried + self.trials * 2 * REFLECTED
        return tried + self.candidates * (3 + min(self.demos, n_train))


@dataclass(frozen=True)
class Trial:
    """One that was tried, with its mean score on the validation examples, from 0 to 1."""

    number: int
    score: float
    prompt: int | None = None
    demos: int | None = None


@dataclass(frozen=True)
class Found:
    """The best of what was tried, which may be what there was before."""

    program: Program
    trials: tuple[Trial, ...]
