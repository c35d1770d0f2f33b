"""How figures are summed up and printed: a JSON object a line for machines, a table for people."""

import json
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import click

from cpuft.machine.cpu import cpu_model

Row = dict[str, Any]


def rates(amount: float, seconds: Sequence[float], name: str) -> Row:
    """Amount a second as `name` (of the median time), `name`_min and `name`_max (of the longest and the shortest)."""
    median, slowest, fastest = statistics.median(seconds), max(seconds), min(seconds)
    return {
        name: round(amount / median, 2),
        f"{name}_min": round(amount / slowest, 2),
        f"{name}_max": round(amount / fastest, 2),
    }


def print_row(benchmark: str, row: Row, as_json: bool) -> None:
    """Prints one result, a line for each of its figures."""
    lines = (f"{name:20} {_text(value)}" for name, value in row.items())
    click.echo(_json_line(benchmark, row) if as_json else "\n".join(lines))


def print_rows(benchmark: str, rows: Iterable[Row], columns: Sequence[str], as_json: bool, *, width: int = 10) -> None:
    """Prints results as they come, as a table of some columns, each at least so wide; JSON lines hold all."""
    widths = {column: max(len(column), width) for column in columns}
    if not as_json:
        click.echo("  ".join(f"{column:>{width}}" for column, width in widths.items()))
    for row in rows:
        cells = (f"{_text(row[column]):>{width}}" for column, width in widths.items())
        click.echo(_json_line(benchmark, row) if as_json else "  ".join(cells))


def _json_line(benchmark: str, row: Row) -> str:
    """The row with what it takes to know, later, what was measured where and when."""
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps({"benchmark": benchmark, **row, "cpu": cpu_model(), "date": date})


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 0.01 else str(value)
