"""`cpuft eval gate`: go or no-go."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cpuft.cli.options.output import json_option
from cpuft.errors import VERDICT
from cpuft.evaluate.figures import figures_of, find_tuned
from cpuft.evaluate.gate import Decision, Judged, Verdict, decide, judge_all
from cpuft.evaluate.result import read_result
from cpuft.evaluate.thresholds import Thresholds, read_thresholds
from cpuft.machine.terminal import printable
from cpuft.toolchain.sources import project_dir

FILE = click.Path(path_type=Path)
PERCENT = {"relative_gain", "yaml_valid", "stress", "perplexity_growth", "general_questions", "win_rate"}
SIGNED = {"gain", "relative_gain", "perplexity_growth", "general_questions"}


@click.command()
@click.argument("results", nargs=-1, required=True, type=FILE, metavar="RESULT.json…")
@click.option("--thresholds", type=FILE, help="What must be reached, instead of configs/gate.yaml.")
@json_option
@click.pass_context
def gate(ctx: click.Context, results: tuple[Path, ...], thresholds: Path | None, as_json: bool) -> None:
    """Decide whether a tuned model is good enough, from what compare, original, stress, forgetting and models found.

    Each criterion is decided on the worse end of its interval. Exits with 0 for go, and with 3 where the model is not
    good enough or there are not enough examples to tell. docs/evaluation.md explains the criteria.

    \b
    Examples:
      cpuft eval gate compare.json original.json stress.json forgetting.json models.json
      cpuft eval gate compare.json --thresholds my-gate.yaml --json && cpuft import-ollama tuned.gguf --name ba:v2
    """
    path = thresholds or project_dir() / "configs" / "gate.yaml"
    rules = read_thresholds(path)
    given = [(file, read_result(file)) for file in dict.fromkeys(results)]
    judged = judge_all(figures_of(given, rules), rules)
    decision, model = decide(judged), find_tuned(given).name
    if as_json:
        click.echo(json.dumps(facts_of(model, judged, decision, path, rules), indent=2, ensure_ascii=False))
    else:
        click.echo(printable(gate_table(model, judged, decision)))
    if decision != Decision.GO:
        ctx.exit(VERDICT)


def facts_of(model: str, judged: Sequence[Judged], decision: Decision, path: Path, rules: Thresholds) -> dict[str, Any]:
    """The decision, ready for JSON."""
    return {
        "model": model,
        "decision": str(decision),
        "enough_examples": max((one.enough for one in judged if one.enough), default=None),
        "thresholds": {
            "path": str(path),
            "confidence": rules.confidence,
            "power": rules.power,
            "min_examples": rules.min_examples,
        },
        "criteria": [one.facts() for one in judged],
    }


def gate_table(model: str, judged: Sequence[Judged], decision: Decision) -> str:
    """The decision for people: a line for each criterion, below it why it is open or failed, and the decision."""
    rows = [("criterion", "value", "interval", "bound", "verdict"), *map(_row, judged)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = []
    for row, one in zip(rows, [None, *judged], strict=True):
        cells = [row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4]]
        lines.append("  ".join(cells))
        if one is not None and one.sentence:
            lines.append(f"    {one.sentence}")
    return "\n".join([*lines, "", f"{model}: {_why(judged, decision)}"])


def _row(one: Judged) -> tuple[str, str, str, str, str]:
    name, figure = one.threshold.name, one.figure
    notes = [*(["optional"] if one.threshold.optional and figure is None else [])]
    notes += [] if one.threshold.critical else ["not critical"]
    verdict = str(one.verdict) + (f" ({', '.join(notes)})" if notes else "")
    bound = f"{one.threshold.sign} {_shown(name, one.threshold.limit)}"
    if figure is None:
        return name, "-", "-", bound, verdict
    ends = (figure.low, figure.high)
    interval = "-" if None in ends else f"[{', '.join(_shown(name, end) for end in ends if end is not None)}]"
    return name, _shown(name, figure.value), interval, bound, verdict


def _why(judged: Sequence[Judged], decision: Decision) -> str:
    """The decision with what it rests on."""
    critical = [one for one in judged if one.threshold.critical]
    if decision == Decision.GO:
        return "go. Every critical criterion that was measured is met."
    if decision == Decision.UNDECIDED:
        most = max((one.enough for one in critical if one.enough), default=None)
        more = "" if most is None else f"; about {most} would be for all of them"
        return f"not enough examples to tell{more}."
    failed = [one.threshold.name for one in critical if one.verdict == Verdict.FAIL]
    missing = [
        one.threshold.name for one in critical if one.verdict == Verdict.UNMEASURED and not one.threshold.optional
    ]
    said = [f"failed: {', '.join(failed)}"] if failed else []
    said += [f"not measured: {', '.join(missing)}"] if missing else []
    return f"no-go. {'; '.join(said).capitalize() or 'Nothing was measured'}."


def _shown(name: str, value: float) -> str:
    """A figure in the unit in which people read it."""
    if not math.isfinite(value):
        return "beyond"
    sign = "+" if name in SIGNED and value != 0 else ""
    if name in PERCENT:
        return f"{value:{sign}.1%}"
    return f"{value:{sign}.3f}" if name in ("gain", "generalization") else f"{value:{sign}.1f}"
