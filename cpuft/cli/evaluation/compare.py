"""`cpuft eval compare`: a tuned model beside its base."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cpuft.backends.asked import GgufFile
from cpuft.cli.options.adapter import gguf_adapter
from cpuft.cli.options.asking import Questions, asking_options, speed_option
from cpuft.cli.options.model import find_model
from cpuft.cli.options.output import json_option
from cpuft.cli.progress import Bars
from cpuft.errors import ConfigError
from cpuft.evaluate.contender import Contender
from cpuft.evaluate.lineup import short_name
from cpuft.evaluate.pair import Change, Pair, compare, merged
from cpuft.evaluate.result import MADE_BY, Result, made_by, model_entry
from cpuft.evaluate.speed import Speed, speed_of
from cpuft.evaluate.verdicts import WinRate, read_win_rate
from cpuft.feedback.verdicts import Judged
from cpuft.machine.files import require_place
from cpuft.machine.terminal import printable
from cpuft.roles import Role
from cpuft.sources.source import FORMS
from cpuft.synth.program import Program, read_program

FILE = click.Path(path_type=Path)
SHOWN = 5  # changed examples in each direction; --output has all of them


@click.command("compare")
@click.option("--base", required=True, metavar="MODEL", help=f"The model before tuning: {FORMS}.")
@click.option(
    "--tuned", metavar="MODEL", help="The model after it, in the same forms; without: the base with --adapter."
)
@click.option("--adapter", type=FILE, help="A LoRA adapter on top of --tuned, or of the base where that is not given.")
@click.option(
    "--base-prompt",
    type=click.Choice(["same", "long"]),
    default="same",
    show_default=True,
    help="Ask the base in the same words, or by the role's prompt for models that were not tuned.",
)
@click.option("--base-program", type=FILE, help="Ask the base by a program of `cpuft data optimize-prompt`.")
@click.option("--val", "validation", type=FILE, help="Held-out conversations or texts: loss and perplexity of both.")
@asking_options
@speed_option
@click.option("--verdicts", type=FILE, help="Reviewers' verdicts on both: an export of the page, or `review`'s store.")
@click.option("--output", type=FILE, help="Write the figures and all answers to this file, as JSON.")
@json_option
def compare_models(base: str, tuned: str | None, questions: Questions, **options: Any) -> None:
    """Say how much better a tuned model is than its base, on the same examples, and how sure that is.

    The interval is that of the paired difference (95 %, bootstrap over examples). An answer counts as good from a score
    of 0.8 on. Answers are kept: a comparison that was stopped goes on, and no question is asked twice.

    \b
    Examples:
      cpuft eval compare --base base.gguf --adapter RUN/adapter.gguf --data test.jsonl --output result.json
      cpuft eval compare --base base.gguf --tuned tuned.gguf --data test.jsonl --temperature 0.7 --seeds 3 --json
    """
    output, validation, verdicts, as_json = (options[name] for name in ("output", "validation", "verdicts", "as_json"))
    if tuned is None and options["adapter"] is None:
        raise ConfigError("--tuned or --adapter is missing: give the model that was tuned, or its adapter")
    files = [find_model(base), find_model(base if tuned is None else tuned)]
    if output is not None:
        require_place(output, "the result", [*files, questions.data])
    with gguf_adapter(options["adapter"], files[1], output) as adapter, Bars() as progress:
        names = _names(base, base if tuned is None else tuned, adapter)
        first, second = _contenders(names, files, adapter, _program(questions.asking.role, options))
        reviewed = None if verdicts is None else read_win_rate(verdicts, _judged(first), _judged(second))
        pair = compare(first, second, questions.asking, validation=validation, progress=progress)
        speeds = [speed_of(one, questions.asking, options["n_speed"], progress) for one in (first, second)]
    result = _result(first, second, pair, questions, speeds, reviewed)
    if output is not None:
        result.write(output)
    click.echo(json.dumps(result.sections["comparison"]) if as_json else printable(pair_text(pair, names, reviewed)))


def pair_text(pair: Pair, names: list[str], reviewed: WinRate | None = None) -> str:
    """The comparison for people."""
    before, after = merged(pair.base), merged(pair.tuned)
    facts = pair.facts(*names)
    rows = [("score", before.average_score, after.average_score, str(pair.difference.mean))]
    rows += [(name, one, two, str(gain.mean)) for name, (one, two, gain) in pair.parts.items()]
    if pair.losses is not None:
        saved = facts["held_out"]
        change = f"{-saved['value']:+.3f} [{-saved['high']:.3f}, {-saved['low']:.3f}], mean over examples"
        rows.append(("held-out loss", pair.losses[0].loss, pair.losses[1].loss, change))
        rows.append(("perplexity", pair.losses[0].perplexity, pair.losses[1].perplexity, ""))
    width = max(len(row[0]) for row in rows)
    lines = [f"{'':<{width}}  {'base':>8}  {'tuned':>8}  difference [95 % interval]"]
    lines += [f"{name:<{width}}  {one:>8.3f}  {two:>8.3f}  {gain}" for name, one, two, gain in rows]
    if reviewed is not None:
        lines += ["", f"Win rate of the tuned model by reviewers: {reviewed}"]
    return "\n".join([*lines, "", *_sentences(pair, facts)])


def _sentences(pair: Pair, facts: dict[str, Any]) -> list[str]:
    gain, relative = pair.difference, pair.relative_gain
    share = "" if relative is None else f", {relative:+.0%} of the base's score"
    said = [f"{gain.wins} better, {gain.ties} equal, {gain.losses} worse of {facts['n_examples']} examples{share}."]
    if gain.mean.low > 0:
        said.append("The tuned model is better: 0 is below the interval.")
    elif gain.mean.high < 0:
        said.append("The tuned model is WORSE: 0 is above the interval.")
    else:
        said.append("No difference is shown: 0 is inside the interval.")
    if facts["detectable"] is not None:
        said.append(f"So many examples show a true difference of {facts['detectable']:.3f} four times out of five.")
    flips = [change for change in pair.changes if change.flips]
    up = sum(change.after > change.before for change in flips)
    said.append(f"Turned good: {up}, turned bad: {len(flips) - up} (McNemar's p = {pair.mcnemar_p:.2g}).")
    worse = [change for change in pair.changes if change.after < change.before]
    better = [change for change in reversed(pair.changes) if change.after > change.before]
    for title, changes in (("Worse:", worse), ("Better:", better)):
        said += ["", title, *map(_line, changes[:SHOWN])] if changes else []
        said += [f"  and {len(changes) - SHOWN} more (--output has all)"] if len(changes) > SHOWN else []
    return said


def _line(change: Change) -> str:
    asked = " ".join(" ".join(change.inputs.values()).split())
    why = (change.new if change.after < change.before else change.gone)[:2]
    return f"  {change.before:.2f} -> {change.after:.2f}  {asked[:70]}" + (f": {' '.join(why)}" if why else "")


def _program(role: Role, options: dict[str, Any]) -> Program | None:
    """How the base is asked; None: as the tuned model is."""
    if options["base_program"] is not None:
        return read_program(options["base_program"], role)
    return Program(role.prompt) if options["base_prompt"] == "long" else None


def _names(base: str, tuned: str, adapter: Path | None) -> list[str]:
    """What the two are called: differently, also where one file is asked in two ways, since a result is by name."""
    first, second = short_name(base), short_name(tuned) + ("" if adapter is None else " + adapter")
    return [first, f"{second}, again" if second == first else second]


def _contenders(
    names: list[str], files: list[Path], adapter: Path | None, program: Program | None
) -> tuple[Contender, Contender]:
    first, second = (GgufFile(name=path.name, path=path) for path in files)
    return (
        Contender(name=names[0], asked=first, program=program),
        Contender(name=names[1], asked=second, adapter=adapter),
    )


def _judged(contender: Contender) -> Judged:
    return Judged.of(contender.name, contender.asked.digest, contender.adapter_digest)


def _result(
    base: Contender, tuned: Contender, pair: Pair, questions: Questions, speeds: Sequence[Speed],
    reviewed: WinRate | None,
) -> Result:  # fmt: skip
    losses = (None, None) if pair.losses is None else pair.losses
    models = {
        one.name: model_entry(one, questions.asking, benchmarks, speed=speed, losses=held_out)
        for one, benchmarks, speed, held_out in zip((base, tuned), (pair.base, pair.tuned), speeds, losses, strict=True)
    }
    made = made_by(questions.asking, questions.data, metric=questions.metric)
    win_rate = None if reviewed is None else reviewed.facts()
    return Result(models, {"comparison": {**pair.facts(base.name, tuned.name), "win_rate": win_rate}, MADE_BY: made})
