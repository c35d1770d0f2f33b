"""How much of an adapter's change is left in the merged file, tensor by tensor.

An adapter wants to change a weight W by D = scale * B A. The merged file holds rounded values, so its weight differs
from the base's by another C. Its part along D is s D with s = <C, D> / <D, D>: the share that survived. The rest,
C - s D, is noise that rounding put there.
"""

import math
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from cpuft.adapters.adapter import Adapter
from cpuft.engine import dequantize
from cpuft.errors import ModelError
from cpuft.gguf.reader import Gguf, Tensor
from cpuft.machine.progress import Progress, silent

CHUNK_VALUES = 1 << 20  # of a tensor at a time


@dataclass(frozen=True)
class Survival:
    """What became of the change to one weight, or to all of them together.

    delta:    the norm of the change that the adapter wants.
    survived: the share of it that is in the merged file; 1 where nothing was lost, 0 where it was rounded away.
    noise:    the norm of what else changed, over delta.
    """

    name: str
    type: str  # of the merged weight
    delta: float
    survived: float
    noise: float


@dataclass
class _Sums:
    """Sums over a weight's values, in float64."""

    delta_delta: float = 0.0  # <D, D>
    change_delta: float = 0.0  # <C, D>
    change_change: float = 0.0  # <C, C>

    def add(self, change: npt.NDArray[np.float64], delta: npt.NDArray[np.float64]) -> None:
        self.delta_delta += float(np.vdot(delta, delta))
        self.change_delta += float(np.vdot(change, delta))
        self.change_change += float(np.vdot(change, change))

    def survival(self, name: str, type_: str) -> Survival:
        survived = self.change_delta / self.delta_delta
        noise = max(0.0, self.change_change - survived * self.change_delta)
        return Survival(name, type_, math.sqrt(self.delta_delta), survived, math.sqrt(noise / self.delta_delta))


def survivals(
    base: Gguf, adapter: Adapter, merged: Gguf, progress: Progress = silent
) -> tuple[list[Survival], Survival]:
    """What became of each weight that the adapter changes, in the base's order, and of all of them as one vector.

    progress: hears of the values that are compared.
    Raises ModelError where the merged file has other weights than the base, or the adapter changes nothing.
    """
    require_same_weights(base, merged)
    changed = [tensor for tensor in base.tensors.values() if tensor.name in adapter.weights]
    found, total, n_values = [], _Sums(), sum(tensor.rows * tensor.columns for tensor in changed)
    n_done = 0
    with base.path.open("rb") as before, merged.path.open("rb") as after:
        for tensor in changed:
            target, sums = merged.tensors[tensor.name], _Sums()
            for first, count in base.row_chunks(tensor, CHUNK_VALUES):
                delta = adapter.delta(tensor.name, first, count).astype(np.float64)
                old, new = _values(base, tensor, before, first, count), _values(merged, target, after, first, count)
                change = np.subtract(new, old, dtype=np.float64)
                sums.add(change, delta)
                total.add(change, delta)
                n_done += delta.size
                progress("weights", n_done, n_values, "value")
            if sums.delta_delta > 0:
                found.append(sums.survival(tensor.name, target.type.name))
    if not found:
        raise ModelError(f"{merged.path}: the adapter changes no weight, so there is nothing to find in it")
    types = {survival.type for survival in found}
    return found, total.survival("all", types.pop() if len(types) == 1 else "mixed")


def require_same_weights(base: Gguf, merged: Gguf) -> None:
    """Raises ModelError unless both files hold weights of the same names and shapes."""
    if merged.architecture != base.architecture:
        raise ModelError(
            f"{merged.path}: the architecture is {merged.architecture!r}, expected {base.architecture!r} as in "
            f"{base.path}: give a file that was merged from this base"
        )
    shapes, others = ({tensor.name: tensor.shape for tensor in file.tensors.values()} for file in (base, merged))
    different = sorted(name for name in shapes.keys() | others.keys() if shapes.get(name) != others.get(name))
    if different:
        raise ModelError(
            f"{merged.path}: {different[0]} differs in shape from that of {base.path} or is in one file only: "
            "give a file that was merged from this base"
        )


def _values(file: Gguf, tensor: Tensor, stream: BinaryIO, first: int, count: int) -> npt.NDArray[np.float32]:
    data = file.read_rows(stream, tensor, first, count)
    return dequantize(tensor.type.id, data, count, tensor.columns)
