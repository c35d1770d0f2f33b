"""`cpuft doctor`."""

import json
from dataclasses import asdict

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of {name, status, found, mend}.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say what works on this machine, what is missing, and how to mend it.

    The exit code is 2 where something is missing that training needs, else 0.

    \b
    Examples:
      cpuft doctor
      cpuft doctor --json | jq '.[] | select(.status == "missing")'
    """
    from cpuft.workflow.checks import run_checks

    checks = run_checks()
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            click.echo(f"{check.name:<{width}}  {check.status:<8}  {check.found}")
            if check.mend:
                click.echo(f"{'':<{width}}  {'':<8}  -> {check.mend}")
    ctx.exit(2 if any(check.status == "missing" for check in checks) else 0)
