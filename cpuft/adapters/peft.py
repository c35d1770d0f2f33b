"""LoRA adapters as PEFT saves them: a folder with adapter_config.json and adapter_model.safetensors.

PEFT names a pair by its module in transformers, keeps rows in the order of transformers, and can give each module a
rank and an alpha of its own. In float32, GGUF -> PEFT -> GGUF gives the same bits.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from cpuft.adapters import peft_config
from cpuft.adapters.adapter import SUFFIX_A, SUFFIX_B, Adapter, adapter_name, check_base
from cpuft.adapters.hf_layout import FloatArray, HfLayout
from cpuft.adapters.peft_config import PeftConfig
from cpuft.adapters.place import CONFIG, PICKLE, WEIGHTS
from cpuft.errors import AdapterError, excerpt, list_faults
from cpuft.gguf.reader import Gguf
from cpuft.machine.files import atomic_folder, require_new

PREFIX = "base_model.model."
_PAIR = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight")
_SUFFIXES = {"A": SUFFIX_A, "B": SUFFIX_B}
# Parts of tensor names that a GGUF adapter has no place for, in the order in which they are looked for.
_REFUSED = {
    "lora_magnitude_vector": "DoRA's magnitudes, which a GGUF adapter cannot hold: merge it with PEFT",
    "lora_embedding_": "LoRA of an embedding, which cpuft does not adapt: train without it",
    "embed_tokens": "an embedding, which cpuft does not adapt: train without it",
    "lm_head": "the output head, which cpuft does not adapt: train without it",
    ".bias": "a bias, which a GGUF adapter cannot hold: train with bias: none",
    "modules_to_save": "a module saved whole, which a GGUF adapter cannot hold: train without modules_to_save",
}


@dataclass(frozen=True)
class PeftAdapter:
    """A folder's content, checked as far as that is possible without the base model.

    pairs: "model.layers.0.self_attn.q_proj" -> {"A": (rank, n_in), "B": (n_out, rank)}
    """

    path: Path
    config: PeftConfig
    pairs: Mapping[str, Mapping[str, FloatArray]]

    def on(self, base: Gguf) -> Adapter:
        """The adapter as llama.cpp has it. Raises AdapterError, which lists every pair that does not fit the base.

        A GGUF adapter has one alpha: where pairs differ in theirs, B takes up the difference.
        """
        layout = HfLayout.of(base.architecture, base)
        weights = {module: layout.weight(module) for module in self.pairs}
        if foreign := [module for module, weight in weights.items() if weight is None]:
            raise AdapterError(
                f"{self.path}: {base.path} ({base.architecture}) has no linear layers of these names: "
                f"{list_faults(foreign)}: "
                "give the base model that the adapter was trained on"
            )
        modules = {str(weight): module for module, weight in weights.items()}
        if twice := [module for module, weight in weights.items() if modules[str(weight)] != module]:
            raise AdapterError(
                f"{self.path}: these layers are there under two names each: {list_faults(twice)}: save it again"
            )
        alphas = {weight: self.config.scaling_alpha(module) for weight, module in modules.items()}
        alpha = Counter(alphas.values()).most_common(1)[0][0]
        pairs = {weight: self.pairs[modules[weight]] for weight in sorted(modules, key=layout.order)}
        adapter = Adapter.of(pairs, alpha, base.architecture, {"general.name": adapter_name(base)})
        check_base(adapter, base, self.path)
        for weight, pair in pairs.items():
            factor = np.float32(alphas[weight] / alpha)  # 1 leaves the bits as they are
            with np.errstate(over="ignore"):
                scaled = layout.rows_from_hf(weight, pair["B"]) * factor
            if not np.isfinite(scaled).all():
                raise AdapterError(
                    f"{self.path}: {modules[weight]} is scaled {factor:g} times as much as most modules, which is more "
                    f"than float32 holds: mend alpha_pattern in {CONFIG}"
                )
            adapter.tensors[weight + SUFFIX_B] = scaled
        return adapter


def read_peft(folder: Path) -> PeftAdapter:
    """Reads and checks a folder. Raises AdapterError, which lists all bad tensors at once."""
    config = peft_config.read_config(folder / CONFIG)
    path = folder / WEIGHTS
    stored = _read_tensors(path)
    faults = [] if stored else ["it has no tensors"]
    pairs: dict[str, dict[str, FloatArray]] = {}
    for name, tensor in stored.items():
        found = _PAIR.fullmatch(name)
        refused = next((what for part, what in _REFUSED.items() if part in name), None)
        if refused is not None or found is None:
            faults.append(f"{name} is {refused or f'unknown, expected {PREFIX}….lora_A.weight or ….lora_B.weight'}")
            continue
        fault = _tensor_fault(tensor, found[2], config.rank_of(found[1]))
        if fault:
            faults.append(f"{name} {fault}")
        else:
            pairs.setdefault(found[1], {})[found[2]] = tensor.values()
    if not faults:
        faults = [f"{module} has no lora_{p}" for module, pair in pairs.items() for p in "AB" if p not in pair]
    if not faults:
        faults = [
            f"{PREFIX}{module}.lora_{part}.weight holds values that are not finite"
            for module, pair in pairs.items()
            for part, values in pair.items()
            if not np.isfinite(values).all()
        ]
    if faults:
        raise AdapterError(f"{path}: not a LoRA adapter that cpuft can use: {list_faults(faults)}")
    return PeftAdapter(folder, config, pairs)


def write_peft(folder: Path, adapter: Adapter, *, base: Gguf | None = None, base_model: str | None = None) -> None:
    """Writes an adapter as PEFT reads it, the folder whole or not at all.

    base:       the base model, needed where its architecture keeps rows in another order than transformers.
    base_model: what the configuration names as the base, a repository or a path.
    Raises AdapterError, also for weights that have no module in transformers.
    """
    require_new(folder, "the PEFT adapter")
    layout = HfLayout.of(adapter.architecture, base)
    if foreign := [weight for weight in adapter.weights if layout.module(weight) is None]:
        raise AdapterError(
            f"the adapter changes {list_faults(foreign)}, which {adapter.architecture} has not as a linear layer in "
            "PEFT: "
            "merge it into its base model with `cpuft merge` instead"
        )
    tensors: dict[str, FloatArray] = {}
    for weight in adapter.weights:
        a, b = adapter.pair(weight)
        name = f"{PREFIX}{layout.module(weight)}.lora_"
        tensors |= {f"{name}A.weight": a, f"{name}B.weight": layout.rows_to_hf(weight, b)}
    document = peft_config.config_document(adapter, layout, base_model)
    with atomic_folder(folder) as temporary:
        # In memory first: the library's own writing hides the errno of a full disk.
        (temporary / WEIGHTS).write_bytes(safetensors.numpy.save(tensors, metadata={"format": "pt"}))
        (temporary / CONFIG).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Stored:
    """A tensor as the file has it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def values(self) -> FloatArray:
        """Its values in float32; bfloat16 is the upper half of one."""
        if self.dtype == "BF16":
            upper = np.frombuffer(self.data, "<u2").astype(np.uint32) << 16
            return upper.view(np.float32).reshape(self.shape)
        return np.frombuffer(self.data, _DTYPES[self.dtype]).astype(np.float32).reshape(self.shape)


_DTYPES = {"F32": "<f4", "F16": "<f2"}


def _read_tensors(path: Path) -> dict[str, _Stored]:
    if not path.exists() and path.with_name(PICKLE).exists():
        raise AdapterError(
            f"{path.with_name(PICKLE)}: a pickle can run any code when it is opened: load the adapter where you trust "
            "it, and save it with safe_serialization=True"
        )
    try:
        stored = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        raise AdapterError(f"{path}: no such file, expected the tensors that PEFT saves with an adapter") from None
    except OSError as error:
        raise AdapterError(f"{path}: cannot read the adapter: {error.strerror}") from error
    except safetensors.SafetensorError as error:
        fault = excerpt(" ".join(str(error).split()))
        raise AdapterError(f"{path}: not a whole safetensors file ({fault}): fetch or save it again") from error
    return {
        name: _Stored(t["dtype"], tuple(t["shape"]), t["data"])
        for name, t in sorted(stored, key=lambda item: str(item[0]))
    }


def _tensor_fault(tensor: _Stored, part: str, rank: int) -> str | None:
    """What is wrong with one of a pair's matrices, by what the configuration says."""
    if tensor.dtype not in ("BF16", *_DTYPES):
        return f"has the type {tensor.dtype}, expected F32, F16 or BF16"
    if len(tensor.shape) != 2 or 0 in tensor.shape:
        return f"has the shape {tensor.shape}, expected a matrix"
    if tensor.shape["AB".index(part)] != rank:
        wanted = f"({rank}, …)" if part == "A" else f"(…, {rank})"
        return f"has the shape {tensor.shape}, expected {wanted} by the rank in {CONFIG}"
    return None
