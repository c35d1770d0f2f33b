"""What an adapter is, in a few facts: for `cpuft adapter show`."""

from collections import Counter
from pathlib import Path
from typing import Any

from cpuft.adapters.adapter import read_adapter
from cpuft.adapters.peft import read_peft
from cpuft.adapters.place import adapter_at


def describe_adapter(path: Path) -> dict[str, Any]:
    """The facts of a LoRA adapter, GGUF or PEFT, ready for JSON. Raises AdapterError."""
    path = adapter_at(path)
    if path.is_dir():
        return _describe_peft(path)
    adapter = read_adapter(path)
    roles = Counter(weight.removesuffix(".weight").rsplit(".", 1)[-1] for weight in adapter.weights)
    return {
        "path": str(path),
        "format": "gguf",
        "architecture": adapter.architecture,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "n_params": adapter.n_params,
        "n_layer": len({weight.split(".")[1] for weight in adapter.weights if weight.startswith("blk.")}),
        "targets": dict(roles),
        "untrained": sum(not adapter.pair(weight)[1].any() for weight in adapter.weights),
        "metadata": adapter.metadata,
    }


def _describe_peft(folder: Path) -> dict[str, Any]:
    """Of a PEFT folder, which does not say its architecture."""
    adapter = read_peft(folder)
    config, pairs = adapter.config, adapter.pairs
    return {
        "path": str(folder),
        "format": "peft",
        "base_model": config.base_model,
        "rank": max(pair["A"].shape[0] for pair in pairs.values()),
        "alpha": config.alpha,
        "rslora": config.rslora,
        "n_params": sum(values.size for pair in pairs.values() for values in pair.values()),
        "n_layer": len({module.partition("layers.")[2].split(".")[0] for module in pairs}),
        "targets": dict(Counter(module.rpartition(".")[2] for module in pairs)),
        "untrained": sum(not pair["B"].any() for pair in pairs.values()),
    }
