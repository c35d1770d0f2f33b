"""On real models and real text, each precision's gradient is float32's: within what benchmarks/RESULTS.md has."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.precision import Arm
from benchmarks.real import BASELINE, TEXTS, distance, kernel_arms
from benchmarks.real_side import GRADIENT, Settings, measure
from cpuft.engine import FloatArray

from . import models

TRAINED = 12  # steps before the second comparison; benchmarks/RESULTS.md has 50


@dataclass(frozen=True)
class Bars:
    """cosine: of the whole adapter's gradient. worst: of a tensor's. length, loss: how far off, as shares."""

    cosine: float
    worst: float
    length: float
    loss: float


FLOAT_PRODUCTS = Bars(0.9999, 0.95, 0.01, 0.001)
BF16_PRODUCTS = Bars(0.999, 0.95, 0.01, 0.001)
INT8_PRODUCTS = Bars(0.99, 0.9, 0.03, 0.005)


def bars_of(arm: Arm) -> Bars:
    """By what multiplies: only one table has products of bfloat16."""
    if arm.precision == "int8":
        return INT8_PRODUCTS
    return BF16_PRODUCTS if arm.isa == "avx512bf16" else FLOAT_PRODUCTS


@pytest.fixture(scope="module", params=[0, TRAINED], ids=["random", "trained"])
def trained(request: pytest.FixtureRequest) -> int:
    """How many steps the adapter was trained; 0: it is random."""
    return int(request.param)


@pytest.fixture(scope="module", params=[models.GEMMA, models.CODER])
def baseline(
    request: pytest.FixtureRequest, trained: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, dict[str, Any], FloatArray]]:
    """What float32 gives: the settings, with the adapter's file, the figures and the gradient."""
    folder = tmp_path_factory.mktemp("precision")
    settings = Settings(str(models.require(request.param)), str(TEXTS), str(folder), threads=models.threads())
    figures = measure(replace(settings, precision=BASELINE.precision, trained=trained))
    yield settings, figures, np.load(folder / GRADIENT)
    shutil.rmtree(folder)


@pytest.mark.real
@pytest.mark.parametrize("arm", kernel_arms(), ids=str)
def test_gradient_is_float32s(baseline: tuple[Settings, dict[str, Any], FloatArray], arm: Arm) -> None:
    settings, wanted_figures, wanted = baseline
    figures = measure(replace(settings, isa=arm.isa, precision=arm.precision))
    found, bars = distance(figures["tensors"], np.load(Path(settings.folder) / GRADIENT), wanted), bars_of(arm)
    assert figures["loss"] == pytest.approx(wanted_figures["loss"], rel=bars.loss)
    assert found.cosine >= bars.cosine
    assert found.worst >= bars.worst, found.worst_tensor
    assert found.length == pytest.approx(1.0, abs=bars.length)
    assert found.cosine < 1.0, "this was float32"
