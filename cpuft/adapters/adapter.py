"""LoRA adapters as llama.cpp reads them: a GGUF file with a pair of matrices for each adapted weight.

For a weight W (n_out x n_in) the file holds W.lora_a (rank x n_in) and W.lora_b (n_out x rank), and the adapted layer
computes W x + scale * B A x with scale = alpha / rank (Hu et al. 2021, https://arxiv.org/abs/2106.09685). As in
llama.cpp, the rank is that of the pair, and alpha = 0 means a scale of 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cpuft.adapters.place import adapter_at
from cpuft.engine import dequantize
from cpuft.errors import AdapterError, ModelError, excerpt, list_faults
from cpuft.gguf import writer
from cpuft.gguf.reader import TYPES_BY_NAME, Gguf, Tensor, read_gguf
from cpuft.machine.files import atomic_write

FloatArray = npt.NDArray[np.float32]
SUFFIX_A, SUFFIX_B = ".lora_a", ".lora_b"


@dataclass(frozen=True)
class Adapter:
    """A checked adapter: every pair is complete and its two ranks agree."""

    rank: int  # the largest of its pairs; nearly always that of all of them
    alpha: float
    architecture: str
    tensors: dict[str, FloatArray]  # "blk.0.attn_q.weight.lora_a" -> (rows, columns)
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        pairs: Mapping[str, Mapping[str, FloatArray]],
        alpha: float,
        architecture: str,
        metadata: Mapping[str, Any],
    ) -> "Adapter":
        """The adapter of pairs "blk.0.attn_q.weight" -> {"A": (rank, n_in), "B": (n_out, rank)}, in their order."""
        tensors: dict[str, FloatArray] = {}
        for weight, pair in pairs.items():
            tensors |= {weight + SUFFIX_A: pair["A"], weight + SUFFIX_B: pair["B"]}
        return cls(max(pair["A"].shape[0] for pair in pairs.values()), alpha, architecture, tensors, dict(metadata))

    @property
    def weights(self) -> list[str]:
        """The names of the adapted weights, in the order of the file."""
        return [name.removesuffix(SUFFIX_A) for name in self.tensors if name.endswith(SUFFIX_A)]

    def pair(self, weight: str) -> tuple[FloatArray, FloatArray]:
        """(A, B) of a weight: (rank, n_in) and (n_out, rank)."""
        return self.tensors[weight + SUFFIX_A], self.tensors[weight + SUFFIX_B]

    def scale(self, weight: str) -> float:
        """What B A is multiplied with."""
        return self.alpha / self.tensors[weight + SUFFIX_A].shape[0] if self.alpha else 1.0

    def delta(self, weight: str, first: int, count: int) -> FloatArray:
        """Rows [first, first + count) of scale * B A, (count, n_in): what a merge adds to the weight."""
        a, b = self.pair(weight)
        scaled: FloatArray = np.multiply(b[first : first + count], self.scale(weight), dtype=np.float32)
        return scaled @ a

    @property
    def n_params(self) -> int:
        """How many values the adapter has."""
        return sum(values.size for values in self.tensors.values())


def read_adapter(path: Path) -> Adapter:
    """Reads and checks an adapter, that of a run where its folder is given.

    Raises AdapterError, which lists all faults at once.
    """
    path = adapter_at(path)
    if path.is_dir():
        raise AdapterError(
            f"{path}: a folder, expected a GGUF adapter: convert it with `cpuft adapter convert --to gguf`"
        )
    try:
        file = read_gguf(path)
    except ModelError as error:
        raise AdapterError(str(error).replace("GGUF model", "GGUF adapter")) from error
    faults = _header_faults(file) or _tensor_faults({name: t.shape for name, t in file.tensors.items()})
    if faults:
        raise AdapterError(f"{path}: not a LoRA adapter that cpuft can use: {list_faults(faults)}")
    with path.open("rb") as stream:
        tensors = {name: _values(file, stream, tensor) for name, tensor in file.tensors.items()}
    infinite = [name for name, values in tensors.items() if not np.isfinite(values).all()]
    if infinite:
        raise AdapterError(f"{path}: tensors hold values that are not finite: {list_faults(infinite)}")
    rank = max(values.shape[0] for name, values in tensors.items() if name.endswith(SUFFIX_A))
    skipped = ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha")
    metadata = {key: entry.value for key, entry in file.fields.items() if key not in skipped}
    return Adapter(rank, float(file.get("adapter.lora.alpha")), file.architecture, tensors, metadata)


def _values(file: Gguf, stream: BinaryIO, tensor: Tensor) -> FloatArray:
    """A tensor in float32, whatever weight type it has. Raises AdapterError where it has another, such as I32."""
    data = file.read_rows(stream, tensor, 0, tensor.rows)
    try:
        return dequantize(tensor.type.id, data, tensor.rows, tensor.columns).reshape(tensor.shape)
    except ModelError as error:
        raise AdapterError(
            f"{file.path}: {tensor.name}, of type {tensor.type.name}, cannot be read as a matrix of LoRA ({error}): "
            "save it in f32, f16, bf16 or a quantized type"
        ) from error


def write_adapter(
    path: Path,
    tensors: Mapping[str, npt.ArrayLike],
    *,
    alpha: float,
    architecture: str,
    metadata: Mapping[str, str | float] | None = None,
) -> None:
    """Writes an adapter whole or not at all; the same values give the same bytes.

    tensors:  "blk.N.attn_q.weight.lora_a" -> (rank, n_in) and ".lora_b" -> (n_out, rank), stored as F32 in this order.
    metadata: further entries, such as general.name.
    """
    values = {name: np.ascontiguousarray(array, dtype="<f4") for name, array in tensors.items()}
    faults = _tensor_faults({name: array.shape for name, array in values.items()})
    if faults:
        raise AdapterError(f"{path}: this adapter cannot be written: {list_faults(faults)}")
    fields = [
        writer.text("general.architecture", architecture),
        writer.text("general.type", "adapter"),
        writer.text("adapter.type", "lora"),
        writer.f32("adapter.lora.alpha", alpha),
        *(writer.scalar(key, value) for key, value in (metadata or {}).items()),
    ]
    infos = [writer.TensorInfo(name, array.shape, TYPES_BY_NAME["f32"]) for name, array in values.items()]
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        writer.write_header(stream, fields, infos)
        for array in values.values():
            stream.write(array.tobytes())
            writer.pad(stream, array.nbytes)


def check_base(adapter: Adapter, base: Gguf, path: Path) -> None:
    """Raises AdapterError unless the adapter (read from `path`) fits the base model: architecture, names and shapes."""
    if adapter.architecture != base.architecture:
        own, wanted = (excerpt(repr(architecture)) for architecture in (adapter.architecture, base.architecture))
        raise AdapterError(
            f"{path}: the adapter was made for the architecture {own}, but {base.path} is {wanted}: "
            "give the base model that it was trained on"
        )
    faults = []
    for weight in adapter.weights:
        a, b = adapter.pair(weight)
        got = (b.shape[0], a.shape[1])
        tensor = base.tensors.get(weight)
        if tensor is None:
            faults.append(f"{weight} does not exist in the model")
        elif tensor.shape != got:
            faults.append(f"{weight} is {got[0]}x{got[1]}, the model's is {'x'.join(map(str, tensor.shape))}")
    if faults:
        raise AdapterError(
            f"{path}: the adapter was made for another base model than {base.path}: {list_faults(faults)}: "
            "give the base model that it was trained on"
        )


def _header_faults(file: Gguf) -> list[str]:
    faults = []
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        if file.get(key) != wanted:
            faults.append(f"{key} is {file.get(key)!r}, expected {wanted!r}")
    if "adapter.alora.invocation_tokens" in file.fields:
        faults.append("adapter.alora.invocation_tokens is there: it acts after certain tokens only, train one without")
    if not file.architecture:
        faults.append("general.architecture is missing")
    alpha = file.fields.get("adapter.lora.alpha")
    if alpha is None or alpha.type != writer.F32 or not np.isfinite(alpha.value):
        faults.append(f"adapter.lora.alpha is {alpha and alpha.value!r}, expected a finite f32")
    return faults


def _tensor_faults(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What is wrong with an adapter's tensors; at most one fault for each weight."""
    faults = [] if shapes else ["it has no tensors"]
    for name, shape in shapes.items():
        weight = name.removesuffix(SUFFIX_A)
        if name.endswith(SUFFIX_B):
            if name.removesuffix(SUFFIX_B) + SUFFIX_A not in shapes:
                faults.append(f"{name} has no partner {SUFFIX_A}")
        elif weight == name or not weight.endswith(".weight"):
            faults.append(f"tensor {name} is neither ….weight{SUFFIX_A} nor ….weight{SUFFIX_B}")
        elif weight == "token_embd.weight" or len(shape) != 2:  # llama.cpp swaps A and B of the embedding
            faults.append(f"{name} has shape {shape}, expected a matrix of a linear layer")
        elif weight + SUFFIX_B not in shapes:
            faults.append(f"{name} has no partner {SUFFIX_B}")
        elif shapes[weight + SUFFIX_B][1:] != shape[:1]:
            faults.append(f"{weight} has A {shape} and B {shapes[weight + SUFFIX_B]}, whose ranks disagree")
    return faults


def adapter_name(base: Gguf) -> str:
    """What general.name says of an adapter of this base."""
    return f"{base.get('general.name', 'base model')} LoRA"
