"""The picture of training speed and peak memory against the peers, from the JSON lines of `cpuft bench train`.

A line holds both sides of one run. Where several peers are drawn, our bar is that of the last line, so that the ratio
to an earlier peer is one of two runs: measure them close together.

Usage: python benchmarks/plot.py RESULTS.jsonl PICTURE.svg
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cpuft.errors import ConfigError, UserError
from cpuft.machine.files import atomic_write

# On a transparent ground these have a contrast of 3 or more to white and to a dark page (#0d1117), the text of 4.
TEXT = "#787878"
OURS, THEIRS = ("#2a78d6", "#0e918c", "#8163d0"), ("#c2621b", "#a8779a", "#8a8a3c")
BAR = 0.8  # of the distance between two bars
INCHES_PER_BAR, INCHES_AROUND = 0.3, 1.5
PEER_NAMES = {"peft-bf16": "transformers + PEFT, bf16", "peft-f32": "transformers + PEFT, float32"}

# What a group of bars is about (shape, tokens), and what one bar is (tok_s, peak_rss_mb).
Group = tuple[str, int]
Bar = tuple[float, float]


def read_lines(path: Path, benchmark: str) -> list[dict[str, Any]]:
    """The lines of one benchmark; others' lines may stand between them.

    Raises:
        ConfigError: a line is no JSON object of a benchmark.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            is_wanted = row["benchmark"] == benchmark
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}:{number}: expected a line of `cpuft bench … --json`") from error
        if is_wanted:
            rows.append(row)
    return rows


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of `cpuft bench train` that compare with a peer.

    Raises:
        ConfigError: a line is no JSON object of a benchmark, or no line compares anything.
    """
    rows = [row for row in read_lines(path, "train") if row.get("peer") is not None]
    if not rows:
        raise ConfigError(f"{path}: no line compares with a peer: run `cpuft bench train --peer peft-bf16 --json`")
    return rows


def arrange(rows: Iterable[dict[str, Any]]) -> dict[Group, dict[str, Bar]]:
    """The bars of each group, by their label, our own first. Of equal measurements the last counts."""
    ours: dict[Group, dict[str, Bar]] = {}
    theirs: dict[Group, dict[str, Bar]] = {}
    for row in rows:
        group = (row["shape"], row["tokens"])
        ours.setdefault(group, {})[our_label(row)] = (row["tok_s"], row["peak_rss_mb"])
        theirs.setdefault(group, {})[_peer_label(row)] = (row["peer_tok_s"], row["peer_peak_rss_mb"])
    return {group: ours[group] | theirs[group] for group in ours}


def our_label(row: dict[str, Any]) -> str:
    """What of ours was run, of a line of `train` or `scaling`."""
    recomputes = ", recomputing" if row["activations"] == "recompute" else ""
    return f"cpuft on {row['base_type'].upper()}, {row['isa']} {row['precision']}{recomputes}"


def _peer_label(row: dict[str, Any]) -> str:
    held = f", held to {row['peer_isa'].upper()}" if row["peer_isa"] else ""
    name = PEER_NAMES.get(row["peer"], str(row["peer"]))
    return name + held + (", recomputing" if row["peer_checkpointing"] else "")


def draw(groups: dict[Group, dict[str, Bar]]) -> Figure:
    """Two panels of horizontal bars: speed, and memory."""
    labels = list(dict.fromkeys(label for bars in groups.values() for label in bars))
    colors = _colors(labels)
    places, ticks = _places(groups)
    figure = Figure(figsize=(9.6, INCHES_AROUND + INCHES_PER_BAR * len(places)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, value, title, form in (
        (panels[0], 0, "tokens per second (more is better)", "{:.0f}"),
        (panels[1], 1, "peak memory in GB (less is better)", "{:.1f}"),
    ):
        for group, label, place in places:
            amount = groups[group][label][value] / (1000 if value == 1 else 1)
            bar = axes.barh(place, amount, BAR, color=colors[label], label=label)
            axes.bar_label(bar, labels=[form.format(amount)], padding=3, color=TEXT, fontsize=9)
        _style(axes, title)
    panels[0].set_yticks([place for place, _ in ticks], [name for _, name in ticks])
    panels[0].invert_yaxis()
    handles = {handle.get_label(): handle for handle in panels[0].containers}
    figure.legend(
        [handles[label] for label in labels], labels,
        loc="outside lower center", ncols=2, frameon=False, labelcolor=TEXT, fontsize=9,
    )  # fmt: skip
    return figure


def _colors(labels: Sequence[str]) -> dict[str, str]:
    """Cools colors for ours, warm ones for the peers'.

    Raises:
        ConfigError: there are more kinds of bars than one picture shows clearly.
    """
    ours = [label for label in labels if label.startswith("cpuft ")]
    theirs = [label for label in labels if label not in ours]
    if len(ours) > len(OURS) or len(theirs) > len(THEIRS):
        raise ConfigError(
            f"found {len(ours)} kinds of runs of cpuft and {len(theirs)} of peers, a picture shows at most {len(OURS)} "
            f"and {len(THEIRS)}: give a file with fewer"
        )
    return dict(zip(ours, OURS, strict=False)) | dict(zip(theirs, THEIRS, strict=False))


def _places(groups: dict[Group, dict[str, Bar]]) -> tuple[list[tuple[Group, str, float]], list[tuple[float, str]]]:
    """Where each bar stands, with room between the groups, and where the groups' names stand."""
    places: list[tuple[Group, str, float]] = []
    ticks = []
    place = 0.0
    for group, bars in groups.items():
        ticks.append((place + (len(bars) - 1) / 2, f"{group[0]}\n{group[1]} tokens"))
        for label in bars:
            places.append((group, label, place))
            place += 1
        place += 0.6
    return places, ticks


def _style(axes: Axes, title: str) -> None:
    """Nothing but bars, their values and names."""
    axes.set_title(title, color=TEXT, fontsize=10, loc="left")
    axes.margins(x=0.14)
    axes.tick_params(left=False, bottom=False, labelbottom=False, labelcolor=TEXT, labelsize=9)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(TEXT)


def save(figure: Figure, path: Path) -> None:
    """Writes an SVG with a transparent ground; the same figures give the same bytes."""
    with matplotlib.rc_context({"svg.hashsalt": "cpuft"}), atomic_write(path) as temporary:
        figure.patch.set_alpha(0)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def run_script(figure_of: Callable[[Path], Figure], usage: str | None) -> int:
    """The script that draws the picture of its first argument, a file of lines, into its second; the exit code."""
    if len(sys.argv) != 3:
        sys.exit(usage)
    try:
        save(figure_of(Path(sys.argv[1])), Path(sys.argv[2]))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def main() -> int:
    """Draws the picture."""
    return run_script(lambda results: draw(arrange(read_rows(results))), __doc__)


if __name__ == "__main__":
    sys.exit(main())
