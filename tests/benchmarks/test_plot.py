"""The picture shows what was measured, last figures first served, and is readable on white and on dark pages."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from benchmarks import plot
from cpuft.errors import ConfigError

WHITE, DARK = "#ffffff", "#0d1117"


def line(**changed: Any) -> dict[str, Any]:
    """A line of `cpuft bench train`, made up."""
    row = {
        "benchmark": "train", "shape": "tiny", "base_type": "q4_k_m", "tokens": 32, "isa": "avx2", "precision": "f32",
        "activations": "keep", "tok_s": 20.0, "peak_rss_mb": 1000, "peer": "peft-f32", "peer_isa": None,
        "peer_checkpointing": False, "peer_tok_s": 10.0, "peer_peak_rss_mb": 4000,
    }  # fmt: skip
    return row | changed


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2.1)."""
    parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def widths(axes: Axes) -> list[float]:
    return [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)]


@pytest.mark.parametrize("ground", [WHITE, DARK])
def test_colors_are_seen(ground: str) -> None:
    assert contrast(plot.TEXT, ground) >= 4
    assert all(contrast(color, ground) >= 3 for color in plot.OURS + plot.THEIRS)


def test_arrange() -> None:
    rows = [
        line(tok_s=1.0),
        line(peer="peft-bf16", peer_tok_s=11.0),
        line(tokens=64, peer_isa="avx2", activations="recompute"),
    ]
    assert plot.arrange(rows) == {
        ("tiny", 32): {
            "cpuft on Q4_K_M, avx2 f32": (20.0, 1000),
            "transformers + PEFT, float32": (10.0, 4000),
            "transformers + PEFT, bf16": (11.0, 4000),
        },
        ("tiny", 64): {
            "cpuft on Q4_K_M, avx2 f32, recomputing": (20.0, 1000),
            "transformers + PEFT, float32, held to AVX2": (10.0, 4000),
        },
    }


def test_bars_are_the_figures() -> None:
    figure = plot.draw(plot.arrange([line(), line(tokens=64, tok_s=30.0)]))
    speed, memory = figure.axes
    assert widths(speed) == [20.0, 10.0, 30.0, 10.0]
    assert widths(memory) == [1.0, 4.0, 1.0, 4.0]


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for picture in pictures:
        plot.save(plot.draw(plot.arrange([line()])), picture)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert b"<svg" in pictures[0].read_bytes()


def test_reading(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    rows = [line(), line(peer=None), {"benchmark": "gemm", "type": "q4_k"}]
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plot.read_rows(results) == [line()]
    results.write_text(json.dumps(line(peer=None)))
    with pytest.raises(ConfigError, match="no line compares with a peer"):
        plot.read_rows(results)
    results.write_text(json.dumps(line()) + "\nnonsense\n")
    with pytest.raises(ConfigError, match=r"results.jsonl:2: expected a line"):
        plot.read_rows(results)


def test_too_many_kinds_are_refused() -> None:
    rows = [line(isa=isa) for isa in ("avx2", "avx512", "avx512bf16", "avxvnni")]
    with pytest.raises(ConfigError, match="found 4 kinds of runs of cpuft"):
        plot.draw(plot.arrange(rows))
