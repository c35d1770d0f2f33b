"""What is done with whole adapter files: opened in either format, converted, scaled, combined."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cpuft.adapters.adapter import Adapter, check_base, read_adapter, write_adapter
from cpuft.adapters.combine import Kept, Share, combined, scaled
from cpuft.adapters.peft import read_peft, write_peft
from cpuft.adapters.place import adapter_at
from cpuft.errors import AdapterError, ConfigError
from cpuft.gguf.reader import Gguf, read_gguf
from cpuft.machine.files import require_place
from cpuft.machine.progress import Progress, silent


@dataclass(frozen=True)
class Written:
    """What an adapter that was just written is."""

    output: Path
    rank: int
    alpha: float
    n_weights: int
    n_params: int


def open_adapter(path: Path, base: Gguf | None) -> Adapter:
    """A GGUF adapter, or a PEFT folder as one; checked against the base where that is given.

    Raises AdapterError, also for a PEFT folder without a base.
    """
    path = adapter_at(path)
    if path.is_dir():
        if base is None:
            raise AdapterError(
                f"{path}: a PEFT folder does not say which layers of a GGUF it is for: give the base model with --model"
            )
        return read_peft(path).on(base)
    adapter = read_adapter(path)
    if base is not None:
        check_base(adapter, base, path)
    return adapter


def convert(path: Path, output: Path, to: str, *, model: Path | None = None, base_name: str | None = None) -> Written:
    """Writes a PEFT folder as a GGUF adapter (`to` is "gguf"), or a GGUF adapter as a PEFT folder ("peft").

    model:     the base model, a GGUF file: needed for "gguf", and for "peft" by the architectures of INTERLEAVED.
    base_name: the base model as transformers finds it, noted in the folder.
    Raises AdapterError, ModelError, ConfigError.
    """
    path = adapter_at(path)
    if path.is_dir() == (to == "peft"):
        raise ConfigError(f"{path}: it is a {'PEFT folder' if to == 'peft' else 'file'} already, nothing to convert")
    if base_name is not None and to == "gguf":
        raise ConfigError("--base-name is noted in a PEFT folder only: leave it out with --to gguf")
    base = None if model is None else read_gguf(model)
    adapter = open_adapter(path, base)
    if to == "gguf":
        return _write(output, adapter, [path, model])
    write_peft(output, adapter, base=base, base_model=base_name)
    return _written(output, adapter)


def scale(path: Path, factor: float, output: Path, *, model: Path | None = None) -> tuple[Written, str]:
    """Writes a GGUF adapter with `factor` times the effect of another; also says where the factor went."""
    path = adapter_at(path)
    adapter, where = scaled(open_adapter(path, None if model is None else read_gguf(model)), factor)
    return _write(output, adapter, [path, model]), where


def combine(
    paths: Sequence[Path],
    output: Path,
    *,
    factors: Sequence[float] = (),
    rank: int | None = None,
    model: Path | None = None,
    progress: Progress = silent,
) -> tuple[Written, list[Kept]]:
    """Writes the sum of factor * adapter as a GGUF adapter; see `combined`. No factors: all are 1."""
    if factors and len(factors) != len(paths):
        raise ConfigError(
            f"{len(factors)} weights for {len(paths)} adapters: give one --weight for each, in their order"
        )
    base = None if model is None else read_gguf(model)
    paths = [adapter_at(path) for path in paths]
    given = zip(paths, factors or [1.0] * len(paths), strict=True)
    shares = [Share(str(path), open_adapter(path, base), factor) for path, factor in given]
    adapter, kept = combined(shares, rank=rank, progress=progress)
    return _write(output, adapter, [*paths, model]), kept


def _write(output: Path, adapter: Adapter, inputs: Iterable[Path | None]) -> Written:
    require_place(output, "the adapter", [path for path in inputs if path is not None])
    write_adapter(
        output,
        adapter.tensors,
        alpha=adapter.alpha,
        architecture=adapter.architecture,
        metadata={key: value for key, value in adapter.metadata.items() if isinstance(value, str)},
    )
    return _written(output, adapter)


def _written(output: Path, adapter: Adapter) -> Written:
    return Written(output, adapter.rank, adapter.alpha, len(adapter.weights), adapter.n_params)
