"""What a model or adapter file is, in a few facts: for `cpuft models show | list` and `cpuft adapter show`."""

from collections import Counter
from pathlib import Path
from typing import Any

import gguf

from cpuft.engine import Engine
from cpuft.errors import ModelError, ToolchainError, UserError
from cpuft.models.adapter import read_adapter
from cpuft.models.gguf import Gguf, read_gguf
from cpuft.models.peft import read_peft
from cpuft.models.source import Source


def describe_model(path: Path) -> dict[str, Any]:
    """The facts of a GGUF model, ready for JSON. Raises ModelError."""
    file = read_gguf(path)
    return {
        "path": str(path),
        "architecture": file.architecture,
        "name": file.get("general.name"),
        "file_type": _file_type(file),
        "file_bytes": file.file_size,
        "weight_bytes": file.weight_bytes,
        "n_params": sum(tensor.rows * tensor.columns for tensor in file.tensors.values()),
        "n_layer": _hyper(file, "block_count"),
        "n_embd": _hyper(file, "embedding_length"),
        "n_ff": _hyper(file, "feed_forward_length"),
        "n_head": _hyper(file, "attention.head_count"),
        "n_head_kv": _hyper(file, "attention.head_count_kv"),
        "n_ctx_train": _hyper(file, "context_length"),
        "n_vocab": file.count("tokenizer.ggml.tokens"),
        "tokenizer": file.get("tokenizer.ggml.model"),
        "tied_head": "output.weight" not in file.tensors,
        "types": _types(file),
        "licence": _licence(file),
        "merges": merges_of(file),
        "chat_template": file.get("tokenizer.chat_template"),
        "tensors": [
            {"name": tensor.name, "shape": list(tensor.shape), "type": tensor.type.name, "bytes": tensor.size}
            for tensor in file.tensors.values()
        ],
    }


def describe_source(source: Source) -> dict[str, Any]:
    """The facts of a model, of its origin, and whether cpuft can train it, ready for JSON. Raises ModelError."""
    facts = {"reference": source.reference, **describe_model(source.path)}
    facts["licence"] = facts["licence"] or source.facts.get("licence")
    tensors = facts.pop("tensors")
    return {**facts, **trainability(source.path), "source": source.facts, "tensors": tensors}


def summarize_source(source: Source) -> dict[str, Any]:
    """What a list says of a model, ready for JSON; a file that cannot be read has its fault under `why_not`."""
    summary: dict[str, Any] = {"reference": source.reference, "path": str(source.path)}
    try:
        file = read_gguf(source.path)
    except ModelError as error:
        unread = dict.fromkeys(("name", "architecture", "file_bytes", "file_type"))
        return {**summary, **unread, "trainable": False, "why_not": str(error)}
    return {
        **summary,
        "name": file.get("general.name"),
        "architecture": file.architecture,
        "file_bytes": file.file_size,
        "file_type": _file_type(file),
        **trainability(source.path),
    }


def trainability(path: Path) -> dict[str, Any]:
    """Whether the engine takes the file, and its own words where it does not; unknown (None) where it is not built."""
    try:
        with Engine(path, threads=1):
            return {"trainable": True, "why_not": None}
    except ToolchainError as error:
        return {"trainable": None, "why_not": str(error)}
    except UserError as error:
        return {"trainable": False, "why_not": str(error)}


def describe_adapter(path: Path) -> dict[str, Any]:
    """The facts of a LoRA adapter, GGUF or PEFT, ready for JSON. Raises AdapterError."""
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


def _hyper(file: Gguf, key: str) -> Any:
    return file.get(f"{file.architecture}.{key}")


def _file_type(file: Gguf) -> str | None:
    number = file.get("general.file_type")
    try:
        return gguf.LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_").lower()
    except ValueError:
        return None if number is None else f"unknown ({number})"


def _licence(file: Gguf) -> str | None:
    """The licence that the file names, with the link where it has one."""
    keys = ("general.license.name", "general.license", "general.license.link")
    return ", ".join(dict.fromkeys(str(file.get(key)) for key in keys if file.get(key))) or None


def _types(file: Gguf) -> dict[str, dict[str, int]]:
    """Type name -> how many tensors and bytes, the largest share first."""
    types: dict[str, dict[str, int]] = {}
    for tensor in file.tensors.values():
        share = types.setdefault(tensor.type.name, {"tensors": 0, "bytes": 0})
        share["tensors"] += 1
        share["bytes"] += tensor.size
    return dict(sorted(types.items(), key=lambda item: -item[1]["bytes"]))


def merges_of(file: Gguf) -> list[dict[str, Any]]:
    """What cpuft merged into this file, the first merge first."""
    merges: dict[str, dict[str, Any]] = {}
    for key in file.fields:
        if key.startswith("general.cpuft.merge."):
            number, _, name = key.removeprefix("general.cpuft.merge.").partition(".")
            merges.setdefault(number, {})[name] = file.get(key)
    return list(merges.values())
