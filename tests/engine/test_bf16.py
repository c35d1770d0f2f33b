"""bfloat16 products with base weights: a gradient in the direction of float32's, and a training that learns as much."""

from collections.abc import Callable
from pathlib import Path

import pytest

from . import golden
from .comparison import ISAS, batch, cosine, depth, distance, gradients, open_case, step
from .golden import CASES
from .random_model import ModelSpec

ModelOf = Callable[[ModelSpec], Path]
pytestmark = pytest.mark.skipif(ISAS[-1] != "avx512bf16", reason="this CPU multiplies no bfloat16")


def test_gradient_direction(shallow_case_name: str, model_of: ModelOf) -> None:
    case, expected = CASES[shallow_case_name], golden.load(shallow_case_name)
    with open_case(model_of(case.model), case, isa="avx512bf16", precision="bf16") as engine:
        assert engine.facts["precision"] == "bf16"
        loss, _ = engine.forward_backward(batch(case.examples()))
        got = gradients(engine)
    assert loss == pytest.approx(expected.loss, rel=5e-3 * depth(case))
    assert loss != pytest.approx(expected.loss, rel=1e-8), "this was float32"
    for name, wanted in expected.gradients.items():
        assert cosine(got[name], wanted) > 1 - 0.001 * depth(case) ** 2, name
        # A rounding to 8 bits of each factor moves a long product by about 2^-9 sqrt(2); layers add up.
        assert distance(got[name], wanted) < 0.05 * depth(case), name


def test_ten_steps(shallow_case_name: str, model_of: ModelOf) -> None:
    case, expected = CASES[shallow_case_name], golden.load(shallow_case_name)
    means = []
    with open_case(model_of(case.model), case, isa="avx512bf16", precision="bf16") as engine:
        for number in range(1, case.n_steps + 1):
            loss, n_supervised = engine.forward_backward(batch(case.step_examples(number)))
            means.append(loss / n_supervised)
            step(engine, number, case.optimizer)
    assert means == pytest.approx(expected.step_losses, rel=0.03 * depth(case))


def test_native_products_only_where_they_are_fast(model_of: ModelOf) -> None:
    """Intel's vdpbf16ps has half the rate of float32: there bf16 narrows what is kept, and multiplies float32."""
    from cpuft.engine import Engine

    intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    with Engine(model_of(CASES["qwen2"].model), precision="bf16") as engine:
        assert ("bf16" in engine.facts["kernel"]) == (not intel)
