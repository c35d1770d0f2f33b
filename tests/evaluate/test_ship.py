"""Proves that all ways out are measured, that the stated rule picks, and that nothing but the picked file is left."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner, Result

from cpuft.cli.main import cli
from cpuft.models.adapter import write_adapter
from cpuft.models.imatrix import compute_imatrix
from cpuft.models.merge import merge
from tests.conftest import ROOT
from tests.models.imatrix_text import write_text
from tests.models.tiny import random_adapter, write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ship")
    base = write_tiny_model(folder / "base.gguf", n_embd=256, n_ff=256)
    write_adapter(folder / "adapter.gguf", random_adapter(base, rank=4), alpha=8, architecture="llama")
    messages = [{"role": "user", "content": "what is it"}, {"role": "assistant", "content": "a test of all ways"}]
    (folder / "val.jsonl").write_text(json.dumps({"messages": messages}))
    compute_imatrix(base, write_text(folder / "text.txt"), folder / "imatrix.gguf", context=64, threads=1)
    return folder


def arguments(folder: Path, output: Path, *more: str | Path) -> list[str]:
    files = ("--model", folder / "base.gguf", "--adapter", folder / "adapter.gguf", "--val", folder / "val.jsonl")
    return [*map(str, ("ship", *files, "--output", output, "--max-tokens", 4, "--threads", 1, *more))]


def ship(folder: Path, output: Path, *more: str | Path) -> Result:
    return CliRunner().invoke(cli, arguments(folder, output, *more))


def test_the_smallest_good_file_is_picked_and_written(folder: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned.gguf"
    more = ("--types", "q4_0,f16", "--imatrix", folder / "imatrix.gguf", "--test", folder / "val.jsonl")
    result = ship(folder, tuned, *more, "--max-kl", "1", "--max-kl-share", "1", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    ways = {way["name"]: way for way in report["ways"]}
    assert list(ways) == ["base", "base + adapter", "merged q4_0", "merged q4_0 + imatrix", "merged f16"]
    assert ways["base + adapter"]["kl"] == 0 < ways["merged f16"]["kl"] < ways["merged q4_0"]["kl"] < ways["base"]["kl"]
    assert all(way["tokens_per_second"] > 0 and way["score"] == 0 for way in ways.values())  # noise is no YAML
    small = [ways["merged q4_0"], ways["merged q4_0 + imatrix"]]
    assert report["picked"] == min(small, key=lambda way: (way["bytes"], way["kl"]))["name"]
    assert ways[report["picked"]]["bytes"] == tuned.stat().st_size
    assert list(tmp_path.iterdir()) == [tuned]


def test_a_stricter_limit_picks_a_larger_file(folder: Path, tmp_path: Path) -> None:
    """The picked file is tried first here, and stays although a smaller one comes after it."""
    result = ship(folder, tmp_path / "tuned.gguf", "--types", "f16,q4_0", "--max-kl", "0.0001")
    assert result.exit_code == 0, result.output
    assert "* the smallest merged file with a KL of at most 0.0001 nats: merged f16, written to" in result.output
    merge(folder / "base.gguf", tmp_path / "f16.gguf", adapter_path=folder / "adapter.gguf", file_type="f16")
    assert (tmp_path / "tuned.gguf").read_bytes() == (tmp_path / "f16.gguf").read_bytes()


def test_where_no_file_is_good_enough_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    result = ship(folder, tmp_path / "tuned.gguf", "--types", "q4_0", "--max-kl", "0")
    assert result.exit_code == 1
    assert "Nothing was written" in result.output
    assert list(tmp_path.iterdir()) == []


class Usage(NamedTuple):
    """What shutil.disk_usage gives."""

    total: int
    used: int
    free: int


def test_mistakes_are_found_before_anything_is_measured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "tuned.gguf"
    cases = {
        ("--types", "q4_0,iq2_xs"): "the type iq2_xs needs an importance matrix: give --imatrix",
        ("--types", "q9"): "unknown type 'q9'",
        ("--output", str(folder / "base.gguf")): "the output is also an input",
        ("--test", str(folder / "text.txt")): "not valid JSON",
        ("--types", ","): "expected types such as q4_k_m,q8_0",
    }
    for more, sentence in cases.items():
        result = ship(folder, output, *more)
        assert result.exit_code == 2, result.output
        assert sentence in result.output
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6 - 9, 9))
    result = ship(folder, output, "--types", "q4_0,f16")
    assert result.exit_code == 2
    assert "that disk has 0 MB free: free some, or leave the largest types out" in result.output
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cpuft", *arguments(folder, tmp_path / "tuned.gguf", "--max-kl", "1")]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not list(tmp_path.glob(".tuned.gguf.*/*.gguf")):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == []
