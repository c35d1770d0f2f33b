"""What an evaluation leaves behind: a file that says of each model what it answered, and what made the figures.

    {"<model>": {"avg_score": 0.93, …, "answers": […]}, …, "comparison": {…}, "made_by": {…}}

The names of models stand at the top, as the specification has them; what is no model has one of the names in SECTIONS.
A figure that nobody measured is null.
"""

import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cpuft
from cpuft import toolchain
from cpuft.backends.generator import Sampling
from cpuft.errors import ConfigError, CpuftError
from cpuft.evaluate.answers import Asking
from cpuft.evaluate.benchmark import Benchmark
from cpuft.evaluate.comparison import mean_of
from cpuft.evaluate.contender import Contender
from cpuft.evaluate.facets import facets_of, mean_facets
from cpuft.evaluate.held_out import HeldOut
from cpuft.evaluate.pair import means, merged
from cpuft.evaluate.speed import NOT_MEASURED, Speed
from cpuft.machine.cpu import cpu_model
from cpuft.machine.files import file_digest, write_json
from cpuft.roles.answer import as_yaml

MADE_BY = "made_by"
SECTIONS = ("comparison", "original", "stress", "forgetting", "selection", "gate", MADE_BY)
NO_LOSSES: Mapping[str, None] = {"val_loss": None, "perplexity": None}
# Of a model: the figures that one evaluation measures and another does not.
UNMEASURED: Mapping[str, None] = {
    **dict.fromkeys(("schema_valid", "completeness", "id_compliance", "quantities")),
    **dict.fromkeys(NOT_MEASURED.facts()),
    **NO_LOSSES,
}


@dataclass(frozen=True)
class Result:
    """A result file.

    models:   by name, each with its figures and answers.
    sections: what else is in it, by one of SECTIONS.
    """

    models: Mapping[str, Mapping[str, Any]]
    sections: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**self.models, **self.sections}

    def write(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        write_json(path, self.document())


def read_result(path: Path) -> Result:
    """The result in a file. Raises ConfigError where there is none."""
    document = _read(path)
    sections = {name: document[name] for name in SECTIONS if name in document}
    models = {name: value for name, value in document.items() if name not in SECTIONS}
    if not isinstance(sections.get(MADE_BY), dict):
        raise ConfigError(f"{path}: it has no {MADE_BY!r}, expected a result that `cpuft eval … --output` wrote")
    wrong = [name for name, value in models.items() if not isinstance(value, dict)]
    wrong += [name for name, value in sections.items() if not isinstance(value, dict)]
    if wrong:
        raise ConfigError(f"{path}: {wrong[0]!r} is no object, expected a result that `cpuft eval … --output` wrote")
    return Result(models, sections)


def model_entry(
    contender: Contender,
    asking: Asking,
    benchmarks: Sequence[Benchmark],
    *,
    speed: Speed = NOT_MEASURED,
    losses: HeldOut | None = None,
) -> dict[str, Any]:
    """A model's part of a result. benchmarks: its answers, once for each seed."""
    answered = merged(benchmarks)
    facts = answered.summary()
    # As they were scored: those of a model that was held to JSON became YAML.
    texts = [as_yaml(one.completion.text) if asking.constrained else one.completion.text for one in answered.answers]
    return {
        "avg_score": facts["avg_score"],
        "interval": mean_of(means(benchmarks)).facts(),
        "n_examples": len(asking.cases),
        **mean_facets([facets_of(text, asking.role.schema) for text in texts]).facts(),
        "parts": facts["parts"],
        "unfinished": facts["unfinished"],
        "tokens": facts["tokens"],
        **speed.facts(),
        **(NO_LOSSES if losses is None else losses.facts()),
        "digest": contender.asked.digest,
        "adapter_digest": contender.adapter_digest,
        "answers": answered.details(),
    }


def made_by(asking: Asking, data: Path, *, metric: str | None = None) -> dict[str, Any]:
    """What made the figures of an evaluation, so that another can be compared with it or make them again.

    data: the file of the questions. metric: one of the user's own, MODULE:FUNCTION.
    """
    sampling, role = asking.sampling, asking.role
    return {
        **origin(data, len(asking.cases), sampling),
        "role": {"name": role.name, "digest": role.digest},
        "metric": metric or f"{role.name}'s own",
        "constrained": asking.constrained,
        "n_seeds": asking.n_seeds,
        "n_parallel": asking.n_parallel,
        "context": asking.n_ctx,
    }


def origin(data: Path, n_examples: int, sampling: Sampling) -> dict[str, Any]:
    """The part of it that every evaluation has, be it of no role."""
    return {
        "cpuft": cpuft.__version__,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "data": {"path": str(data), "digest": file_digest(data), "n": n_examples},
        "sampling": {name: getattr(sampling, name) for name in ("temperature", "top_p", "top_k", "max_tokens")},
        "seed": sampling.seed,
        "server": _server(),
        "machine": f"{cpu_model()}, {platform.system()}",
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file, expected a result that `cpuft eval … --output` wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: it holds no object, expected a result that `cpuft eval … --output` wrote")
    return document


def _server() -> str | None:
    """Which build of llama.cpp answers, where cpuft has one."""
    try:
        return f"llama.cpp {toolchain.locate().root.name}"
    except CpuftError:
        return None
