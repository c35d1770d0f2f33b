"""int8 products with base weights: a gradient in the direction of float32's, and ten steps near float32's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from . import golden
from .comparison import INT8_ISAS, batch, cosine, depth, distance, gradients, open_case, step
from .golden import CASES
from .random_model import ModelSpec

ModelOf = Callable[[ModelSpec], Path]

# Each factor of a product is rounded to steps of max / 127: about 0.7 % of a deviation, 1 % for both. In the tiny
# models of the golden cases rows are short, so little of it averages out; layers add up.
MOST_DISTANCE = 0.1
LEAST_COSINE = 0.995


@pytest.mark.parametrize("isa", INT8_ISAS)
def test_gradient_direction(shallow_case_name: str, isa: str, model_of: ModelOf) -> None:
    case, expected = CASES[shallow_case_name], golden.load(shallow_case_name)
    with open_case(model_of(case.model), case, isa=isa, precision="int8") as engine:
        assert (engine.facts["precision"], "int8" in engine.facts["kernel"]) == ("int8", True)
        loss, _ = engine.forward_backward(batch(case.examples()))
        got = gradients(engine)
    assert loss == pytest.approx(expected.loss, rel=1e-2 * depth(case))
    assert loss != pytest.approx(expected.loss, rel=1e-7), "this was float32"
    for name, wanted in expected.gradients.items():
        assert cosine(got[name], wanted) > 1 - (1 - LEAST_COSINE) * depth(case) ** 2, name
        assert distance(got[name], wanted) < MOST_DISTANCE * depth(case), name


def test_ten_steps(shallow_case_name: str, model_of: ModelOf) -> None:
    case, expected = CASES[shallow_case_name], golden.load(shallow_case_name)
    means = []
    with open_case(model_of(case.model), case, isa=INT8_ISAS[-1], precision="int8") as engine:
        for number in range(1, case.n_steps + 1):
            loss, n_supervised = engine.forward_backward(batch(case.step_examples(number)))
            means.append(loss / n_supervised)
            step(engine, number, case.optimizer)
    assert means == pytest.approx(expected.step_losses, rel=0.03 * depth(case))


def test_tables_agree_and_threads_change_nothing(model_of: ModelOf) -> None:
    """All tables round to the same integers; only the order of float32 sums differs."""
    case = CASES["qwen2"]
    results = {}
    for isa in INT8_ISAS:
        for threads in (1, 3):
            with open_case(model_of(case.model), case, isa=isa, threads=threads, precision="int8") as engine:
                engine.forward_backward(batch(case.examples()))
                results[isa, threads] = engine.gradients.copy()
        assert np.array_equal(results[isa, 1], results[isa, 3])
    # Sums that differ in their last bit round to another integer now and then, so tables agree but not to the bit.
    for isa in INT8_ISAS[1:]:
        assert distance(results[isa, 1], results[INT8_ISAS[0], 1].astype(np.float64)) < MOST_DISTANCE / 2
