"""The gradient is the derivative of the engine's own loss, in random directions through all parameters at once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from cpuft.engine import Engine

from .comparison import batch, open_case, run
from .golden import CASES, Example
from .random_model import FloatArray, ModelSpec

ModelOf = Callable[[ModelSpec], Path]
Policy = Literal["keep", "recompute"]

# A token's loss of a few nats is the end of some thousand float32 operations; this much of it is rounding, not more.
LOSS_NOISE = 64 * 2.0**-24


def loss_at(engine: Engine, parameters: FloatArray, examples: Sequence[Example], keys: Sequence[int] | None) -> float:
    """The loss sum with other parameters; dropout only exists in a training pass."""
    engine.parameters[:] = parameters
    if keys is None:
        return engine.forward(batch(examples))[0]
    return run(engine, examples, keys)[0]


def check_directions(engine: Engine, examples: Sequence[Example], keys: Sequence[int] | None = None) -> None:
    """Compares central differences with the gradient along its own direction and along random mixtures of it."""
    start = engine.parameters.copy()
    loss, gradient = run(engine, examples, keys)
    slope = float(np.linalg.norm(gradient.astype(np.float64)))
    rng = np.random.default_rng(5)
    for share in (0.0, 0.5, 0.9):  # how much of the direction is random; a wholly random one sees noise only
        random = rng.standard_normal(len(start))
        direction = (1 - share) * gradient / slope + share * random / np.linalg.norm(random)
        direction /= np.linalg.norm(direction)
        width = 0.02 * loss / slope  # the loss changes by some percent

        def difference(h: float, along: FloatArray = direction) -> float:
            ahead, behind = ((start + sign * h * along).astype(np.float32) for sign in (1, -1))
            moved = (ahead.astype(np.float64) - behind) @ along  # what float32 made of 2 h
            return (loss_at(engine, ahead, examples, keys) - loss_at(engine, behind, examples, keys)) / float(moved)

        # Richardson: the error of a central difference is c h^2 + O(h^4), so two widths cancel c, and their distance
        # bounds what is left.
        narrow, wide = difference(width), difference(2 * width)
        estimate = (4 * narrow - wide) / 3
        tolerance = abs(wide - narrow) / 3 + LOSS_NOISE * loss / width
        wanted = float(gradient.astype(np.float64) @ direction)
        assert tolerance < 0.05 * slope, "the test would not see an error"
        assert estimate == pytest.approx(wanted, abs=tolerance), share
    engine.parameters[:] = start


@pytest.mark.parametrize("activations", ["keep", "recompute"])
def test_whole_model(shallow_case_name: str, activations: Policy, model_of: ModelOf) -> None:
    case = CASES[shallow_case_name]
    with open_case(model_of(case.model), case) as engine:
        engine.set_activations(activations)
        check_directions(engine, case.examples())


@pytest.mark.parametrize("name", ["qwen2", "phi3"])  # parts of a fused tensor share their masks
@pytest.mark.parametrize("activations", ["keep", "recompute"])
def test_with_dropout(activations: Policy, name: str, model_of: ModelOf) -> None:
    case = CASES[name]
    examples = case.examples()
    with open_case(model_of(case.model), case, dropout=0.3) as engine:
        engine.set_activations(activations)
        check_directions(engine, examples, keys=range(7, 7 + len(examples)))
