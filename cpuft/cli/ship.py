"""`cpuft ship`: which way out of training keeps what was learned."""

import json
from pathlib import Path
from typing import Any

import click

from cpuft.cli.options.adapter import adapter_option
from cpuft.cli.options.model import model_option
from cpuft.cli.options.output import json_option
from cpuft.cli.options.role import role_option
from cpuft.cli.progress import Bars
from cpuft.errors import VERDICT
from cpuft.release.ship import ShipJob, ShipReport, choose_release

FILE = click.Path(path_type=Path)


class Types(click.ParamType[tuple[str, ...]]):
    """q4_k_m,q8_0: names of types between commas."""

    name = "TYPE,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Returns the names in lower case."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip().lower() for name in str(value).split(",") if name.strip())
        if not names:
            self.fail(f"found {value!r}, expected types such as q4_k_m,q8_0", param, ctx)
        return names


@click.command()
@model_option()
@adapter_option()
@click.option("--val", "validation", required=True, type=FILE, help="Validation data, JSON lines.")
@click.option("--test", type=FILE, help="A test set of conversations: score the answers with the role's metric.")
@role_option
@click.option("--output", required=True, type=FILE, help="Where the picked file goes.")
@click.option(
    "--types", type=Types(), default=",".join(ShipJob.types), show_default=True, help="What to quantize the merge to."
)
@click.option("--imatrix", type=FILE, help="Try each type with this importance matrix, or training data for one, too.")
@click.option("--max-kl", type=click.FloatRange(0), default=ShipJob.max_kl, show_default=True, help="In nats a token.")
@click.option(
    "--max-kl-share",
    type=click.FloatRange(0),
    default=ShipJob.max_kl_share,
    show_default=True,
    help="Of the base's own KL; the smaller of both limits counts.",
)
@click.option(
    "--max-score-loss",
    type=click.FloatRange(0, 1),
    default=ShipJob.max_score_loss,
    show_default=True,
    help="Below the adapter's.",
)
@click.option(
    "--max-tokens", type=click.IntRange(1), default=ShipJob.max_tokens, show_default=True, help="An answer's."
)
@click.option("--limit", type=click.IntRange(1), help="Only the first so many examples of the validation data.")
@click.option("--threads", type=click.IntRange(0), default=0, help="0: every CPU.", show_default=True)
@json_option
@click.pass_context
def ship(ctx: click.Context, /, as_json: bool, **options: Any) -> None:
    """Compare the ways to ship a tuned model, and write the smallest merged file that is good enough.

    The adapter beside its base, and merged files of each type with and without an importance matrix, in one table of KL
    divergence, perplexity, score, size and speed. Exits with 3 where no merged file is good enough; then keep the
    adapter in a file of its own. docs/shipping.md explains the figures.

    \b
    Example:
      cpuft ship --model base.gguf --adapter RUN/adapter.gguf --val val.jsonl --test test.jsonl \\
                 --imatrix train.jsonl --types q4_k_m,q5_k_m,q8_0,f16 --output tuned.gguf
    """
    with Bars() as progress:
        report = choose_release(ShipJob(**options), progress)
    click.echo(json.dumps(report.as_json(), indent=2) if as_json else ship_table(report))
    if report.picked is None:
        click.echo(f"Nothing was written: there is no such file. {report.rule.capitalize()} was wanted.", err=True)
        ctx.exit(VERDICT)


def ship_table(report: ShipReport) -> str:
    """The report for people."""
    width = max(len(variant.name) for variant in report.variants)
    lines = [f"  {'':<{width}}      size   KL (nats)  perplexity  same token  score  tokens/s"]
    for variant in report.variants:
        mark = "*" if variant == report.picked else " "
        far = variant.divergence
        score = "    -" if variant.score is None else f"{variant.score:5.3f}"
        lines.append(
            f"{mark} {variant.name:<{width}}  {variant.n_bytes / 1e6:5.1f} MB  {far.kl:10.6f}  {far.perplexity:10.4f}  "
            f"{far.same_top:10.2%}  {score}  {variant.tokens_per_second:8.0f}"
        )
    picked = "none" if report.picked is None else f"{report.picked.name}, written to {report.output}"
    lines += [
        "",
        f"* {report.rule}: {picked}.",
        "KL, perplexity and same token: in float32, from base + adapter, over the validation data's supervised tokens.",
        "Score and tokens/s: what llama-server generates on this machine, one answer at a time.",
    ]
    return "\n".join(lines)
