"""`cpuft data`: from a role to a training set."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cpuft.backends.asked import Asked
from cpuft.backends.generator import PARALLEL, Sampling
from cpuft.backends.llama_server import CONTEXT as SHORT_CONTEXT
from cpuft.cli.optimize_prompt import optimize
from cpuft.cli.options.backend import backend_options
from cpuft.cli.options.metric import metric_option, with_metric
from cpuft.cli.options.output import json_option
from cpuft.cli.options.role import role_option
from cpuft.cli.progress import Bars
from cpuft.errors import ConfigError, DatasetError
from cpuft.machine.disk import disk_errors
from cpuft.machine.files import require_place, write_text
from cpuft.roles import Example, Role
from cpuft.roles.answer import read_answer
from cpuft.synth.card import write_card
from cpuft.synth.concepts import combine, domains_of, read_concepts, vary
from cpuft.synth.duplicates import NEAR, diversity
from cpuft.synth.filter import Criteria, Filtered, filter_records
from cpuft.synth.generation import SAMPLING, generate_records
from cpuft.synth.program import Program, read_program
from cpuft.synth.records import read_records, write_chat, write_records
from cpuft.synth.split import split_records
from cpuft.workflow.prompt import CONTEXT, PROGRAM

FILE = click.Path(path_type=Path)
output_option = click.option("--output", required=True, type=FILE, help="The file to write.")
input_option = click.option("--input", "source", required=True, type=FILE, help="Examples of the role, JSON lines.")
seed_option = click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
parallel_option = click.option(
    "--parallel", type=click.IntRange(1, 64), default=PARALLEL, show_default=True, help="Requests in flight."
)


@click.group()
def data() -> None:
    """Make a training set for a role: concepts, answers of a model, what is kept of them, and how they are divided.

    \b
    Examples:
      cpuft data concepts --role ba --num 200 --output concepts.jsonl
      cpuft data optimize-prompt --role ba --model base.gguf --output prompts/ba
      cpuft data generate --role ba --model base.gguf --optimized-program prompts/ba --concepts concepts.jsonl …
      cpuft data filter --role ba --input raw.jsonl --output good.jsonl --min-examples 100
      cpuft data split --role ba --input good.jsonl --train train.jsonl --val val.jsonl
    """


@data.command("concepts")
@role_option
@click.option("--num", type=click.IntRange(1), default=200, show_default=True, help="How many.")
@click.option("--domains", default="", help="Only these, between commas; without: all of the role's lexicon.")
@click.option("--seeds", type=FILE, help="Examples to vary, JSON lines; without: the role's own.")
@backend_options("A model that varies the role's seeds; without, they are put together from words", required=False)
@parallel_option
@seed_option
@click.option("--dry-run", is_flag=True, help="Say who would write how many, and stop.")
@output_option
@json_option
def concepts(
    role: Role, num: int, domains: str, model: Asked | None, seed: int, output: Path, as_json: bool, **options: Any
) -> None:
    """Write concepts to ask a role about, no two nearly alike.

    \b
    Examples:
      cpuft data concepts --role ba --num 200 --output concepts.jsonl
      cpuft data concepts --role ba --num 50 --domains fintech,healthcare --model base.gguf --output concepts.jsonl
    """
    _require_file(output, "the concepts")
    names = [name.strip() for name in domains.split(",") if name.strip()]
    if options["dry_run"]:
        where, by = domains_of(role, names), None if model is None else model.name
        plan = {"concepts": num, "domains": where, "model": by}
        said = f"{num} concepts, written by {by or 'nobody: from words'}, in {', '.join(where)}"
        click.echo(json.dumps(plan) if as_json else said)
        return
    if model is None:
        found = combine(role, num, names, seed)
    else:
        role, parallel = _with_seeds(role, options["seeds"]), options["parallel"]
        with model.open(parallel) as server, Bars() as progress:
            found = vary(role, server, num, names, seed, n_parallel=parallel, progress=progress)
    write_text(output, "".join(concept.line() for concept in found))
    facts = {"concepts": len(found), "diversity": round(diversity([concept.text for concept in found]), 3)}
    click.echo(json.dumps(facts) if as_json else f"{output}: {len(found)} concepts, diversity {facts['diversity']}")


@data.command("generate")
@role_option
@backend_options()
@click.option("--concepts", "concepts_file", required=True, type=FILE, help="What to ask: lines of JSON, or of text.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=SAMPLING.temperature, show_default=True)
@click.option("--max-tokens", type=click.IntRange(1), default=SAMPLING.max_tokens, show_default=True)
@click.option("--unconstrained", is_flag=True, help="Let the model write freely, not held to the role's schema.")
@click.option(
    "--optimized-program", "program", type=FILE, help="A program of `cpuft data optimize-prompt`, its folder."
)
@click.option("--tuned", is_flag=True, help="The model was tuned for the role: ask it by the role's short prompt.")
@metric_option
@click.option("--dry-run", is_flag=True, help="Say how many would be asked, and stop.")
@parallel_option
@seed_option
@output_option
@json_option
def generate(
    role: Role, model: Asked, concepts_file: Path, output: Path, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Let a model answer concepts as a role; each answer is kept at once, so that running it again goes on.

    \b
    Examples:
      cpuft data generate --role ba --model base.gguf --concepts concepts.jsonl --output raw.jsonl
      cpuft data generate --role ba --backend ollama --model qwen2.5:3b-instruct --concepts c.jsonl --output raw.jsonl
      cpuft data generate --role ba --url http://127.0.0.1:8080/v1 --model any --concepts c.jsonl --output raw.jsonl
    """
    asked = read_concepts(concepts_file)
    role = with_metric(role, options["metric"])
    program = _program(role, options["program"], options["tuned"])
    if dry_run:
        click.echo(json.dumps({"concepts": len(asked)}) if as_json else f"{len(asked)} concepts would be asked")
        return
    sampling = Sampling(options["temperature"], SAMPLING.top_p, max_tokens=options["max_tokens"])
    how: dict[str, Any] = {"constrained": not options["unconstrained"], "n_parallel": options["parallel"]}
    how |= {"model": model.label, "program": program, "sampling": sampling, "seed": options["seed"]}
    n_ctx = CONTEXT if program.demos else SHORT_CONTEXT
    with model.open(options["parallel"], n_ctx=n_ctx) as server, Bars() as progress:
        done = generate_records(role, server, asked, output, **how, progress=progress)
    if done.failed and not done.made:
        raise DatasetError(f"{output}: none of {len(done.failed)} questions was answered: {done.failed[0]}")
    for sentence in done.failed[:8]:
        click.echo(f"Warning: {sentence}", err=True)
    facts = {"made": done.made, "kept": done.kept, "failed": len(done.failed), "output": str(output)}
    click.echo(json.dumps(facts) if as_json else f"{output}: {done.made} examples made, {done.kept} were there before")


@data.command("filter")
@role_option
@metric_option
@input_option
@click.option("--min-score", type=click.FloatRange(0, 1), default=Criteria.min_score, show_default=True)
@click.option(
    "--near", type=click.FloatRange(0.1, 1), default=NEAR, show_default=True, help="How like questions may be."
)
@click.option("--min-examples", type=click.IntRange(0), default=0, help="Fail where fewer are left.")
@click.option("--test-set", "tests", type=FILE, multiple=True, help="Examples that must stay unseen; may be repeated.")
@dry_run_option
@output_option
@json_option
def filter_(role: Role, source: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Keep what is good, once: score, schema, duplicates, nothing that a test set asks; and say why the rest is not.

    \b
    Example:
      cpuft data filter --role ba --input raw.jsonl --min-score 0.7 --output good.jsonl --min-examples 100
    """
    _require_file(output, "the examples", [source])
    role = with_metric(role, options["metric"])
    held_out = tuple(record.asked for path in options["tests"] for record in read_records(path, role))
    found = filter_records(read_records(source, role), role, Criteria(options["min_score"], options["near"], held_out))
    facts = {"kept": len(found.kept), "dropped": len(found.dropped), "reasons": dict(found.reasons.most_common())}
    click.echo(json.dumps(facts) if as_json else _filter_table(found))
    if not options["dry_run"]:
        write_records(output, found.kept, role)
        write_card(output.with_suffix(".md"), role, {"kept": found.kept}, found)
    if len(found.kept) < options["min_examples"]:
        raise DatasetError(_too_few(found, options["min_examples"]))


@data.command("split")
@role_option
@input_option
@click.option("--train", required=True, type=FILE, help="Where the training examples go.")
@click.option("--val", required=True, type=FILE, help="Where those for validation go.")
@click.option(
    "--split", "share", type=click.FloatRange(0.05, 0.99), default=0.8, show_default=True, help="To training."
)
@seed_option
@dry_run_option
@json_option
def split(
    role: Role, source: Path, train: Path, val: Path, share: float, seed: int, dry_run: bool, as_json: bool
) -> None:
    """Divide examples by domain and seed; variations of one concept stay together.

    \b
    Example:
      cpuft data split --role ba --input good.jsonl --train train.jsonl --val val.jsonl --split 0.8
    """
    for path in (train, val):
        _require_file(path, "the examples", [source])
    parts = split_records(read_records(source, role), share, seed)
    if not dry_run:
        write_records(train, parts.train, role)
        write_records(val, parts.validation, role)
        write_card(train.with_suffix(".md"), role, {"train": parts.train, "val": parts.validation})
    facts = {"train": len(parts.train), "val": len(parts.validation), "groups": parts.n_groups}
    click.echo(json.dumps(facts) if as_json else ", ".join(f"{name}: {count}" for name, count in facts.items()))


@data.command("chat")
@role_option
@input_option
@dry_run_option
@output_option
@json_option
def chat(role: Role, source: Path, output: Path, dry_run: bool, as_json: bool) -> None:
    """Write examples as conversations to train on, with the role's short prompt.

    \b
    Example:
      cpuft data chat --role ba --input train.jsonl --output train-chat.jsonl
    """
    _require_file(output, "the conversations", [source])
    count = len(read_records(source, role)) if dry_run else write_chat(source, output, role)
    click.echo(json.dumps({"conversations": count}) if as_json else f"{output}: {count} conversations")


def _require_file(path: Path, what: str, inputs: Sequence[Path] = ()) -> None:
    """Raises ConfigError unless a file can stand at `path`, whose folder is made."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    require_place(path, what, inputs)


def _program(role: Role, path: Path | None, tuned: bool) -> Program:
    """How the model is asked."""
    if path is None:
        return Program(role.short_prompt if tuned else role.prompt)
    if tuned:
        raise ConfigError("--tuned asks by the role's short prompt, --optimized-program by another: give one of them")
    return read_program(path / PROGRAM if path.is_dir() else path, role)


def _with_seeds(role: Role, path: Path | None) -> Role:
    """The role with the examples of a file for its seeds."""
    if path is None:
        return role
    examples = (Example(record.inputs, read_answer(record.answer) or {}) for record in read_records(path, role))
    return replace(role, seeds=tuple(examples))


def _filter_table(found: Filtered) -> str:
    lines = [f"{len(found.kept)} of {len(found.kept) + len(found.dropped)} examples are kept"]
    return "\n".join([*lines, *(f"  {reason:<16} {count}" for reason, count in found.reasons.most_common())])


def _too_few(found: Filtered, wanted: int) -> str:
    share = len(found.kept) / max(1, len(found.kept) + len(found.dropped))
    more = "more examples" if share == 0 else f"about {round((wanted - len(found.kept)) / share)} more"
    most = next(iter(found.reasons.most_common(1)), ("nothing", 0))[0]
    return (
        f"{len(found.kept)} examples are left, expected at least {wanted}: generate {more}, or loosen what drops most "
        f"({most}) with --min-score or --near"
    )


data.add_command(optimize)
