"""`cpuft bootstrap`: from a role to a tuned model, with data that a model wrote itself."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cpuft.cli.options.metric import metric_option, with_metric
from cpuft.cli.options.model import model_option
from cpuft.cli.options.output import json_option
from cpuft.cli.options.role import role_option
from cpuft.cli.options.search import search_of, search_options
from cpuft.cli.progress import Bars
from cpuft.machine.files import require_folder
from cpuft.roles import Role
from cpuft.synth.filter import Criteria
from cpuft.synth.generation import SAMPLING
from cpuft.synth.records import RoleRecord, read_records, seed_records
from cpuft.synth.split import split_records
from cpuft.workflow.bootstrap import Bootstrap, Plan, Row, run_bootstrap
from cpuft.workflow.prompt import HELD_OUT, answers_of, apart, divide

FILE = click.Path(path_type=Path)


class Counts(click.ParamType[tuple[int, ...]]):
    """100,200: a number for each round."""

    name = "N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Returns the numbers."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",") if word.strip()]
        if not words or not all(word.isdecimal() and int(word) > 0 for word in words):
            self.fail(f"found {value!r}, expected numbers such as 100,200", param, ctx)
        return tuple(map(int, words))


@click.command()
@role_option
@model_option("The base model", "--base", "base")
@click.option("--iterations", type=click.IntRange(1), help="Rounds; without: as many as --examples has numbers.")
@click.option(
    "--examples", type=Counts(), default="100,200", show_default=True, help="Concepts asked in each; the last goes on."
)
@click.option("--seeds", type=FILE, help="Examples to begin with, JSON lines; without: the role's own.")
@click.option(
    "--test", type=FILE, help="Examples to measure by; without: two fifths of the seeds, which then only test."
)
@click.option("--concepts", type=FILE, help="What to ask about, in this order; without: put together from words.")
@click.option("--config", type=FILE, help="Of the trainings, the keys of configs/lora.yaml.")
@click.option("--min-score", type=click.FloatRange(0, 1), default=Criteria.min_score, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 2), default=SAMPLING.temperature, show_default=True)
@click.option("--own-prompt", is_flag=True, help="Ask the base by the role's own prompt; look for no better one.")
@metric_option
@search_options
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@click.option("--output", required=True, type=FILE, help="The folder of all of it.")
@json_option
def bootstrap(role: Role, output: Path, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Let a model write the examples that it then learns from, and measure after each round what it gained.

    Prompt, concepts, answers, filter, split, training, comparison; the next round is written by the better model. It
    ends where a round gains nothing, and keeps the best model, not the last, as OUTPUT/best.gguf. Running it again goes
    on where it stopped; what has not changed is not done twice.

    \b
    Examples:
      cpuft bootstrap --role ba --base base.gguf --iterations 2 --examples 100,200 --output runs/ba
      cpuft bootstrap --role ba --base base.gguf --own-prompt --examples 60 --test test.jsonl --output runs/ba
    """
    require_folder(output, "the run")
    plan = _plan(role, output, options)
    if dry_run:
        click.echo(json.dumps(_facts(plan)) if as_json else _sentence(plan))
        return
    role = with_metric(role, options["metric"], [*plan.seeds, *plan.test])
    with Bars() as progress:
        result = run_bootstrap(role, plan, lambda line: click.echo(line, err=True), progress)
    click.echo(json.dumps(result.facts()) if as_json else bootstrap_table(result, len(plan.test)))


def bootstrap_table(result: Bootstrap, n_test: int) -> str:
    """The result for people."""
    lines = [f"{'':<8}{'asked':>6}{'kept':>6}  {'score':<22}{'held to the schema':<22}against the best before"]
    lines += [_line(row) for row in result.rows]
    ended = "; it ended early, because the last round gained nothing" if result.ended_early else ""
    lines += [
        "",
        f"Scores of {n_test} examples that nobody learned from, temperature 0, 95 % intervals; they chose the best.",
    ]
    return "\n".join([*lines, f"The best is {result.best}{ended}."])


def _line(row: Row) -> str:
    gain = "" if row.gain is None else str(row.gain)
    return f"{row.name:<8}{row.asked or '':>6}{row.kept or '':>6}  {row.free!s:<22}{row.constrained!s:<22}{gain}"


def _plan(role: Role, output: Path, options: dict[str, Any]) -> Plan:
    seeds: Sequence[RoleRecord] = (
        seed_records(role) if options["seeds"] is None else read_records(options["seeds"], role)
    )
    seeds, test = _test_of(role, seeds, options["test"], options["seed"])
    search = search_of(options)
    return Plan(
        base=options["base"],
        output=output,
        examples=_rounds(options["examples"], options["iterations"]),
        concepts=options["concepts"],
        seeds=seeds,
        test=test,
        config=options["config"],
        search=None if options["own_prompt"] else search,
        criteria=Criteria(min_score=options["min_score"]),
        sampling=replace(SAMPLING, temperature=options["temperature"], max_tokens=search.max_tokens),
        n_parallel=search.n_parallel,
        seed=search.seed,
    )


def _test_of(
    role: Role, seeds: Sequence[RoleRecord], test: Path | None, seed: int
) -> tuple[Sequence[RoleRecord], Sequence[RoleRecord]]:
    """(seeds, test examples), apart."""
    if test is None:
        parts = split_records(seeds, 1.0 - HELD_OUT, seed)
        return parts.train, parts.validation
    tested = read_records(test, role)
    left = apart(seeds, tested)
    if len(left) < len(seeds):
        click.echo(f"Note: {len(seeds) - len(left)} seeds ask what {test} asks: they are not learned", err=True)
    return left, tested


def _rounds(examples: Sequence[int], iterations: int | None) -> tuple[int, ...]:
    wanted = len(examples) if iterations is None else iterations
    return (*examples[:wanted], *[examples[-1]] * (wanted - len(examples)))


def _facts(plan: Plan) -> dict[str, Any]:
    facts: dict[str, Any] = {"rounds": list(plan.examples), "seeds": len(plan.seeds), "test": len(plan.test)}
    if plan.search is not None:
        parts = divide(plan.seeds, (), plan.seed)
        facts["prompt_answers"] = answers_of(parts, plan.search)
    return {**facts, "answers": sum(plan.examples), "measured_answers": 2 * len(plan.test) * _models(plan)}


def _models(plan: Plan) -> int:
    """How many are measured."""
    return 1 + (plan.search is not None) + len(plan.examples)


def _sentence(plan: Plan) -> str:
    facts = _facts(plan)
    searched = f"{facts['prompt_answers']} answers to look for a prompt, " if "prompt_answers" in facts else ""
    return (
        f"{searched}{facts['answers']} answers to learn from in {len(plan.examples)} rounds, as many trainings, and "
        f"{facts['measured_answers']} answers to {facts['test']} test examples to measure"
    )
