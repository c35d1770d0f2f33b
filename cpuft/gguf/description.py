"""What a model file is, in a few facts."""

from pathlib import Path
from typing import Any

import gguf

from cpuft.gguf.reader import Gguf, read_gguf


def describe_model(path: Path) -> dict[str, Any]:
    """The facts of a GGUF model, ready for JSON. Raises ModelError."""
    file = read_gguf(path)
    return {
        "path": str(path),
        "architecture": file.architecture,
        "name": file.get("general.name"),
        "file_type": file_type(file),
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


def _hyper(file: Gguf, key: str) -> Any:
    return file.get(f"{file.architecture}.{key}")


def file_type(file: Gguf) -> str | None:
    """The mixture of types that the file says it has, in llama-quantize's words; None where it says none."""
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
