"""How transformers names and stores the linear layers that adapters attach to, beside llama.cpp.

A GGUF tensor "blk.3.attn_q.weight" is the module "model.layers.3.self_attn.q_proj" of a Hugging Face model. Most
architectures have the standard seven modules; one that fuses some of them has a row below, and so has one whose GGUF
keeps the rows of queries and keys in another order.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpuft.config.keys import MODULES
from cpuft.errors import AdapterError, ModelError
from cpuft.gguf.reader import Gguf

FloatArray = npt.NDArray[np.float32]
# llama.cpp's name in a block -> the module's path in a layer of transformers.
Names = Mapping[str, str]
_STANDARD: Names = {
    own: f"{'self_attn' if own.startswith('attn') else 'mlp'}.{module}" for module, own in MODULES.items()
}
_PHI3: Names = {
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
ARCHITECTURES: Mapping[str, Names] = {
    "llama": _STANDARD,
    "qwen2": _STANDARD,
    "qwen3": _STANDARD,
    "gemma2": _STANDARD,
    "gemma3": _STANDARD,
    "phi3": _PHI3,
    "smollm3": _STANDARD,
}
# Their GGUF has the two values of each rotary pair side by side (0, h/2, 1, h/2 + 1, …) in a head of h rows, where
# transformers keeps the halves apart: those that the converter's LlamaModel.permute goes over.
INTERLEAVED = frozenset({"llama", "smollm3"})
_ROTARY = ("attn_q", "attn_k")
_WEIGHT = re.compile(r"blk\.(0|[1-9]\d{0,5})\.([a-z_]+)\.weight")
# Text models alone, and text models inside those that also see.
_MODULE = re.compile(r"(?:model|model\.language_model|language_model\.model)\.layers\.(0|[1-9]\d{0,5})\.([a-z_.]+)")


@dataclass(frozen=True)
class HfLayout:
    """One model's names and row order. head_size: rows of a head, 0 where rows stand as in transformers."""

    names: Names
    head_size: int

    @classmethod
    def of(cls, architecture: str, base: Gguf | None) -> "HfLayout":
        """The layout of an architecture. Raises AdapterError where it is unknown, or depends on a base not given."""
        if architecture not in ARCHITECTURES:
            raise AdapterError(
                f"the layers of the architecture {architecture!r} have no known names in PEFT: "
                f"adapters can be converted for {', '.join(ARCHITECTURES)}"
            )
        if architecture not in INTERLEAVED:
            return cls(ARCHITECTURES[architecture], 0)
        if base is None:
            raise AdapterError(
                f"a GGUF of the architecture {architecture!r} has the rows of queries and keys in another order than "
                "transformers, by the size of its heads: give the base model with --model"
            )
        return cls(ARCHITECTURES[architecture], _head_size(base))

    def module(self, weight: str) -> str | None:
        """ "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj"; None where transformers has no such module."""
        found = _WEIGHT.fullmatch(weight)
        if found is None or found[2] not in self.names:
            return None
        return f"model.layers.{found[1]}.{self.names[found[2]]}"

    def weight(self, module: str) -> str | None:
        """ "model.layers.3.self_attn.q_proj" -> "blk.3.attn_q.weight"; None where the model has no such layer."""
        found = _MODULE.fullmatch(module)
        own = next((own for own, path in self.names.items() if found is not None and path == found[2]), None)
        return None if found is None or own is None else f"blk.{found[1]}.{own}.weight"

    def order(self, weight: str) -> tuple[int, int]:
        """Sorts weights by layer, and in a layer in the order of the engine's adapters."""
        _, layer, own, _ = weight.split(".")
        return int(layer), list(self.names).index(own)

    def rows_to_hf(self, weight: str, rows: FloatArray) -> FloatArray:
        """A matrix whose rows are the weight's outputs, (n_out, …), with its rows put in the order of transformers."""
        return self._swapped(weight, rows, (-1, 2))

    def rows_from_hf(self, weight: str, rows: FloatArray) -> FloatArray:
        """The inverse of rows_to_hf."""
        return self._swapped(weight, rows, (2, -1))

    def _swapped(self, weight: str, rows: FloatArray, pairs: tuple[int, int]) -> FloatArray:
        if self.head_size == 0 or weight.split(".")[2] not in _ROTARY:
            return rows
        if rows.shape[0] % self.head_size:
            raise AdapterError(
                f"{weight} has {rows.shape[0]} rows, expected a multiple of the base model's head size "
                f"{self.head_size}: give the base model that the adapter was trained on"
            )
        inner = tuple(self.head_size // 2 if n == -1 else n for n in pairs)
        heads = rows.reshape(-1, *inner, rows.shape[1])
        return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


def _head_size(base: Gguf) -> int:
    n_head = base.integer(f"{base.architecture}.attention.head_count", 0)
    n_embd = base.integer(f"{base.architecture}.embedding_length", 0)
    size = base.integer(f"{base.architecture}.attention.key_length", n_embd // n_head if n_head > 0 else 0)
    if size < 2 or size % 2:
        raise ModelError(f"{base.path}: its heads have {size} values, expected an even number: the file is damaged")
    return size
