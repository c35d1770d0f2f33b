"""`cpuft demo`: the whole journey on the bundled tiny model."""

from pathlib import Path

import click

from cpuft.cli.options.role import role_option
from cpuft.cli.progress import Bars
from cpuft.errors import VERDICT
from cpuft.roles import Role
from cpuft.toolchain.sources import project_dir
from cpuft.workflow.demo import MIN_GAIN, MIN_YAML_VALID, run_demo, table

FILE = click.Path(path_type=Path)


@click.command()
@click.option("--output", type=FILE, default=Path("artifacts/demo"), show_default=True, help="Folder of the results.")
@role_option
@click.option("--config", type=FILE, help="Training configuration instead of configs/demo.yaml.")
@click.pass_context
def demo(ctx: click.Context, output: Path, role: Role, config: Path | None) -> None:
    """Train the bundled tiny model to write requirements as YAML, merge it, and compare it with its base.

    Exits with 3 where the tuned model is not clearly better.

    \b
    Example:
      cpuft demo --output runs/demo
    """
    with Bars() as progress:
        result = run_demo(output, config or project_dir() / "configs" / "demo.yaml", role, click.echo, progress)
    click.echo(table(result))
    click.echo(f"Figures: {output / 'result.json'}; every answer: {output / 'answers.json'}")
    if not result.passed:
        click.echo(f"Failed: wanted a gain of {MIN_GAIN} in score and {MIN_YAML_VALID:.0%} valid YAML.", err=True)
        ctx.exit(VERDICT)
