"""`cpuft role`: the roles that there are, a new one, and whether one is whole."""

import json
from pathlib import Path
from typing import Any

import click

from cpuft.cli.options.output import json_option
from cpuft.errors import ConfigError, list_all_faults
from cpuft.roles import NAMES, Role, find_role
from cpuft.roles.check import faults_of, write_skeleton

FILE = click.Path(path_type=Path)


@click.group()
def role() -> None:
    """List, check and make roles: who is asked what, what must be answered, and what an answer is worth.

    \b
    Examples:
      cpuft role list
      cpuft role new roles/clerk
    """


@role.command("list")
@json_option
def list_roles(as_json: bool) -> None:
    """List cpuft's own roles: what they are asked, and what they answer.

    \b
    Example:
      cpuft role list
    """
    facts = [_facts(find_role(name)) for name in NAMES]
    click.echo(json.dumps(facts, indent=2) if as_json else "\n".join(map(_line, facts)))


@role.command("new")
@click.argument("folder", type=FILE)
def new(folder: Path) -> None:
    """Write the skeleton of a role into FOLDER, whose name is the role's.

    \b
    Example:
      cpuft role new roles/clerk && cpuft role check roles/clerk
    """
    write_skeleton(folder)
    files = "prompt.md, short.md, schema.json, metric.py and seeds.yaml"
    click.echo(f"{folder}: edit {files}, then `cpuft role check {folder}`")


@role.command("check")
@click.argument("name")
@json_option
def check(name: str, as_json: bool) -> None:
    """Say whether a role is whole: NAME is one of cpuft's, or the folder of one's own.

    Its seeds must fit its schema and score well, its prompt name the fields, its metric survive any answer.

    \b
    Examples:
      cpuft role check ba
      cpuft role check roles/clerk
    """
    found = find_role(name)
    faults = list(faults_of(found))
    if faults:
        raise ConfigError(f"{name}: {list_all_faults(faults)}")
    summary = f"{name}: a {found.title} with {len(found.seeds)} seed examples; nothing is wrong"
    click.echo(json.dumps(_facts(found)) if as_json else summary)


def _line(facts: dict[str, Any]) -> str:
    return f"{facts['name']:<10} {facts['title']:<20} {', '.join(facts['sources'])} -> {', '.join(facts['fields'])}"


def _facts(found: Role) -> dict[str, Any]:
    return {
        "name": found.name,
        "title": found.title,
        "sources": dict(found.sources),
        "fields": list(found.fields),
        "seeds": len(found.seeds),
    }
