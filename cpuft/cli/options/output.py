"""How commands print facts: as JSON for scripts, as lines for people."""

import json
from typing import Any

import click

from cpuft.machine.terminal import printable

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Prints facts as JSON or as lines."""
    click.echo(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else printable(_lines(facts)))


def _lines(facts: dict[str, Any]) -> str:
    """One `name  value` line a fact; lists of tensors are left to --json."""
    lines = []
    for name, value in facts.items():
        if name == "tensors":
            value = f"{len(value)} (list them with --json)"
        elif name.endswith("_bytes"):
            value = megabytes(value)
        elif name == "types":
            value = ", ".join(f"{key}: {v['tensors']} tensors, {megabytes(v['bytes'])}" for key, v in value.items())
        elif isinstance(value, dict):
            value = ", ".join(f"{key}: {_brief(v)}" for key, v in value.items() if v not in (None, []))
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, str) and "\n" in value:
            value = "\n  " + value.replace("\n", "\n  ")
        elif value is None or value == []:
            value = "-"
        lines.append(f"{name:<14} {value}")
    return "\n".join(lines)


def megabytes(count: int) -> str:
    """A number of bytes in MB, with the unit."""
    return f"{count / 1e6:.1f} MB"


def _brief(value: Any) -> str:
    """A value on one line, long texts cut: --json has all of them."""
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"
