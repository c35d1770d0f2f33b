"""Base model + LoRA adapter -> one GGUF of any type, and plain re-quantizing, which is a merge without an adapter.

Tensor by tensor and in chunks of rows: dequantize, add scale * B A in float32, quantize. A tensor that keeps its type
and has no adapter is copied byte for byte. Metadata and tokenizer keep their bytes and their order.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from cpuft.adapters.adapter import Adapter, check_base, read_adapter
from cpuft.engine import dequantize, quantize
from cpuft.errors import ConfigError, ModelError
from cpuft.gguf import writer
from cpuft.gguf.mixture import Mixture, mixture
from cpuft.gguf.reader import Field, Gguf, Tensor, TensorType, read_gguf
from cpuft.gguf.writer import TensorInfo
from cpuft.machine.disk import require_space
from cpuft.machine.files import atomic_write, require_place
from cpuft.machine.progress import Progress, silent
from cpuft.release.importance import FloatArray, ImportanceMatrix

KEEP = "keep"
# Values in flight: 16 MiB as float32, large enough to keep all threads busy, small against any model.
CHUNK_VALUES = 4 << 20
# ggml cannot quantize to these, or produces garbage, without knowing which columns matter.
NEEDS_IMPORTANCE = frozenset({"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs"})
QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION


@dataclass(frozen=True)
class MergeReport:
    """What a merge did."""

    output: Path
    base_bytes: int
    output_bytes: int
    n_tensors: int
    n_adapted: int
    n_copied: int
    types: dict[str, int]  # type name -> number of tensors
    seconds: float


@dataclass(frozen=True)
class _Adapted:
    """The adapter of a merge and what is noted about it in the merged file."""

    adapter: Adapter
    path: Path
    weights: frozenset[str]  # those whose B is not zero: the others change nothing and keep their bytes


@dataclass(frozen=True)
class _Change:
    """What becomes of one tensor."""

    type: TensorType
    adapted: _Adapted | None
    importance: FloatArray | None  # [matrices, columns]
    threads: int


def merge(
    base_path: Path,
    output: Path,
    *,
    adapter_path: Path | None = None,
    file_type: str = KEEP,
    imatrix: ImportanceMatrix | None = None,
    threads: int = 0,
    progress: Progress = silent,
) -> MergeReport:
    """Writes base + adapter to `output`, whole or not at all.

    file_type: "keep" (each tensor's type stays) or a name that llama-quantize knows, such as "q4_k_m".
    imatrix:   how much each column matters, which quantizing then weighs; some types cannot do without.
    Raises ModelError, AdapterError, ConfigError (an impossible type), ResourceError (the disk is full).
    """
    began = time.monotonic()
    base = _read_base(base_path)
    inputs = [base_path, adapter_path, None if imatrix is None else imatrix.path]
    refuse_overwriting(output, [path for path in inputs if path is not None])
    adapted = None if adapter_path is None else _read_adapted(adapter_path, base)
    chosen, infos = _chosen(base, file_type, imatrix)
    weights = frozenset() if adapted is None else adapted.weights
    quantized = [info for info in infos if info.name in weights or info.type != base.tensors[info.name].type]
    importance = {} if imatrix is None else {info.name: imatrix.of(base.tensors[info.name]) for info in quantized}
    _refuse_missing_importance(base, quantized, importance, chosen)
    _require_space(output, _size(base, infos))
    done, total = 0, base.weight_bytes
    with atomic_write(output) as temporary, temporary.open("wb") as target, base_path.open("rb") as source:
        writer.write_header(target, _fields(base, adapted, chosen, imatrix), infos, base.alignment)
        for info in infos:
            tensor, part = base.tensors[info.name], adapted if info.name in weights else None
            change = _Change(info.type, part, importance.get(info.name), threads)
            for source_bytes, data in _output_chunks(base, tensor, change, source):
                target.write(data.data)
                done += source_bytes
                progress(output.name, done, total)
            writer.pad(target, info.size, base.alignment)
    return MergeReport(
        output=output,
        base_bytes=base.file_size,
        output_bytes=output.stat().st_size,
        n_tensors=len(infos),
        n_adapted=len(weights),
        n_copied=sum(info.type == base.tensors[info.name].type and info.name not in weights for info in infos),
        types=dict(Counter(info.type.name for info in infos)),
        seconds=time.monotonic() - began,
    )


def check_merge(
    base_path: Path,
    output: Path,
    *,
    adapter_path: Path | None = None,
    file_type: str = KEEP,
    others: Iterable[Path] = (),
) -> None:
    """Raises what `merge` would, as far as that is known before there is an importance matrix.

    others: further files that the output must not take the place of.
    """
    base = _read_base(base_path)
    refuse_overwriting(output, [base_path, *others] if adapter_path is None else [base_path, adapter_path, *others])
    if adapter_path is not None:
        _read_adapted(adapter_path, base)
    _require_space(output, merged_size(base, file_type))


def merged_size(base: Gguf, file_type: str, imatrix: ImportanceMatrix | None = None) -> int:
    """About how many bytes a merge into a type writes, at least."""
    return _size(base, _chosen(base, file_type, imatrix)[1])


def needs_importance(base: Gguf, file_type: str) -> bool:
    """Whether a model cannot be quantized to a type without an importance matrix. Raises ConfigError: no such type."""
    return mixture(base, file_type).needs_importance


def _chosen(base: Gguf, file_type: str, imatrix: ImportanceMatrix | None) -> tuple[Mixture | None, list[TensorInfo]]:
    """The mixture of a file type, None where each tensor keeps its own, and the tensors as they will be."""
    chosen = None if file_type == KEEP else mixture(base, file_type, None if imatrix is None else imatrix.path)
    types = {name: tensor.type for name, tensor in base.tensors.items()} if chosen is None else chosen.types
    return chosen, [TensorInfo(name, tensor.shape, types[name]) for name, tensor in base.tensors.items()]


def _size(base: Gguf, infos: list[TensorInfo]) -> int:
    return sum(info.size + base.alignment for info in infos)


def _read_base(path: Path) -> Gguf:
    base = read_gguf(path)
    if base.get("general.type", "model") != "model":
        raise ModelError(f"{path}: general.type is {base.get('general.type')!r}, expected a model")
    if not base.tensors:
        raise ModelError(f"{path}: the file has no weights, only a vocabulary: give the whole model")
    return base


def _read_adapted(path: Path, base: Gguf) -> _Adapted:
    adapter = read_adapter(path)
    check_base(adapter, base, path)
    return _Adapted(adapter, path, frozenset(w for w in adapter.weights if adapter.pair(w)[1].any()))


def refuse_overwriting(output: Path, inputs: Iterable[Path]) -> None:
    """Raises ConfigError unless a merged file can be written to `output` without harm."""
    require_place(output, "the merged model", inputs)


def _refuse_missing_importance(
    base: Gguf, quantized: list[TensorInfo], importance: dict[str, FloatArray | None], chosen: Mixture | None
) -> None:
    name = KEEP if chosen is None else chosen.name
    needing = NEEDS_IMPORTANCE | ({"q2_k"} if name == "q2_k_s" else set())
    lacking = [i for i in quantized if i.type.name in needing and importance.get(i.name) is None and _is_layer(i.name)]
    if lacking and importance:
        raise ConfigError(
            f"{base.path}: the importance matrix says nothing of {lacking[0].name}, which {name} cannot be made "
            "without: compute it from a longer text, or choose a type such as q4_k_m"
        )
    if lacking or (chosen is not None and chosen.needs_importance):
        raise ConfigError(
            f"{base.path}: the type {name} needs an importance matrix{f' for {lacking[0].name}' if lacking else ''}: "
            "give --imatrix with a file of llama-imatrix or with training data to compute it from, or choose a type "
            "such as q4_k_m, q5_k_m or q8_0"
        )


def _is_layer(name: str) -> bool:
    """Whether llama-imatrix can measure a weight: the embedding and the head are quantized without."""
    return name not in ("token_embd.weight", "output.weight")


def _require_space(output: Path, n_bytes: int) -> None:
    require_space(output, n_bytes, "the merged model", "free some, or give --output on another disk")


def _fields(
    base: Gguf, adapted: _Adapted | None, chosen: Mixture | None, imatrix: ImportanceMatrix | None
) -> list[Field]:
    """The base's metadata in their order, the file type brought up to date, and a note of each merge so far."""
    fields = dict(base.fields)
    if chosen is not None:
        fields["general.file_type"] = writer.u32("general.file_type", chosen.number)
        fields["general.quantization_version"] = writer.u32("general.quantization_version", QUANTIZATION_VERSION)
    if imatrix is not None:
        fields.update({note.key: note for note in imatrix.notes()})
    if adapted is not None:
        count = base.integer("general.cpuft.merge_count", 0)
        prefix = f"general.cpuft.merge.{count}."
        scales = sorted({adapted.adapter.scale(weight) for weight in adapted.adapter.weights})
        notes = [
            writer.u32("general.cpuft.merge_count", count + 1),
            writer.text(prefix + "base_name", str(base.get("general.name", base.path.stem))),
            writer.u32(prefix + "base_file_type", base.integer("general.file_type", 0)),
            writer.text(prefix + "adapter_sha256", hashlib.sha256(adapted.path.read_bytes()).hexdigest()),
            writer.f32(prefix + "adapter_scale", scales[-1]),
            writer.u32(prefix + "adapter_rank", adapted.adapter.rank),
        ]
        fields.update({note.key: note for note in notes})
    return list(fields.values())


def _output_chunks(
    base: Gguf, tensor: Tensor, change: _Change, source: BinaryIO
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """(bytes read, bytes to write) for each chunk of rows of a tensor.

    Where type or values change: dequantizes, adds the adapter's delta, and quantizes. Else: as it is.
    """
    adapted = change.adapted
    for first, count in base.row_chunks(tensor, CHUNK_VALUES):
        data = base.read_rows(source, tensor, first, count)
        if change.type == tensor.type and adapted is None:
            yield data.nbytes, data
            continue
        values = dequantize(tensor.type.id, data, count, tensor.columns, change.threads)
        if adapted is not None:
            values += adapted.adapter.delta(tensor.name, first, count)
        if not _finite(values):
            cause = "" if adapted is None else f" once {adapted.path} is merged in"
            raise ModelError(f"{base.path}: tensor {tensor.name} holds values that are not finite{cause}")
        try:
            quantized = _quantize(values, first, tensor, change)
        except ModelError as error:
            raise ModelError(f"{base.path}: tensor {tensor.name}: {error}: choose another type") from error
        yield data.nbytes, quantized


def _quantize(values: FloatArray, first: int, tensor: Tensor, change: _Change) -> npt.NDArray[np.uint8]:
    """The bytes of a tensor's rows from `first` on; the rows of each expert are weighed with its own importance."""
    if change.importance is None:
        return quantize(change.type.id, values, threads=change.threads)
    height = tensor.rows // len(change.importance)
    parts = []
    for start in sorted({0, *range(-first % height, len(values), height)}):
        end = min(len(values), start + height - (first + start) % height)
        importance = change.importance[(first + start) // height]
        parts.append(quantize(change.type.id, values[start:end], importance, change.threads))
    return np.concatenate(parts)


def _finite(values: npt.NDArray[np.float32]) -> bool:
    """Whether all values are finite, without an array of truth values: minimum and maximum hand a NaN on."""
    return bool(np.isfinite(values.min()) and np.isfinite(values.max()))
