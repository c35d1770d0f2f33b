"""`cpuft eval stress`: what is hard to answer well."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cpuft.backends.asked import Asked
from cpuft.backends.generator import Sampling
from cpuft.backends.llama_server import CONTEXT
from cpuft.cli.options.adapter import adapter_option
from cpuft.cli.options.backend import backend_options
from cpuft.cli.options.output import json_option
from cpuft.cli.options.role import role_option
from cpuft.cli.progress import Bars
from cpuft.errors import ConfigError, excerpt
from cpuft.evaluate.answers import Asking
from cpuft.evaluate.contender import Contender
from cpuft.evaluate.proportion import Proportion
from cpuft.evaluate.result import made_by
from cpuft.evaluate.stress import StressCase, StressReport, read_stress_cases, run_stress, stress_result
from cpuft.machine.files import require_place
from cpuft.machine.terminal import printable
from cpuft.roles import Role
from cpuft.toolchain.sources import project_dir

FILE = click.Path(path_type=Path)


@click.command()
@backend_options("The model")
@adapter_option("A LoRA adapter to apply on top of it", required=False)
@role_option
@click.option("--test-cases", "file", type=FILE, help="Hard questions, as in configs/stress_test_cases.yaml.")
@click.option("--class", "kinds", multiple=True, metavar="CLASS", help="Only cases of this class; several times.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many of each class.")
@click.option("--long-prompt", is_flag=True, help="Ask by the role's long prompt, as a model that was not tuned needs.")
@click.option("--max-tokens", type=click.IntRange(1), default=Sampling.max_tokens, show_default=True)
@click.option(
    "--context", "n_ctx", type=click.IntRange(64), default=CONTEXT, show_default=True, help="Tokens of context."
)
@click.option(
    "--parallel", "n_parallel", type=click.IntRange(1, 64), default=1, show_default=True, help="Requests in flight."
)
@click.option("--threads", type=click.IntRange(0), default=0, show_default=True, help="0: llama.cpp's choice.")
@click.option("--output", type=FILE, help="Write every case and its answer to this file, as JSON.")
@json_option
def stress(model: Asked, adapter: Path | None, role: Role, as_json: bool, **options: Any) -> None:
    """Ask a model what is hard to answer well, and say which expectations its answers did not meet.

    Answers are kept: running it again asks only what is new. docs/evaluation.md says what can be expected in a file of
    one's own. Exits with 0 whatever the rate: `cpuft eval gate` decides.

    \b
    Examples:
      cpuft eval stress --model tuned.gguf --output stress.json
      cpuft eval stress --model base.gguf --adapter RUN/adapter.gguf --class prompt-injection
      cpuft eval stress --backend ollama --model qwen25-ba-finetuned:v1 --test-cases my-cases.yaml
    """
    file = options["file"] or project_dir() / "configs" / "stress_test_cases.yaml"
    if options["output"] is not None:
        require_place(options["output"], "the result", [file, *filter(None, [model.path, adapter])])
    cases = _chosen(read_stress_cases(file, role), options["kinds"], options["limit"])
    asking = Asking(
        role=role,
        cases=[case.question(role, short=not options["long_prompt"]) for case in cases],
        sampling=Sampling(max_tokens=options["max_tokens"]),
        **{name: options[name] for name in ("n_parallel", "n_ctx", "threads")},
    )
    contender = Contender(name=str(model.path or model.label), asked=model, adapter=adapter)
    with contender.open(asking.n_parallel, threads=asking.threads, n_ctx=asking.n_ctx) as server, Bars() as progress:
        report = run_stress(server, cases, asking, progress)
    result = stress_result(contender, report, role, made_by(asking, file, metric="expectations"))
    if options["output"] is not None:
        result.write(options["output"])
    click.echo(json.dumps(result.document(), indent=1) if as_json else printable(stress_table(report)))


def stress_table(report: StressReport) -> str:
    """The report for people: a line for each class, and each failure with its sentences."""
    rows = [*report.classes.items(), ("all", report.rate)]
    width = max(len(kind) for kind, _ in rows)
    lines = [f"{'class':<{width}}  passed  rate  bounds (95 % each)"]
    lines += [_row(kind, rate, width) for kind, rate in rows]
    failed = [outcome for outcome in report.outcomes if not outcome.passed]
    for outcome in failed:
        lines += ["", f"{outcome.case.id} ({outcome.case.kind}):"]
        lines += [f"  {excerpt(sentence)}" for sentence in outcome.failures]
    return "\n".join(lines)


def _row(kind: str, rate: Proportion, width: int) -> str:
    return f"{kind:<{width}}  {rate.good:>2} of {rate.n:<2}  {rate.value:>4.0%}  [{rate.low:.0%}, {rate.high:.0%}]"


def _chosen(cases: Sequence[StressCase], kinds: tuple[str, ...], limit: int | None) -> list[StressCase]:
    """The first `limit` cases of each of the classes. Raises ConfigError, which names the classes."""
    by_class: dict[str, list[StressCase]] = {}
    for case in cases:
        by_class.setdefault(case.kind, []).append(case)
    if unknown := [kind for kind in kinds if kind not in by_class]:
        raise ConfigError(f"--class {unknown[0]}: no case has this class, expected some of {', '.join(by_class)}")
    return [case for kind, some in by_class.items() if not kinds or kind in kinds for case in some[:limit]]
