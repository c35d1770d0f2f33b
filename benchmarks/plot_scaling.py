"""The picture of how speed and memory scale, from the JSON lines of `cpuft bench scaling`.

Usage: python benchmarks/plot_scaling.py RESULTS.jsonl PICTURE.svg
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.plot import OURS, TEXT, our_label, read_lines, run_script
from benchmarks.scaling import FIELDS
from cpuft.errors import ConfigError

COLUMNS = 3
PANEL_WIDTH, PANEL_HEIGHT, LEGEND_HEIGHT = 3.2, 2.3, 0.4  # inches

# The points of a curve: value of the variable -> (tok_s, peak_rss_mb).
Curve = dict[int, tuple[float, float]]
# By variable, then by the curve's label.
Curves = dict[str, dict[str, Curve]]


@dataclass(frozen=True)
class Panel:
    """One small picture: a figure of the lines of one variable, against its values."""

    variable: str  # of FIELDS
    name: str  # below the horizontal axis
    title: str
    is_memory: bool = False  # else speed
    doubles: bool = False  # the values are spread over powers of two: a logarithmic axis


SPEED = "tokens per second"
PANELS = (
    Panel("threads", "threads", SPEED),
    Panel("length", "tokens in the sequence", SPEED, doubles=True),
    Panel("length", "tokens in the sequence", "peak memory in GB", is_memory=True, doubles=True),
    Panel("rank", "LoRA rank", SPEED, doubles=True),
    Panel("targets", "adapted linear layers", SPEED),
)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of `cpuft bench scaling`.

    Raises:
        ConfigError: a line is no JSON object of a benchmark, or none is of this one.
    """
    rows = read_lines(path, "scaling")
    if not rows:
        raise ConfigError(f"{path}: no line is of scaling: run `cpuft bench scaling --json`")
    return rows


def arrange(rows: Iterable[dict[str, Any]]) -> Curves:
    """The curves of each variable, in ascending order of their values. Of equal measurements the last counts.

    Raises:
        ConfigError: lines of one curve differ in more than its variable.
    """
    curves: Curves = {}
    constants: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        variable, label = row["by"], f"{row['shape']}, {our_label(row)}"
        constant = {name: row[field] for name, field in FIELDS.items() if name != variable}
        if constants.setdefault((variable, label), constant) != constant:
            raise ConfigError(
                f"the lines by {variable} of {label} are of {constants[variable, label]} and of {constant}: "
                "give a file with one of them"
            )
        curve = curves.setdefault(variable, {}).setdefault(label, {})
        curve[row["value"]] = (row["tok_s"], row["peak_rss_mb"])
    return {
        variable: {label: dict(sorted(curve.items())) for label, curve in of_variable.items()}
        for variable, of_variable in curves.items()
    }


def draw(curves: Curves) -> Figure:
    """A panel for each of PANELS that there are lines of.

    Raises:
        ConfigError: there are more kinds of runs than one picture shows clearly.
    """
    labels = list(dict.fromkeys(label for of_variable in curves.values() for label in of_variable))
    if len(labels) > len(OURS):
        raise ConfigError(
            f"found {len(labels)} kinds of runs, a picture shows at most {len(OURS)}: give a file with fewer"
        )
    colors = dict(zip(labels, OURS, strict=False))
    panels = [panel for panel in PANELS if panel.variable in curves]
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(PANEL_WIDTH * columns, PANEL_HEIGHT * rows + LEGEND_HEIGHT), layout="constrained")
    handles = {}
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, place)
        for label, curve in curves[panel.variable].items():
            amounts = [memory / 1000 if panel.is_memory else speed for speed, memory in curve.values()]
            (handles[label],) = axes.plot(list(curve), amounts, color=colors[label], marker="o", markersize=4)
        _style(axes, panel, sorted({value for curve in curves[panel.variable].values() for value in curve}))
    figure.legend(
        [handles[label] for label in labels], labels,
        loc="outside lower center", ncols=1, frameon=False, labelcolor=TEXT, fontsize=9,
    )  # fmt: skip
    return figure


def _style(axes: Axes, panel: Panel, values: list[int]) -> None:
    """A quiet frame that starts at zero, with the measured values as the horizontal axis's ticks."""
    axes.set_title(panel.title, color=TEXT, fontsize=10, loc="left")
    axes.set_xlabel(panel.name, color=TEXT, fontsize=9)
    if panel.doubles:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_ylim(bottom=0)
    axes.tick_params(color=TEXT, labelcolor=TEXT, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(TEXT)


def main() -> int:
    """Draws the picture."""
    return run_script(lambda results: draw(arrange(read_rows(results))), __doc__)


if __name__ == "__main__":
    sys.exit(main())
