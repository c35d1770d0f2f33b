"""`cpuft eval samples`: two models' answers side by side, as a page that a person reviews."""

import json
from pathlib import Path
from typing import Any

import click

from cpuft.backends.asked import GgufFile
from cpuft.backends.generator import PARALLEL, Sampling
from cpuft.backends.llama_server import CONTEXT
from cpuft.cli.options.adapter import gguf_adapter
from cpuft.cli.options.model import find_model
from cpuft.cli.options.output import json_option
from cpuft.cli.options.role import role_option
from cpuft.cli.progress import Bars
from cpuft.errors import ConfigError
from cpuft.evaluate.answers import Asking
from cpuft.evaluate.cases import draw_cases
from cpuft.evaluate.contender import Contender
from cpuft.evaluate.pair import compare
from cpuft.evaluate.result import MADE_BY, Result, made_by, model_entry, read_result
from cpuft.evaluate.side_by_side import Page, make_page, page_html
from cpuft.machine.disk import disk_errors
from cpuft.machine.files import require_place, write_text
from cpuft.machine.terminal import printable
from cpuft.sources.source import FORMS

FILE = click.Path(path_type=Path)
NUMBER = 10  # of the specification


@click.command("samples")
@click.option("--result", type=FILE, help="Answers that there are: a file of `cpuft eval compare --output`.")
@click.option("--base", metavar="MODEL", help=f"The model before tuning: {FORMS}.")
@click.option("--tuned", metavar="MODEL", help="The model after it; without: the base with --adapter.")
@click.option("--adapter", type=FILE, help="A LoRA adapter on top of --tuned, or of the base where that is not given.")
@click.option("--concepts", type=FILE, help="What both are asked: concepts, one a line, or examples of the role.")
@role_option
@click.option("--num-samples", type=click.IntRange(1), help=f"[default: {NUMBER}, drawn by the seed; of a result, all]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws samples, shuffles sides.")
@click.option("--blind", is_flag=True, help="Open in the blind mode, which the page's button leaves.")
@click.option("--max-tokens", type=click.IntRange(1), default=Sampling.max_tokens, show_default=True)
@click.option("--parallel", type=click.IntRange(1, 64), default=PARALLEL, show_default=True, help="In flight.")
@click.option("--context", type=click.IntRange(64), default=CONTEXT, show_default=True, help="Tokens of each.")
@click.option("--threads", type=click.IntRange(0), default=0, show_default=True, help="0: llama.cpp's choice.")
@click.option("--output", required=True, type=FILE, help="The HTML file to write.")
@json_option
def samples(result: Path | None, output: Path, as_json: bool, seed: int, blind: bool, **options: Any) -> None:
    """Write two models' answers to the same questions side by side into one HTML file.

    The file needs no server and loads nothing. It marks differences, filters, and takes a reviewer's verdicts, openly
    or blind, which its Export button saves; `cpuft review` stores them as they are given. Answers are kept: where it
    was stopped, no question is asked twice.

    \b
    Examples:
      cpuft eval samples --result result.json --output side_by_side.html
      cpuft eval samples --base base.gguf --adapter RUN/adapter.gguf --concepts concepts.jsonl --output page.html
    """
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    require_place(output, "the page", filter(None, [result, options["concepts"]]))
    if result is None:
        page = make_page(_asked(seed, output, **options).document(), seed=seed, blind=blind)
    else:
        _require_alone(options)
        page = make_page(read_result(result).document(), limit=options["num_samples"], seed=seed, blind=blind)
    write_text(output, page_html(page))
    facts = _facts(page, output)
    click.echo(json.dumps(facts) if as_json else printable(_sentence(facts)))


def _asked(
    seed: int, output: Path, *, base: str | None, tuned: str | None, adapter: Path | None, concepts: Path | None,
    **options: Any,
) -> Result:  # fmt: skip
    """The answers of both models."""
    if base is None or concepts is None or (tuned is None and adapter is None):
        raise ConfigError(
            "nothing to show: give --result, or both models and what to ask them: --base, --tuned or --adapter, and "
            "--concepts"
        )
    names = [base, f"{base} + adapter" if tuned is None else tuned]
    if names[0] == names[1]:
        raise ConfigError(f"--tuned is the base itself ({base}): give the model that was tuned, or leave it out")
    asking = Asking(
        role=options["role"],
        cases=draw_cases(concepts, options["role"], options["num_samples"] or NUMBER, seed),
        sampling=Sampling(max_tokens=options["max_tokens"]),
        n_parallel=options["parallel"],
        n_ctx=options["context"],
        threads=options["threads"],
    )
    files = [find_model(name) for name in (base, base if tuned is None else tuned)]
    require_place(output, "the page", files)
    with gguf_adapter(adapter, files[1], output) as file, Bars() as progress:
        first, second = (
            Contender(name=name, asked=GgufFile(name=path.name, path=path), adapter=on)
            for name, path, on in zip(names, files, (None, file), strict=True)
        )
        pair = compare(first, second, asking, progress=progress)
        models = {one.name: model_entry(one, asking, got) for one, got in ((first, pair.base), (second, pair.tuned))}
    return Result(models, {"comparison": pair.facts(*names), MADE_BY: made_by(asking, concepts)})


def _require_alone(options: dict[str, Any]) -> None:
    """Raises ConfigError where a result is given, and questions, too."""
    if given := [name for name in ("base", "tuned", "adapter", "concepts") if options[name] is not None]:
        raise ConfigError(f"--result has answers already, and --{given[0]} asks for others: give one of them")


def _facts(page: Page, output: Path) -> dict[str, Any]:
    outcomes = [sample["outcome"] for sample in page.data["samples"]]
    counts = {name: outcomes.count(name) for name in ("better", "equal", "worse")}
    return {"output": str(output), "samples": len(outcomes), **counts}


def _sentence(facts: dict[str, Any]) -> str:
    counts = ", ".join(f"{facts[name]} {name}" for name in ("better", "equal", "worse"))
    return (
        f"{facts['output']}: {facts['samples']} samples, the tuned model's answers are {counts}.\n"
        f"Open it in a browser, or judge with `cpuft review {facts['output']}`, which stores verdicts."
    )
