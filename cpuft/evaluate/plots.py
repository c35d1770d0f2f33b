"""The pictures of several models side by side: quality, quality against speed, memory. SVG, read on light and dark."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from cpuft.evaluate.selection import Selection, number_of
from cpuft.machine.files import atomic_write
from cpuft.machine.terminal import printable
from cpuft.roles.checks import mapping_of

Entry = Mapping[str, Any]
# On a transparent ground these have a contrast of 3 or more to white and to a dark page (#0d1117), the text of 4.
TEXT, POINT, WINNER, BOUND = "#787878", "#2a78d6", "#0e918c", "#c2621b"
WIDTH, INCHES_PER_MODEL, INCHES_AROUND = 8.0, 0.35, 1.1
MAX_LABEL = 40  # characters of a model's name


def plot_quality(path: Path, entries: Mapping[str, Entry], selection: Selection) -> bool:
    """Average scores with their intervals, the best on top. False, and no file, where there are no scores."""
    known = _sorted(entries, "avg_score")
    if not known:
        return False
    figure, axes = _figure(len(known), "average score, with its 95 % interval")
    for row, (name, score) in enumerate(known):
        low, high = _interval(entries[name], score)
        axes.errorbar(
            score, row, xerr=[[score - low], [high - score]], fmt="o", capsize=4, color=_color(name, selection)
        )
    axes.set_xlim(-0.02, 1.02)
    _name_rows(axes, [name for name, _ in known])
    _bound(axes, selection.thresholds.score, "needed")
    _write(figure, path)
    return True


def plot_memory(path: Path, entries: Mapping[str, Entry], selection: Selection) -> bool:
    """The most memory that each model's server held. False, and no file, where it is known of none."""
    known = _sorted(entries, "ram_usage_mb")
    if not known:
        return False
    figure, axes = _figure(len(known), "most memory of the server, GB")
    for row, (name, megabytes) in enumerate(known):
        axes.barh(row, megabytes / 1000, height=0.6, color=_color(name, selection))
    axes.set_xlim(left=0)
    _name_rows(axes, [name for name, _ in known])
    _bound(axes, selection.thresholds.ram_gb, "allowed")
    _write(figure, path)
    return True


def plot_speed(path: Path, entries: Mapping[str, Entry], selection: Selection) -> bool:
    """Quality against speed. False, and no file, where both are known of no model."""
    speeds = dict(_sorted(entries, "tokens_per_sec"))
    known = [(name, speeds[name], score) for name, score in _sorted(entries, "avg_score") if name in speeds]
    if not known:
        return False
    figure = Figure(figsize=(WIDTH, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="tokens/s of one answer at a time", ylabel="average score")
    _color_axes(axes)
    for name, speed, score in known:
        low, high = _interval(entries[name], score)
        axes.errorbar(
            speed, score, yerr=[[score - low], [high - score]], fmt="o", capsize=4, color=_color(name, selection)
        )
        axes.annotate(
            _label(name), (speed, score), (7, 4), textcoords="offset points", color=TEXT, fontsize=8, parse_math=False
        )
    axes.set_xlim(0, 1.35 * max(speed for _, speed, _ in known))
    axes.set_ylim(-0.02, 1.02)
    if selection.thresholds.score is not None:
        axes.axhline(selection.thresholds.score, color=BOUND, linestyle="--", linewidth=1)
    if selection.thresholds.tokens_per_sec is not None:
        axes.axvline(selection.thresholds.tokens_per_sec, color=BOUND, linestyle="--", linewidth=1)
    _write(figure, path)
    return True


def _sorted(entries: Mapping[str, Entry], key: str) -> list[tuple[str, float]]:
    """The models of which a figure is known, the smallest first: rows are drawn from below."""
    known = [(name, value) for name, entry in entries.items() if (value := number_of(entry.get(key))) is not None]
    return sorted(known, key=lambda pair: pair[1])


def _interval(entry: Entry, score: float) -> tuple[float, float]:
    """Where a score's interval ends; without one, at the score."""
    interval = mapping_of(entry.get("interval"))
    low, high = (number_of(interval.get(name)) for name in ("low", "high"))
    return min(score, max(0.0, score if low is None else low)), max(score, min(1.0, score if high is None else high))


def _figure(n_rows: int, xlabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, INCHES_AROUND + INCHES_PER_MODEL * n_rows), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel)
    axes.set_ylim(-0.7, n_rows - 0.3)
    _color_axes(axes)
    return figure, axes


def _color_axes(axes: Axes) -> None:
    axes.patch.set_alpha(0)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.tick_params(colors=TEXT)
    axes.xaxis.label.set_color(TEXT)
    axes.yaxis.label.set_color(TEXT)
    for spine in axes.spines.values():
        spine.set_color(TEXT)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [_label(name) for name in names], parse_math=False)


def _bound(axes: Axes, value: float | None, title: str) -> None:
    if value is not None:
        axes.axvline(value, color=BOUND, linestyle="--", linewidth=1, label=f"{title}: {value:g}")
        axes.legend(labelcolor=TEXT, frameon=False, loc="lower left", bbox_to_anchor=(0, 0.99), fontsize=8)


def _color(name: str, selection: Selection) -> str:
    return WINNER if name == selection.winner else POINT


def _label(name: str) -> str:
    shown = " ".join(printable(name).split())
    return shown if len(shown) <= MAX_LABEL else f"…{shown[-MAX_LABEL:]}"  # of a path the end tells most


def _write(figure: Figure, path: Path) -> None:
    """The same figures give the same bytes."""
    figure.patch.set_alpha(0)
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "cpuft"}), atomic_write(path) as temporary:
        warnings.simplefilter("ignore")  # of letters in a name that the font lacks
        FigureCanvasSVG(figure).print_svg(temporary, metadata={"Date": None})  # type: ignore[no-untyped-call]
