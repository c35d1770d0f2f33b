"""The scaling curves show what was measured, and lines that do not belong on one curve are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from benchmarks import plot, plot_scaling
from benchmarks.scaling import FIELDS
from cpuft.errors import ConfigError


def line(by: str, value: int, **changed: Any) -> dict[str, Any]:
    """A line of `cpuft bench scaling`, made up."""
    row = {
        "benchmark": "scaling", "shape": "tiny", "base_type": "q4_k_m", "by": by, "value": value, "tokens": 32,
        "rank": 16, "n_targets": 7, "threads": 2, "activations": "keep", "isa": "avx2", "precision": "f32",
        "tok_s": 20.0, "peak_rss_mb": 1000,
    }  # fmt: skip
    return row | {FIELDS[by]: value} | changed


LABEL = "tiny, cpuft on Q4_K_M, avx2 f32"
EVERY_VARIABLE = [line(by, value, tok_s=10.0 * value, peak_rss_mb=500 * value) for by in FIELDS for value in (2, 4)]


def points(axes: Axes) -> list[list[tuple[float, float]]]:
    """Of each curve of a panel."""
    return [[(float(x), float(y)) for x, y in np.asarray(curve.get_xydata())] for curve in axes.lines]


def test_arrange() -> None:
    rows = [
        line("rank", 8),
        line("rank", 4, tok_s=30.0),
        line("rank", 8, tok_s=25.0),
        line("rank", 8, activations="recompute"),
        line("threads", 1),
    ]
    assert plot_scaling.arrange(rows) == {
        "rank": {LABEL: {4: (30.0, 1000), 8: (25.0, 1000)}, LABEL + ", recomputing": {8: (20.0, 1000)}},
        "threads": {LABEL: {1: (20.0, 1000)}},
    }
    assert list(plot_scaling.arrange(rows)["rank"][LABEL]) == [4, 8]


def test_lines_of_different_work_make_no_curve() -> None:
    with pytest.raises(ConfigError, match=r"the lines by rank of tiny, .* give a file with one of them"):
        plot_scaling.arrange([line("rank", 4), line("rank", 8, tokens=64)])


def test_curves_are_the_figures() -> None:
    figure = plot_scaling.draw(plot_scaling.arrange(EVERY_VARIABLE))
    speed, memory = [(2.0, 20.0), (4.0, 40.0)], [(2.0, 1.0), (4.0, 2.0)]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles.count("peak memory in GB") == 1
    for axes, title in zip(figure.axes, titles, strict=True):
        assert points(axes) == [memory if title == "peak memory in GB" else speed]
        assert axes.get_ylim()[0] == 0
        assert list(axes.get_xticks()) == [2, 4]
        is_logarithmic = axes.get_xlabel() in ("tokens in the sequence", "LoRA rank")
        assert axes.get_xscale() == ("log" if is_logarithmic else "linear")


def test_only_what_was_measured_has_a_panel() -> None:
    figure = plot_scaling.draw(plot_scaling.arrange([line("length", 64), line("length", 64, precision="int8")]))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["tokens per second", "peak memory in GB"]
    assert [curve.get_color() for curve in figure.axes[0].lines] == list(plot.OURS[:2])


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for picture in pictures:
        plot.save(plot_scaling.draw(plot_scaling.arrange(EVERY_VARIABLE)), picture)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert b"<svg" in pictures[0].read_bytes()


def test_reading(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    rows = [line("rank", 4), {"benchmark": "gemm", "type": "q4_k"}]
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plot_scaling.read_rows(results) == [line("rank", 4)]
    results.write_text(json.dumps(rows[1]))
    with pytest.raises(ConfigError, match="no line is of scaling"):
        plot_scaling.read_rows(results)
    results.write_text(json.dumps(rows[0]) + "\nnonsense\n")
    with pytest.raises(ConfigError, match=r"results.jsonl:2: expected a line"):
        plot_scaling.read_rows(results)


def test_too_many_kinds_are_refused() -> None:
    rows = [line("rank", 4, isa=isa) for isa in ("avx2", "avx512", "avx512bf16", "avxvnni")]
    with pytest.raises(ConfigError, match="found 4 kinds of runs"):
        plot_scaling.draw(plot_scaling.arrange(rows))
