"""adapter_config.json: what PEFT's LoraConfig says about an adapter's matrices (https://huggingface.co/docs/peft)."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jsonschema

from cpuft.adapters.adapter import Adapter
from cpuft.adapters.hf_layout import HfLayout
from cpuft.errors import AdapterError, excerpt, list_faults

T = TypeVar("T")

MAX_BYTES = 4 << 20  # PEFT's own are a kilobyte; one with a rank for each module of a large model is a hundred

_RANK = {"type": "integer", "minimum": 1, "maximum": 1 << 20}
# None is so small that float32 makes it the 0 that means a scale of 1.
_ALPHA = {"type": "number", "minimum": 1e-9, "maximum": 1e9}
_SCHEMA = {
    "type": "object",
    "required": ["peft_type"],
    "properties": {
        "r": _RANK,
        "lora_alpha": _ALPHA,
        "rank_pattern": {"type": ["object", "null"], "additionalProperties": _RANK},
        "alpha_pattern": {"type": ["object", "null"], "additionalProperties": _ALPHA},
        "use_rslora": {"type": ["boolean", "null"]},
        "base_model_name_or_path": {"type": ["string", "null"]},
        "task_type": {"type": ["string", "null"]},
    },
}
_WORDS = {
    "r": "a whole number from 1 to 1048576",
    "lora_alpha": "a number from 1e-9 to 1e9",
    "rank_pattern": "whole numbers from 1 to 1048576 by module",
    "alpha_pattern": "numbers from 1e-9 to 1e9 by module",
    "use_rslora": "true or false",
}
# PEFT's defaults, for a file that leaves them out.
_DEFAULT_RANK = _DEFAULT_ALPHA = 8

_MERGE = "merge the adapter into its model with PEFT and convert that to GGUF"
# What a GGUF adapter, a product of two matrices added to a linear layer, cannot say: key -> what it is, what to do.
_REFUSED = {
    "use_dora": ("DoRA scales the merged weights' columns", _MERGE),
    "lora_bias": ("its B has biases", "train it with lora_bias: false, or " + _MERGE),
    "modules_to_save": ("it holds whole modules besides LoRA", "train it without modules_to_save, or " + _MERGE),
    "trainable_token_indices": ("it changes embeddings", "train it without them, or " + _MERGE),
    "target_parameters": ("it adapts parameters that are not linear layers", "train it without them, or " + _MERGE),
    "layer_replication": ("its model has layers that the base has not", _MERGE),
    "fan_in_fan_out": ("its matrices are transposed", "train it on a model with linear layers"),
    "use_qalora": ("QA-LoRA pools its inputs", _MERGE),
    "use_bdlora": ("its matrices are block-diagonal", _MERGE),
    "alora_invocation_tokens": ("it acts only after certain tokens", "train a LoRA without them"),
    "arrow_config": ("it routes between several adapters", "convert each of them alone"),
    "kasa_config": ("KaSA has a third matrix", _MERGE),
}
# Initializations that also change the base's weights, so that the adapter does not fit the original ones.
_BASE_CHANGING = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True)
class PeftConfig:
    """What the matrices are scaled with."""

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rslora: bool
    base_model: str | None

    def rank_of(self, module: str) -> int:
        """The rank of a module's pair."""
        return _matched(self.rank_pattern, module, self.rank)

    def scaling_alpha(self, module: str) -> float:
        """The alpha that, divided by the rank, gives the module's scale; rsLoRA's scale is alpha / sqrt(rank)."""
        alpha = _matched(self.alpha_pattern, module, self.alpha)
        return alpha * self.rank_of(module) ** 0.5 if self.rslora else alpha


def read_config(path: Path) -> PeftConfig:
    """Reads and checks adapter_config.json. Raises AdapterError, which lists all faults at once."""
    document = _read_json(path)
    faults = _schema_faults(document)
    if not faults:
        faults = _meaning_faults(document)
    if faults:
        raise AdapterError(f"{path}: not a PEFT adapter that cpuft can use: {list_faults(faults)}")
    return PeftConfig(
        rank=int(document.get("r", _DEFAULT_RANK)),
        alpha=float(document.get("lora_alpha", _DEFAULT_ALPHA)),
        rank_pattern=document.get("rank_pattern") or {},
        alpha_pattern=document.get("alpha_pattern") or {},
        rslora=bool(document.get("use_rslora")),
        base_model=document.get("base_model_name_or_path"),
    )


def config_document(adapter: Adapter, layout: HfLayout, base_model: str | None) -> dict[str, Any]:
    """The adapter_config.json with which PEFT computes what llama.cpp does with the GGUF adapter."""
    ranks = {str(layout.module(weight)): adapter.pair(weight)[0].shape[0] for weight in adapter.weights}
    alphas = {module: adapter.alpha or rank for module, rank in ranks.items()}
    rank, alpha = _most_common(ranks), _most_common(alphas)
    modules, layers = _targets(list(ranks))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _plain(alpha),
        "lora_dropout": 0.0,
        "target_modules": modules,
        "layers_to_transform": layers,
        "rank_pattern": {module: n for module, n in ranks.items() if n != rank},
        "alpha_pattern": {module: _plain(n) for module, n in alphas.items() if n != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def _read_json(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise AdapterError(f"{path}: it is larger than {MAX_BYTES >> 20} MiB, expected PEFT's configuration")
        return json.loads(data, parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise AdapterError(
            f"{path}: no such file, expected the configuration that PEFT saves with an adapter"
        ) from None
    except OSError as error:
        raise AdapterError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        fault = excerpt(" ".join(str(error).split()))
        raise AdapterError(f"{path}: not valid JSON ({fault}): save the adapter again with PEFT") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _schema_faults(document: Any) -> list[str]:
    faults = {}
    for error in jsonschema.Draft202012Validator(_SCHEMA).iter_errors(document):
        key = ".".join(map(str, error.absolute_path))
        name = key.split(".")[0]
        wanted = f", expected {_WORDS[name]}" if name in _WORDS else f": {error.message}"
        faults[key] = f"{key or 'it'} is {_short(error.instance)}{wanted}"
    return list(faults.values())


def _meaning_faults(document: Mapping[str, Any]) -> list[str]:
    """What is there and cannot be said in a GGUF adapter."""
    faults = []
    if document["peft_type"] != "LORA":
        faults.append(f"peft_type is {_short(document['peft_type'])}, expected 'LORA'")
    if document.get("bias", "none") != "none":
        faults.append(f"bias is {_short(document['bias'])}, which changes biases: train it with bias: none")
    faults += [f"{key}: {what}: {advice}" for key, (what, advice) in _REFUSED.items() if document.get(key)]
    start = str(document.get("init_lora_weights", "")).lower()
    if start.startswith(_BASE_CHANGING):
        faults.append(
            f"init_lora_weights is {start!r}, which changes the base's weights: save it with "
            "path_initial_model_for_weight_conversion, so that PEFT turns it into plain LoRA"
        )
    for name in ("rank_pattern", "alpha_pattern"):
        unreadable = [key for key in document.get(name) or {} if _literal(key) is None]
        if unreadable:
            faults.append(f"{name} has the expressions {_short(unreadable)}: spell out the modules that they match")
    return faults


def _literal(key: str) -> tuple[str, bool] | None:
    """The module name that a pattern's key is, and whether it is the whole path; None for a regular expression.

    PEFT evaluates keys as regular expressions; of a file that nobody vouches for, that could take forever.
    """
    name = key.removeprefix("^").removesuffix("$").replace("\\.", ".")
    return (name, key.startswith("^")) if re.fullmatch(r"[A-Za-z0-9_.]+", name) else None


def _matched(patterns: Mapping[str, T], module: str, default: T) -> T:
    """The value of the first key that is the module's path or its end."""
    for key, value in patterns.items():
        name, whole = _literal(key) or ("", True)
        if module == name or (not whole and module.endswith("." + name)):
            return value
    return default


def _targets(modules: list[str]) -> tuple[list[str], list[int] | None]:
    """target_modules and layers_to_transform that select exactly these modules."""
    layers_of: dict[str, list[int]] = {}
    for module in modules:
        _, _, layer, path = module.split(".", 3)
        layers_of.setdefault(path.rpartition(".")[2], []).append(int(layer))
    layers = sorted(next(iter(layers_of.values())))
    if all(sorted(found) == layers for found in layers_of.values()):
        return list(layers_of), layers
    return modules, None


def _most_common(values: Mapping[str, T]) -> T:
    return Counter(values.values()).most_common(1)[0][0]


def _plain(value: float) -> float:
    """A whole number as PEFT's users write it."""
    return int(value) if float(value).is_integer() else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
