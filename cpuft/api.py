"""What `import cpuft` gives to a script or a notebook: each function does what the command of its name does.

A model is a path or a reference as on the command line: model.gguf, ollama:NAME[:TAG], hf:ORG/REPO/FILE.gguf, a
checkpoint folder. An adapter is a GGUF file. Everything that a user can mend raises a UserError, whose message is one
sentence that says how; a fault of cpuft itself is another CpuftError.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cpuft.backends.generator import GREEDY, Generator, Sampling
from cpuft.backends.llama_server import LlamaServer
from cpuft.chat.message import Completion, Message
from cpuft.config.file import load_config
from cpuft.config.keys import TrainJob
from cpuft.evaluate.benchmark import Benchmark, read_cases, run_benchmark
from cpuft.machine.progress import Progress, silent
from cpuft.plan.plan import Plan, plan_run
from cpuft.release.merge import MergeReport, merge
from cpuft.roles import DEFAULT, find_role
from cpuft.sources.description import describe_source
from cpuft.sources.source import resolve
from cpuft.train.loop import Outcome, run_training

__all__ = [
    "GREEDY",
    "Benchmark",
    "Completion",
    "Generator",
    "LlamaServer",
    "MergeReport",
    "Message",
    "Outcome",
    "Plan",
    "Progress",
    "Sampling",
    "describe_model",
    "evaluate_model",
    "generate_answer",
    "merge_adapter",
    "plan_training",
    "train_adapter",
]

Place = str | Path


def describe_model(model: Place) -> dict[str, Any]:
    """What a model is: architecture, sizes (values, bytes, layers, tokens of context), types, chat template, licence.

    `trainable` says whether cpuft can train it, and `why_not`. Raises ModelError.
    """
    return describe_source(resolve(str(model)))


def train_adapter(
    model: Place,
    train: Place,
    output: Place,
    *,
    val: Place | None = None,
    config: Place | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    say: Any = print,
    progress: Progress = silent,
) -> Outcome:
    """Trains a LoRA adapter; OUTPUT/adapter.gguf is the best one.

    train, val: JSON lines: {"messages": [...]}, {"prompt": ..., "completion": ...} or {"text": ...}.
    config:     a YAML file with the keys of configs/lora.yaml; settings: the same by path, {"lora.r": 8}.
    say:        gets the lines of the log; progress hears of every step.

    Returns the outcome: how it ended, steps, best validation loss (nats a token), tokens a second, peak memory (MB).
    Raises UserError for what cannot be trained, before anything is written, or with the last checkpoint in place.
    """
    return run_training(
        _job(model, train, output, val, config, settings, resume=resume, overwrite=overwrite),
        say=say,
        progress=progress,
    )


def plan_training(
    model: Place,
    train: Place,
    *,
    val: Place | None = None,
    config: Place | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Plan:
    """What such a run would take: memory (bytes by part), time (seconds by part), disk (bytes). Nothing is written.

    Raises UserError as `train_adapter` does; a run that does not fit is no error here: `plan.fitted.fits` says so.
    """
    return plan_run(_job(model, train, Path(), val, config, settings), progress)


def merge_adapter(
    model: Place,
    output: Place,
    *,
    adapter: Place | None = None,
    type: str = "q4_k_m",
    threads: int = 0,
    progress: Progress = silent,
) -> MergeReport:
    """Merges an adapter into its base, straight into a quantized GGUF file; without an adapter it only quantizes.

    type: a name that llama-quantize knows, or "keep". Raises ModelError, AdapterError, ConfigError or ResourceError.
    """
    return merge(
        resolve(str(model)).path,
        Path(output),
        adapter_path=None if adapter is None else Path(adapter),
        file_type=type.lower(),
        threads=threads,
        progress=progress,
    )


def generate_answer(
    model: Place,
    prompt: str | Sequence[Message],
    *,
    adapter: Place | None = None,
    system: str | None = None,
    sampling: Sampling = GREEDY,
    threads: int = 0,
) -> Completion:
    """One answer of a model, by llama.cpp with the chat template of the file; `LlamaServer` gives many.

    prompt: what the user says, or a whole conversation. Raises ModelError where it is too long or refused.
    """
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    with _server(model, adapter, threads) as server:
        return server.generate(messages, sampling)


def evaluate_model(
    model: Place | Generator,
    data: Place,
    *,
    role: str = DEFAULT,
    adapter: Place | None = None,
    limit: int | None = None,
    sampling: Sampling = GREEDY,
    threads: int = 0,
    progress: Progress = silent,
) -> Benchmark:
    """Lets a model answer a test set of conversations and scores the answers (0 to 1) by the metric of a role.

    model: also whatever answers conversations, a Generator. Raises DatasetError, ModelError or ConfigError.
    """
    found = find_role(role)
    cases = read_cases(Path(data), found)[:limit]
    backend = _server(model, adapter, threads) if isinstance(model, str | Path) else nullcontext(model)
    with backend as generator:
        return run_benchmark(generator, cases, found.metric, sampling=sampling, progress=progress)


def _job(
    model: Place,
    train: Place,
    output: Place,
    val: Place | None,
    config: Place | None,
    settings: Mapping[str, Any] | None,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> TrainJob:
    checked, _ = load_config(None if config is None else Path(config), settings)
    validation = None if val is None else Path(val)
    return TrainJob(resolve(str(model)).path, Path(train), Path(output), checked, validation, resume, overwrite)


def _server(model: Place, adapter: Place | None, threads: int) -> LlamaServer:
    return LlamaServer(resolve(str(model)).path, adapter=None if adapter is None else Path(adapter), threads=threads)
