"""On real models and real text, each precision's gradient is float32's: within what benchmarks/RESULTS.md has."""

import shutil
from collections.abc import Callable, Iterator
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

SKIPPED = {models.GEMMA: 0, models.CODER: 1}  # of the benchmark's texts, the longer one for the larger model
TRAINED = 8  # steps before the second comparison; benchmarks/RESULTS.md has 50


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


def few(arms: list[Arm]) -> list[Arm]:
    """Of arms with the same kind of products the first, which is the fastest."""
    return list({bars_of(arm): arm for arm in reversed(arms)}.values())


# Each arm in each state, a model and the steps that its adapter was trained: every kernel table on the smallest model,
# one of each kind on the other.
GEMMA, CODER, TRAINED_CODER = (models.GEMMA, 0), (models.CODER, 0), (models.CODER, TRAINED)
CASES = [(GEMMA, arm) for arm in kernel_arms()]
CASES += [(state, arm) for state in (CODER, TRAINED_CODER) for arm in few(kernel_arms())]


@dataclass(frozen=True)
class Baseline:
    """What float32 gives: the settings, with the adapter's folder, the figures and the gradient."""

    settings: Settings
    figures: dict[str, Any]
    gradient: FloatArray


BaselineOf = Callable[[tuple[str, int]], Baseline]


@pytest.fixture(scope="module")
def baseline_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaselineOf]:
    """(model, steps of training) -> its baseline, made once: a fixture with parameters would be made for each arm."""
    known: dict[tuple[str, int], Baseline] = {}

    def made(state: tuple[str, int]) -> Baseline:
        if state not in known:
            known[state] = _baseline(*state, tmp_path_factory.mktemp("precision"))
        return known[state]

    yield made
    for one in known.values():
        shutil.rmtree(one.settings.folder)


def _baseline(name: str, trained: int, folder: Path) -> Baseline:
    texts = TEXTS.read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "texts.jsonl").write_text("".join(texts[SKIPPED[name] :]), encoding="utf-8")
    settings = Settings(str(models.require(name)), str(folder / "texts.jsonl"), str(folder), threads=models.threads())
    if trained:
        measure(replace(settings, trained=trained))
    figures = measure(replace(settings, precision=BASELINE.precision, trained=None if trained else 0))
    return Baseline(settings, figures, np.load(folder / GRADIENT))


@pytest.mark.real
@pytest.mark.parametrize(("state", "arm"), CASES, ids=str)
def test_gradient_is_float32s(state: tuple[str, int], arm: Arm, baseline_of: BaselineOf) -> None:
    baseline = baseline_of(state)
    settings, wanted_figures, wanted = baseline.settings, baseline.figures, baseline.gradient
    figures = measure(replace(settings, isa=arm.isa, precision=arm.precision))
    found, bars = distance(figures["tensors"], np.load(Path(settings.folder) / GRADIENT), wanted), bars_of(arm)
    assert figures["loss"] == pytest.approx(wanted_figures["loss"], rel=bars.loss)
    assert found.cosine >= bars.cosine
    assert found.worst >= bars.worst, found.worst_tensor
    assert found.length == pytest.approx(1.0, abs=bars.length)
    assert found.cosine < 1.0, "this was float32"
