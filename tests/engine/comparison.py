"""What the engine's tests share: batches out of examples, engines that hold a case's adapter, distances."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cpuft.engine import Batch, Engine
from cpuft.machine import cpu

from .golden import Case, Example, OptimizerSpec
from .random_model import FloatArray

# Every kernel table that this CPU runs, the slowest first.
ISAS = [isa for isa, needed in reversed(cpu.ENGINE_ISAS.items()) if needed <= cpu.cpu_features()]
# Those that multiply bytes.
INT8_ISAS = [isa for isa in ISAS if isa in ("reference", "avxvnni", "avx512vnni", "avx512bf16")]


def batch(examples: Sequence[Example], dropout_keys: Iterable[int] | None = None) -> Batch:
    """The examples end to end."""
    return Batch(
        tokens=np.concatenate([example.tokens for example in examples]),
        supervised=np.concatenate([example.supervised for example in examples]),
        lengths=np.array([len(example.tokens) for example in examples], np.int64),
        dropout_keys=None if dropout_keys is None else np.array(list(dropout_keys), np.uint64),
    )


def open_case(
    path: Path,
    case: Case,
    *,
    threads: int = 1,
    isa: str | None = None,
    precision: str = "f32",
    dropout: float = 0.0,
    moments: Literal["f32", "8bit"] = "f32",
) -> Engine:
    """An engine on the case's model that holds the case's adapter. The caller closes it.

    One thread: these models are so small that waking another costs more than it does; test_determinism has the others.
    """
    engine = Engine(path, threads=threads, isa=isa, precision=precision)
    engine.adapter_init(rank=case.rank, alpha=case.alpha, dropout=dropout, moments=moments)
    set_adapter(engine, case.adapter())
    return engine


def depth(case: Case) -> float:
    """What limits are multiplied with, chosen for models of up to 3 layers: rounding errors add up over the layers.

    At most 5, for which the limits of float32 are still within what is required of it.
    """
    return min(max(1.0, case.model.n_layer / 3), 5.0)


def set_adapter(engine: Engine, tensors: Mapping[str, FloatArray]) -> None:
    """Writes every tensor of the engine's adapter; KeyError for one that `tensors` lacks."""
    for tensor in engine.adapter_tensors:
        tensor.view(engine.parameters)[:] = tensors[tensor.name]


def gradients(engine: Engine) -> dict[str, FloatArray]:
    """A copy of each tensor's gradient of the loss sum."""
    return {tensor.name: tensor.view(engine.gradients).copy() for tensor in engine.adapter_tensors}


def run(
    engine: Engine, examples: Sequence[Example], dropout_keys: Iterable[int] | None = None
) -> tuple[float, FloatArray]:
    """(loss sum, flat gradient) of one pass alone."""
    engine.zero_gradients()
    loss, _ = engine.forward_backward(batch(examples, dropout_keys))
    flat = engine.gradients.copy()
    engine.zero_gradients()
    return loss, flat


def step(engine: Engine, number: int, settings: OptimizerSpec) -> float:
    """One optimizer step; the gradient's norm before clipping."""
    return engine.step(
        step=number,
        learning_rate=settings.learning_rate,
        beta1=settings.beta1,
        beta2=settings.beta2,
        epsilon=settings.epsilon,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
    )


def distance(got: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """||got - wanted|| / ||wanted||, in float64; infinite where a value is not finite."""
    a, b = got.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    value = float(np.linalg.norm(a - b) / np.linalg.norm(b))
    return value if np.isfinite(value) else float("inf")


def cosine(got: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """The cosine of the angle between two arrays; -1 where a value is not finite."""
    a, b = got.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    value = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return value if np.isfinite(value) else -1.0
