"""Fine-tune language models on a CPU, directly on quantized GGUF files.

    import cpuft

    cpuft.train_adapter("base.gguf", "train.jsonl", "run", val="val.jsonl", settings={"training.num_epochs": 3})
    cpuft.merge_adapter("base.gguf", "tuned.gguf", adapter="run/adapter.gguf", type="q8_0")
    print(cpuft.generate_answer("tuned.gguf", "Concept: a library for tools").text)

`cpuft.api` documents these and the rest; what each needs is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cpuft.errors import CpuftError, UserError

if TYPE_CHECKING:
    from cpuft.api import (
        GREEDY,
        Benchmark,
        Completion,
        Generator,
        LlamaServer,
        MergeReport,
        Message,
        Outcome,
        Plan,
        Progress,
        Sampling,
        describe_model,
        evaluate_model,
        generate_answer,
        merge_adapter,
        plan_training,
        train_adapter,
    )

__version__ = "0.1.0"

__all__ = [
    "GREEDY",
    "Benchmark",
    "Completion",
    "CpuftError",
    "Generator",
    "LlamaServer",
    "MergeReport",
    "Message",
    "Outcome",
    "Plan",
    "Progress",
    "Sampling",
    "UserError",
    "__version__",
    "describe_model",
    "evaluate_model",
    "generate_answer",
    "merge_adapter",
    "plan_training",
    "train_adapter",
]


def __getattr__(name: str) -> Any:
    """What `cpuft.api` has of this name."""
    if name not in __all__:
        raise AttributeError(f"module 'cpuft' has no attribute {name!r}")
    return getattr(importlib.import_module("cpuft.api"), name)
