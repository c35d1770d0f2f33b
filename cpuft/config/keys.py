"""What a training run may be told: every key, its default and its limits, in one place.

The keys have the names that PEFT and transformers give them. `config.file` reads them from YAML and checks them.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from cpuft.errors import AdapterError

# PEFT's names of the linear layers that an adapter can attach to, and llama.cpp's.
MODULES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
# Those of tensors that hold the rows of several layers, in models that have them so (Phi-3), and which these are.
FUSED_MODULES = {"qkv_proj": "attn_qkv", "gate_up_proj": "ffn_gate_up"}
PARTS = {"qkv_proj": {"q_proj", "k_proj", "v_proj"}, "gate_up_proj": {"gate_proj", "up_proj"}}
TARGETS = MODULES | FUSED_MODULES
ADAMW_8BIT = ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit")
ADAMW = ("adamw", "adamw_torch", "adamw_hf", "paged_adamw_32bit", *ADAMW_8BIT)


def option(
    default: Any,
    schema: Mapping[str, Any],
    expected: str,
    *,
    key: str = "",
    alias: str = "",
    resume_may_change: bool = False,
    read: Callable[[Any], Any] | None = None,
) -> Any:
    """A key of the configuration.

    schema:   JSON Schema of its value; `expected` says the same in words.
    key:      its name in YAML where that is not the field's; `alias` a second name that is accepted.
    resume_may_change: whether a resumed run may, because the adapter does not depend on it.
    read:     turns the valid YAML value into the field's.
    """
    metadata = {
        "schema": schema,
        "expected": expected,
        "key": key,
        "alias": alias,
        "resume_may_change": resume_may_change,
        "read": read,
    }
    return field(default=default, metadata=metadata)


def count(default: int | None, least: int = 1, most: int = 2**63 - 1, **names: Any) -> Any:
    """A key that holds a whole number; null too where that is its default."""
    type_ = ["integer", "null"] if default is None else "integer"
    limit = f"of at least {least}" if most == 2**63 - 1 else f"from {least} to {most}"
    expected = f"a whole number {limit}{' or null' if default is None else ''}"
    return option(default, {"type": type_, "minimum": least, "maximum": most}, expected, **names)


def number(default: float, limit: str, schema: Mapping[str, float], **names: Any) -> Any:
    """A key that holds a finite number within the limit that `schema` sets and `limit` words."""
    return option(default, {"type": "number", **schema}, f"a finite number {limit}", **names)


def choice(default: str, values: Sequence[str], **names: Any) -> Any:
    """A key that holds one of several words."""
    return option(default, {"enum": list(values)}, " or ".join(values), **names)


POSITIVE = ("above 0", {"exclusiveMinimum": 0})
POSITIVE_TO_1 = ("above 0 and at most 1", {"exclusiveMinimum": 0, "maximum": 1})
FROM_0 = ("of at least 0", {"minimum": 0})
FROM_0_TO_1 = ("from 0 to 1", {"minimum": 0, "maximum": 1})
FROM_0_BELOW_1 = ("from 0 to below 1", {"minimum": 0, "exclusiveMaximum": 1})


MAX_THREADS = 1024  # that the engine takes
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS |= {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
SIZE = r"^([0-9]{1,9}(?:\.[0-9]{1,3})?) ?([KMGT]i?|)B?$"


def read_size(value: str | int | None) -> int | None:
    """The bytes that a valid size stands for: 4G, 4GB, 1.5 GiB or a number of bytes."""
    found = re.match(SIZE, value) if isinstance(value, str) else None
    return int(float(found[1]) * UNITS[found[2]]) if found else None if value is None else int(value)


def _optim(value: str) -> str:
    """The name under which an optimizer is known here."""
    return "adamw_8bit" if value in ADAMW_8BIT else "adamw"


def _absolute(value: str | None) -> str | None:
    """A path that means the same file when a run is resumed from another folder."""
    return None if value is None else str(Path(value).absolute())


def _modules(value: str | list[str]) -> tuple[str, ...]:
    """PEFT's names in the order of TARGETS; "all-linear" stands for all of MODULES."""
    if value == "all-linear":
        return tuple(MODULES)
    return tuple(name for name, own in TARGETS.items() if name in value or own in value)


def with_fused(modules: Collection[str]) -> set[str]:
    """The modules, and beside a fused one its parts, beside all parts the fused one."""
    all_ = set(modules)
    for fused, parts in PARTS.items():
        if fused in all_ or parts <= all_:
            all_ |= {fused, *parts}
    return all_


@dataclass(frozen=True)
class LoraConfig:
    """The adapter: which layers it changes and how much it can hold (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = count(16, most=1024, key="r", alias="rank")
    alpha: float = number(32.0, *POSITIVE, key="lora_alpha", alias="alpha")
    dropout: float = number(0.05, *FROM_0_BELOW_1, key="lora_dropout", alias="dropout")
    target_modules: tuple[str, ...] = option(
        tuple(MODULES),
        {
            "anyOf": [
                {"const": "all-linear"},
                {"type": "array", "minItems": 1, "items": {"enum": [*TARGETS, *TARGETS.values()]}},
            ]
        },
        f"all-linear or a list of some of {', '.join(TARGETS)}",
        read=_modules,
    )
    layers: int | None = count(None)
    # It may change, because a run remembers what the adapter holds and not where it lies.
    init_adapter: str | None = option(
        None,
        {"type": ["string", "null"], "minLength": 1},
        "the path of an adapter or null",
        resume_may_change=True,
        read=_absolute,
    )
    bias: str = choice("none", ["none"])
    task_type: str = choice("CAUSAL_LM", ["CAUSAL_LM"])

    @property
    def targets(self) -> tuple[str, ...]:
        """The adapted layers by llama.cpp's names."""
        return tuple(TARGETS[name] for name in self.target_modules)

    def targets_in(self, available: Collection[str]) -> tuple[str, ...]:
        """The adapted layers of a model with the layers `available`: a fused tensor and all its parts are the same.

        Raises AdapterError where only some parts of a tensor are to be adapted.
        """
        asked = with_fused(self.target_modules)
        for fused, parts in PARTS.items():
            if fused not in asked and TARGETS[fused] in available and parts & asked:
                raise AdapterError(
                    f"lora.target_modules names {', '.join(sorted(parts & asked))} alone, but this model holds "
                    f"{', '.join(sorted(parts))} in one tensor: name {fused}, which stands for all of them, or none"
                )
        return tuple(target for name, target in TARGETS.items() if name in asked and target in available)


@dataclass(frozen=True)
class TrainConfig:
    """The training loop: data, optimizer, schedule, what is logged and saved."""

    num_epochs: int = count(3)
    max_steps: int | None = count(None)
    batch_size: int = count(1)
    gradient_accumulation_steps: int = count(8)
    learning_rate: float = number(2e-4, *POSITIVE_TO_1)
    lr_scheduler_type: str = choice("linear", ["linear", "cosine", "constant"])
    warmup_steps: int = count(10, 0)
    optim: str = choice("adamw", ADAMW, read=_optim)
    weight_decay: float = number(0.0, *FROM_0_TO_1)
    adam_beta1: float = number(0.9, *FROM_0_BELOW_1)
    adam_beta2: float = number(0.999, *FROM_0_BELOW_1)
    adam_epsilon: float = number(1e-8, *POSITIVE_TO_1)
    max_grad_norm: float = number(1.0, *FROM_0)
    seed: int = count(0, 0)
    max_seq_length: int = count(2048, 2)
    truncate: bool = option(False, {"type": "boolean"}, "true or false")
    tokens_per_pass: int = count(1024)
    date: str | None = option(None, {"type": ["string", "null"], "format": "date"}, "a day like 2026-01-31 or null")
    logging_steps: int = count(10, resume_may_change=True)
    eval_steps: int = count(25)
    save_steps: int = count(50, resume_may_change=True)
    save_total_limit: int = count(3, resume_may_change=True)
    early_stopping_patience: int = count(5, 0)
    early_stopping_threshold: float = number(0.0, *FROM_0)
    activations: str = choice("auto", ["auto", "keep", "recompute"], resume_may_change=True)
    max_ram: int | None = option(
        None,
        {"type": ["integer", "string", "null"], "pattern": SIZE, "minimum": 1},
        "a size such as 4G, 1.5GiB or 800M, or null",
        resume_may_change=True,
        read=read_size,
    )
    precision: str = choice("auto", ["auto", "f32", "bf16", "int8"])
    cache_frozen: bool = option(False, {"type": "boolean"}, "true or false", resume_may_change=True)
    threads: int = count(0, 0, MAX_THREADS, resume_may_change=True)

    @property
    def examples_per_step(self) -> int:
        """How many examples one step of the optimizer sees."""
        return self.batch_size * self.gradient_accumulation_steps


@dataclass(frozen=True)
class Config:
    """A checked configuration.

    explicit_keys: the keys ("lora.r") that a user set; the others are defaults, which an initial adapter may replace.
    """

    lora: LoraConfig = LoraConfig()
    training: TrainConfig = TrainConfig()
    explicit_keys: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True)
class TrainJob:
    """Everything that `cpuft train` is told."""

    model: Path
    train: Path
    output: Path
    config: Config = Config()
    val: Path | None = None
    resume: bool = False
    overwrite: bool = False


SECTIONS: Mapping[str, type] = {"lora": LoraConfig, "training": TrainConfig}


class Key(NamedTuple):
    """A key of a section: its names, its field and its limits."""

    name: str
    field: str
    default: Any
    metadata: Mapping[str, Any]


def keys_of(section: type) -> list[Key]:
    """The keys of a section in their order."""
    return [Key(f.metadata["key"] or f.name, f.name, f.default, f.metadata) for f in fields(section)]
