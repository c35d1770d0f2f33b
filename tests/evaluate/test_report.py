"""Proves that the report says what the result holds, that nothing in it is taken for Markdown, and pictures are SVG."""

import random
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from cpuft.evaluate.comparison import mean_of
from cpuft.evaluate.report import UNKNOWN, write_report
from cpuft.evaluate.selection import Thresholds, select

MADE_BY = {
    "cpuft": "0.1.0",
    "command": ["cpuft", "eval", "models", "--model", "a model"],
    "date": "2026-01-02T03:04:05Z",
    "role": {"name": "ba", "digest": "cd" * 32},
    "metric": "ba",
    "data": {"path": "data/ba_train.jsonl", "digest": "ef" * 32, "n": 25},
    "sampling": {"temperature": 0.0, "max_tokens": 1024},
    "seed": 0,
    "n_parallel": 8,
    "server": "llama.cpp b1",
    "machine": "A CPU",
    "failed": {"gone:1b": "gone:1b: not in Ollama's store"},
}
HOSTILE = "a|b`c <script>alert(1)</script> $x_1$ [x](y)\n# title\x1b[31m"


def entry(center: float, speed: float | None = 15.0, memory: float | None = 4200.0) -> dict[str, Any]:
    chance = random.Random(7)
    scores = [min(1.0, max(0.0, center + chance.gauss(0, 0.1))) for _ in range(25)]
    mean = mean_of(scores)
    return {
        "avg_score": mean.value,
        "interval": mean.facts(),
        "n_examples": 25,
        "yaml_valid": 0.9,
        "schema_valid": 0.8,
        "completeness": 0.97,
        "id_compliance": None,
        "quantities": {"functional_requirements": 4.2},
        "parts": {"fields": 0.5, "title": 0.25},
        "tokens_per_sec": speed,
        "prompt_tokens_per_sec": speed,
        "time_to_first_token_s": 1.5,
        "ram_usage_mb": memory,
        "speed_measured": "one request at a time" if speed else None,
        "digest": "0123456789abcdef",
        "answers": [{"inputs": {"concept": str(i)}, "score": score} for i, score in enumerate(scores)],
    }


def written(folder: Path, entries: dict[str, Any], made_by: dict[str, Any] = MADE_BY) -> str:
    path = folder / "fase8 model.md"
    write_report(path, entries, made_by, select(entries, Thresholds()))
    return path.read_text()


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, its heads first."""
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in (lines[0], *lines[2:])]


def test_the_winner_the_figures_and_what_made_them(tmp_path: Path) -> None:
    text = written(tmp_path, {"small": entry(0.7), "good": entry(0.8), "slow": entry(0.9, speed=4.0)})
    decision = text.partition("## Decision\n")[2].partition("\n## ")[0]
    assert "**`good`**: it has the best average score, 0.79" in decision
    assert "Bounds are broken by 1 of 3 models." in decision
    heads, *results = rows_of(text, "Results")
    assert [row[0] for row in results] == ["`slow`", "**`good`**", "`small`"], "the best score first"
    good = dict(zip(heads, results[1], strict=True))
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", good["Average score"])
    assert (good["YAML"], good["IDs"], good["Tokens/s"], good["Memory"]) == ("90%", UNKNOWN, "15.0", "4.20 GB")
    assert rows_of(text, "What is asked of a base model")[1][3] == "4.0 tokens/s: **no**"
    assert [row[0] for row in rows_of(text, "What these examples tell apart")[1:]] == ["`good`", "`small`"]
    assert rows_of(text, "Parts of the score")[:2] == [["Model", "fields", "title"], ["`slow`", "0.50", "0.25"]]
    assert rows_of(text, "Models that could not be measured")[1][1] == "gone:1b: not in Ollama's store"
    assert "\ncpuft eval models --model 'a model'\n" in text
    assert all(word in text for word in ("`efefefefefef`", "`cdcdcdcdcdcd`", "`0123456789ab`", "8 requests in flight"))
    for kind in ("quality", "speed", "memory"):
        assert f"(fase8%20model-{kind}.svg)" in text
        root = ElementTree.parse(tmp_path / f"fase8 model-{kind}.svg").getroot()
        assert root.tag.endswith("svg")


def test_what_is_not_told_apart_is_said(tmp_path: Path) -> None:
    one, other = entry(0.8), entry(0.8)
    other["answers"] = [{**answer, "score": 0.8} for answer in other["answers"]]
    text = written(tmp_path, {"one": one, "other": other})
    assert "these examples do not tell the scores apart" in text
    assert rows_of(text, "What these examples tell apart")[1][3] == "**no**"
    lower = [{**answer, "score": answer["score"] - 0.05 - i % 3 / 100} for i, answer in enumerate(one["answers"])]
    surely = written(tmp_path, {"one": entry(0.8), "other": {**entry(0.74), "answers": lower}})
    assert "do not tell the scores apart" not in surely
    assert rows_of(surely, "What these examples tell apart")[1][3] == "yes"
    near = written(tmp_path, {"one": entry(0.68)})
    assert "more examples could still show that it does not qualify" in near
    assert "There is one model alone." in near


def test_none_qualifies(tmp_path: Path) -> None:
    text = written(tmp_path, {"weak": entry(0.3), "slow": entry(0.9, speed=None, memory=None)})
    assert "**No model qualifies.**" in text
    assert "- `slow`: generation was not measured, expected more than 10.0 tokens/s; memory was not measured" in text
    assert "- `weak`: average score is 0.29" in text


def test_what_was_not_measured_has_no_picture(tmp_path: Path) -> None:
    text = written(tmp_path, {"one": entry(0.8, speed=None, memory=None)}, {})
    assert [path.name for path in tmp_path.glob("*.svg")] == ["fase8 model-quality.svg"]
    assert "Neither was measured." in text
    assert written(tmp_path, {"one": {}}, {}).count(UNKNOWN) > 10


def test_nothing_from_a_file_is_markdown_or_steers_a_terminal(tmp_path: Path) -> None:
    hostile = {**entry(0.8), "parts": {HOSTILE: 0.5}}
    made_by = {**MADE_BY, "failed": {HOSTILE: HOSTILE}, "machine": HOSTILE, "command": ["````", HOSTILE]}
    text = written(tmp_path, {HOSTILE: hostile, "b": entry(0.7)}, made_by)
    assert "\x1b" not in text
    outside = re.sub(r"````\n.*?\n````|`[^`\n]*`", "", text, flags=re.DOTALL)
    assert "<script>" not in outside
    assert "[x](y)" not in outside
    assert "\n# title" not in outside
    assert {len(row) for row in rows_of(text, "Results")} == {9}
    assert ElementTree.parse(tmp_path / "fase8 model-speed.svg").getroot().tag.endswith("svg")


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    entries = {"one": entry(0.8), "other": entry(0.7)}
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written(tmp_path / name, entries)
        texts.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert texts[0] == texts[1]
    assert len(texts[0]) == 4
