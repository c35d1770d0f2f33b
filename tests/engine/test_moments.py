"""AdamW with moments in 8 bits: the map, the blocks and whole steps against NumPy, and what the state takes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from cpuft.engine import Engine
from cpuft.errors import ModelError

from .comparison import batch, distance, open_case, step
from .golden import CASES, OptimizerSpec
from .random_model import ModelSpec

ModelOf = Callable[[ModelSpec], Path]
Precision = Literal["f32", "8bit"]
DoubleArray = npt.NDArray[np.float64]

BLOCK = 256
CASE = CASES["llama-mistral"]


# ---- The reference -----------------------------------------------------------------------------------------------


def decode(bits: str) -> float:
    """What a code without its sign means: zeros for the decade, a one, then the number of a cell of (0.1, 1).

    Dettmers et al. 2022, arXiv:2110.02861, section 1.3; cells are represented by their midpoints.
    """
    n_zeros = bits.index("1")
    fraction = bits[n_zeros + 1 :]
    cell = int(fraction, 2) if fraction else 0
    return float(10.0**-n_zeros * (0.1 + 0.9 * (cell + 0.5) / 2 ** len(fraction)))


def dynamic_map(*, signed: bool) -> DoubleArray:
    """The 256 values in ascending order. Without a sign its bit goes to the fraction (section 2.2)."""
    if signed:
        magnitudes = [decode(f"{code:07b}") for code in range(1, 128)]
        values = [-m for m in magnitudes] + magnitudes
    else:  # seven bits say zeros, one and fraction; the eighth always belongs to the fraction
        values = [decode(f"{code:08b}") for code in range(2, 256)]
    return np.array(sorted([*values, 0.0, 1.0]))


SIGNED, UNSIGNED = dynamic_map(signed=True), dynamic_map(signed=False)


def nearest(values: DoubleArray, x: DoubleArray) -> npt.NDArray[np.int64]:
    """The codes of the values nearest to x; without a sign only 0 becomes 0."""
    codes = np.abs(values - x[:, None]).argmin(axis=1)
    return codes if values[0] < 0 else np.where((x > 0) & (codes == 0), 1, codes)


def blocks(engine: Engine) -> list[slice]:
    """Where the blocks of 256 parameters lie, each in one tensor."""
    ends = [tensor.offset + tensor.shape[0] * tensor.shape[1] for tensor in engine.adapter_tensors]
    return [
        slice(start, min(start + BLOCK, end))
        for tensor, end in zip(engine.adapter_tensors, ends, strict=True)
        for start in range(tensor.offset, end, BLOCK)
    ]


def quantized(values: DoubleArray, x: DoubleArray, parts: list[slice]) -> tuple[DoubleArray, npt.NDArray[np.int64]]:
    """The scale of each block and the code of each value."""
    scales = np.array([np.abs(x[part]).max() for part in parts])
    codes = [nearest(values, x[part] / (scale or 1.0)) for part, scale in zip(parts, scales, strict=True)]
    return scales, np.concatenate(codes)


class State:
    """The engine's 8-bit state, taken apart as cpuft_optimizer_state lays it out."""

    def __init__(self, engine: Engine) -> None:
        n, parts = engine.parameters.size, blocks(engine)
        raw = engine.optimizer_state
        self.scales = raw[: 8 * len(parts)].view(np.float32).reshape(2, -1).astype(np.float64)
        self.codes = raw[8 * len(parts) :].reshape(2, n).astype(np.int64)
        self.parts = parts

    def moments(self) -> tuple[DoubleArray, DoubleArray]:
        """First and second moments as values."""
        sizes = [part.stop - part.start for part in self.parts]
        first, second = (np.repeat(scales, sizes) for scales in self.scales)
        return first * SIGNED[self.codes[0]], second * UNSIGNED[self.codes[1]]


# ---- Tests -------------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(model_of: ModelOf) -> Iterator[Engine]:
    """An engine with 8-bit moments."""
    with open_case(model_of(CASE.model), CASE, moments="8bit") as engine:
        yield engine


def set_gradient(engine: Engine, mean: DoubleArray) -> None:
    """Makes `mean` the gradient that the next step follows."""
    _, n_supervised = engine.forward_backward(batch(CASE.examples()))
    engine.gradients[:] = mean * n_supervised


def test_the_map_is_the_papers(engine: Engine) -> None:
    """A block that holds the 256 values of a map has the codes 0 to 255; what the map means is read from the bits."""
    for values in (SIGNED, UNSIGNED):
        assert (np.diff(values) > 0).all()
        assert {0.0, 1.0} <= set(values)
    assert (SIGNED.size, UNSIGNED.size) == (256, 256)
    part = next(part for part in blocks(engine) if part.stop - part.start == BLOCK)
    for index, (values, gradient) in enumerate(((SIGNED, SIGNED), (UNSIGNED, np.sqrt(UNSIGNED)))):
        mean = np.zeros(engine.parameters.size)
        mean[part] = gradient
        set_gradient(engine, mean)
        engine.step(step=1, learning_rate=1e-3, beta1=0.0, beta2=0.0)  # the moments are the gradient and its square
        state = State(engine)
        assert state.codes[index][part].tolist() == list(range(256))
        assert distance(state.moments()[index][part], values) < 1e-6


@pytest.mark.parametrize(("values", "cells"), [(SIGNED, 64), (UNSIGNED, 128)], ids=["signed", "unsigned"])
def test_the_error_in_each_decade(values: DoubleArray, cells: int, engine: Engine) -> None:
    """Half a cell at most: 0.45 / 64 of the decade below 1, of the next 0.45 / 32, and so on; without a sign half."""
    index = 0 if values is SIGNED else 1
    for decade in range(7):
        x = np.geomspace(10.0**-decade, 0.1001 * 10.0**-decade, engine.parameters.size)
        x[[part.start for part in blocks(engine)]] = 1.0  # each block's scale
        set_gradient(engine, x if index == 0 else np.sqrt(x))
        engine.step(step=1, learning_rate=0.0, beta1=0.0, beta2=0.0)
        error = np.abs(State(engine).moments()[index] - x)
        half_cell = 0.45 * 10.0**-decade * 2**decade / cells
        assert error.max() <= half_cell * (1 + 1e-5)
        assert error.max() >= 0.9 * half_cell  # the bound is no wider than the map


def test_a_step_is_adamw_between_quantized_moments(engine: Engine) -> None:
    """Parameters and state after each of four steps, from the state that the step before has left."""
    settings = OptimizerSpec(max_grad_norm=0.0)
    assert len({part.stop - part.start for part in blocks(engine)}) > 1, "the case must have shorter blocks, too"
    for number in (1, 2, 3, 4):
        parameters, before = engine.parameters.astype(np.float64), State(engine)
        first, second = before.moments()
        _, n_supervised = engine.forward_backward(batch(CASE.step_examples(number)))
        mean = engine.gradients.astype(np.float64) / n_supervised
        step(engine, number, settings)
        first = settings.beta1 * first + (1 - settings.beta1) * mean
        second = settings.beta2 * second + (1 - settings.beta2) * mean**2
        update = first / (1 - settings.beta1**number)
        update /= np.sqrt(second / (1 - settings.beta2**number)) + settings.epsilon
        parameters -= settings.learning_rate * (settings.weight_decay * parameters + update)
        assert distance(engine.parameters, parameters) < 1e-6
        after = State(engine)
        for index, (values, moment) in enumerate(((SIGNED, first), (UNSIGNED, second))):
            scales, codes = quantized(values, moment, after.parts)
            assert distance(after.scales[index], scales) < 1e-6
            different = after.codes[index] - codes
            # Rounding in float32 moves a value over a threshold now and then: to the neighbour, not further.
            assert np.abs(different).max() <= 1
            assert (different != 0).mean() < 1e-3


def test_a_small_second_moment_does_not_make_a_large_step(engine: Engine) -> None:
    """Next to a gradient of 1 the square of 1e-4 is below the map. Rounded to 0, it would blow the next step up."""
    small = np.full(engine.parameters.size, 1e-4)
    for part in blocks(engine):
        small[part.start] = 1.0
    set_gradient(engine, small)
    engine.step(step=1, learning_rate=1e-3)
    start = engine.parameters.copy()
    set_gradient(engine, np.zeros_like(small))
    engine.step(step=2, learning_rate=1e-3)
    assert np.abs(engine.parameters - start).max() < 1e-3


@pytest.mark.parametrize(("moments", "least", "most"), [("f32", 8.0, 8.0), ("8bit", 2.03, 2.04)])
def test_what_the_state_takes(moments: Precision, least: float, most: float, model_of: ModelOf) -> None:
    """Bytes a parameter: exactly two codes and two scales a block, which are 2.03 where tensors are large."""
    with Engine(model_of(CASE.model), threads=1) as engine:
        engine.adapter_init(rank=64, alpha=64.0, moments=moments)
        n, size = engine.parameters.size, engine.optimizer_state.size
        assert size == (8 * n if moments == "f32" else 2 * n + 8 * len(blocks(engine)))
        assert least <= size / n <= most
        assert not engine.optimizer_state.flags.writeable


@pytest.mark.parametrize("moments", ["f32", "8bit"])
def test_a_restored_state_goes_on_as_if_it_had_stayed(moments: Precision, model_of: ModelOf) -> None:
    def two_steps(engine: Engine, first: int) -> bytes:
        for number in (first, first + 1):
            engine.forward_backward(batch(CASE.step_examples(number)))
            step(engine, number, CASE.optimizer)
        return engine.parameters.tobytes() + engine.optimizer_state.tobytes()

    with open_case(model_of(CASE.model), CASE, moments=moments) as engine:
        two_steps(engine, 1)
        parameters, state = engine.parameters.copy(), engine.optimizer_state.copy()
        whole = two_steps(engine, 3)
    with open_case(model_of(CASE.model), CASE, moments=moments) as engine:
        engine.parameters[:] = parameters
        engine.set_optimizer_state(state)
        assert two_steps(engine, 3) == whole


def test_states_of_others_are_refused(engine: Engine) -> None:
    state = engine.optimizer_state.copy()
    for other in (state[:-1], np.zeros(8 * engine.parameters.size, np.uint8), state[:0]):
        with pytest.raises(ModelError, match=f"has {other.size} bytes; expected {state.size}"):
            engine.set_optimizer_state(other)
    for bad in (np.nan, np.inf, -1.0):
        spoiled = state.copy()
        spoiled[:4] = np.frombuffer(np.float32(bad).tobytes(), np.uint8)
        with pytest.raises(ModelError, match="no step of AdamW leaves"):
            engine.set_optimizer_state(spoiled)
    assert engine.optimizer_state.tobytes() == state.tobytes()
