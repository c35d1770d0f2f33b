"""`cpuft eval run`: a model's average score on a test set."""

import json
from pathlib import Path

import click

from cpuft.backends.asked import Asked
from cpuft.backends.generator import Sampling
from cpuft.cli.options.adapter import adapter_option
from cpuft.cli.options.backend import backend_options
from cpuft.cli.options.metric import metric_option, with_metric
from cpuft.cli.options.role import role_option
from cpuft.cli.progress import Bars
from cpuft.evaluate.benchmark import Benchmark, read_cases, run_benchmark
from cpuft.machine.files import require_place, write_text
from cpuft.roles import Role
from cpuft.synth.records import RoleRecord

FILE = click.Path(path_type=Path)


@click.command("run")
@backend_options("The model")
@adapter_option("A LoRA adapter to apply on top of it", required=False)
@role_option
@metric_option
@click.option("--data", required=True, type=FILE, help="Test set: conversations as JSON lines.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many examples.")
@click.option("--max-tokens", type=click.IntRange(1), default=Sampling.max_tokens, show_default=True)
@click.option("--threads", type=click.IntRange(0), default=0, show_default=True, help="0: llama.cpp's choice.")
@click.option("--output", type=FILE, help="Write the averages and every answer to this file, as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the averages as JSON.")
def run(
    model: Asked,
    adapter: Path | None,
    role: Role,
    metric: str | None,
    data: Path,
    limit: int | None,
    max_tokens: int,
    threads: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Let a model answer a test set at temperature 0, without a grammar, and score the answers.

    \b
    Examples:
      cpuft eval run --model tuned.gguf --data test.jsonl --output result.json
      cpuft eval run --backend ollama --model qwen25-ba-finetuned:v1 --data test.jsonl
    """
    if output is not None:
        require_place(output, "the answers", [data, *filter(None, [model.path])])
    cases = read_cases(data, role)[:limit]
    role = with_metric(role, metric, [RoleRecord(case.inputs, case.reference) for case in cases], all_known=True)
    sampling = Sampling(max_tokens=max_tokens)
    with model.open(adapter=adapter, threads=threads) as server, Bars() as progress:
        result = run_benchmark(server, cases, role.metric, sampling=sampling, progress=progress)
    facts = {"model": str(model.path or model.label), **result.summary()}
    click.echo(json.dumps(facts) if as_json else _table(result))
    if output is not None:
        report = {**facts, "answers": result.details()}
        write_text(output, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def _table(result: Benchmark) -> str:
    facts = result.summary()
    parts = {f"  {name}": value for name, value in facts.pop("parts").items()}
    rows = {"n_examples": facts.pop("n_examples"), "avg_score": facts.pop("avg_score"), **parts, **facts}
    return "\n".join(f"{name:<16} {value}" for name, value in rows.items())
