"""The adapter that a run starts from, and what of the configuration it decides."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cpuft.adapters.adapter import Adapter
from cpuft.adapters.files import open_adapter
from cpuft.adapters.hf_layout import HfLayout
from cpuft.config.keys import Config, LoraConfig, TrainJob, keys_of, with_fused
from cpuft.errors import AdapterError, ConfigError, list_faults
from cpuft.gguf.reader import Gguf, read_gguf

_KEYS = {key.field: key for key in keys_of(LoraConfig)}


@dataclass(frozen=True)
class InitialAdapter:
    """What a run starts from.

    config: the run's configuration with what the adapter decides.
    digest: of the adapter's matrices, in whatever format they came.
    """

    path: Path
    adapter: Adapter
    config: Config
    digest: str
    note: str


def load_initial(job: TrainJob) -> InitialAdapter | None:
    """The adapter that job.config.lora.init_adapter names; None where it names none.

    Its rank, alpha, targets and layers become those of the run. Raises ConfigError where the configuration sets them
    otherwise, and AdapterError where the adapter does not fit the base model or cannot be trained further.
    """
    if job.config.lora.init_adapter is None:
        return None
    path = Path(job.config.lora.init_adapter)
    if job.overwrite and path.resolve().is_relative_to(job.output.resolve()):
        raise ConfigError(f"{path}: it lies in the run that --overwrite removes: move it, or give another --output")
    base = read_gguf(job.model)
    adapter = open_adapter(path, base)
    own = _own_settings(adapter, base, path)
    _refuse_contradictions(job.config, own, base, path)
    lora = replace(job.config.lora, **dict(own.values()))
    taken = [f"{key} {_words(value)}" for key, (_, value) in own.items() if key not in job.config.explicit_keys]
    note = f"Initial adapter: {path}" + (f"; from it: {', '.join(taken)}" if taken else "")
    return InitialAdapter(path, adapter, replace(job.config, lora=lora), _digest(adapter), note)


def _own_settings(adapter: Adapter, base: Gguf, path: Path) -> dict[str, tuple[str, Any]]:
    """Key path -> (field of LoraConfig, value) of what the adapter decides."""
    rank = _one_rank(adapter, path)
    n_layer = _n_layer(base)
    names = HfLayout.of(base.architecture, base).names
    places = [weight.removeprefix("blk.").removesuffix(".weight").partition(".") for weight in adapter.weights]
    first = min((int(layer) for layer, _, _ in places if layer.isdecimal()), default=0)
    adapted = {own for _, _, own in places if own in names}
    wanted = {f"blk.{i}.{own}.weight" for i in range(first, n_layer) for own in adapted}
    if odd := sorted(wanted ^ set(adapter.weights)):
        state = [f"{weight} {'lacks a pair' if weight in wanted else 'has one'}" for weight in odd]
        raise AdapterError(
            f"{path}: cpuft trains the same modules in all layers, or in the last ones, but {list_faults(state)}: "
            "train a new adapter, and add this one afterwards with `cpuft adapter combine`"
        )
    modules = _KEYS["target_modules"].metadata["read"]([names[own].rpartition(".")[2] for own in adapted])
    return {
        "lora.r": ("rank", rank),
        "lora.lora_alpha": ("alpha", adapter.alpha or float(rank)),  # llama.cpp: 0 means a scale of 1
        "lora.target_modules": ("target_modules", modules),
        "lora.layers": ("layers", n_layer - first if first else None),
    }


def _one_rank(adapter: Adapter, path: Path) -> int:
    """The rank of all pairs. Raises AdapterError where an adapter cannot be trained for its rank or alpha."""
    ranks: list[int] = sorted({adapter.pair(weight)[0].shape[0] for weight in adapter.weights})
    limit = int(_KEYS["rank"].metadata["schema"]["maximum"])
    combine = f"`cpuft adapter combine {path} --output …"
    if len(ranks) > 1:
        raise AdapterError(
            f"{path}: its pairs have the ranks {', '.join(map(str, ranks))}, and training needs one rank for all: "
            f"bring them to the smallest: {combine} --rank {ranks[0]}`"
        )
    if ranks[0] > limit:
        raise AdapterError(f"{path}: its rank is {ranks[0]}, expected at most {limit}: {combine} --rank {limit}`")
    if adapter.alpha < 0:
        raise AdapterError(f"{path}: its alpha is {adapter.alpha:g}, expected one above 0: {combine}` moves the sign")
    return ranks[0]


def _refuse_contradictions(config: Config, own: dict[str, tuple[str, Any]], base: Gguf, path: Path) -> None:
    n_layer = _n_layer(base)
    faults = []
    for key, (field, value) in own.items():
        given = getattr(config.lora, field)
        same = np.float32(given) == np.float32(value) if field == "alpha" else given == value
        if field == "target_modules":
            same = with_fused(given) == with_fused(value)
        if field == "layers":
            same = (given or n_layer) == (value or n_layer)
        if key in config.explicit_keys and not same:
            faults.append(f"{key} is {_words(given)}, the adapter's is {_words(value)}")
    if faults:
        raise ConfigError(
            f"{path}: the configuration contradicts the adapter to start from: {'; '.join(faults)}: "
            "leave these keys out, or set them as they are in the adapter"
        )


def _n_layer(base: Gguf) -> int:
    return len({name.split(".")[1] for name in base.tensors if name.startswith("blk.")})


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(value)}]"
    return "null (all)" if value is None else f"{value:g}"


def _digest(adapter: Adapter) -> str:
    """Of the matrices; the run's configuration has the alpha."""
    digest = hashlib.sha256()
    for name, values in sorted(adapter.tensors.items()):
        digest.update(f"{name} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
