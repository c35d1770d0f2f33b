"""Proves that all ways out are measured, that the stated rule picks, and that nothing but the picked file is left."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner, Result

from cpuft.adapters.adapter import write_adapter
from cpuft.backends.generator import GREEDY, Sampling
from cpuft.backends.llama_server import LlamaServer
from cpuft.chat.message import Completion, Message
from cpuft.cli.main import cli
from cpuft.evaluate.benchmark import read_cases
from cpuft.gguf.reader import read_gguf
from cpuft.machine.locks import scratch_folder
from cpuft.release.importance import compute_imatrix
from cpuft.release.merge import merge
from cpuft.release.ship import ShipJob, choose_release
from cpuft.roles import Score, find_role
from tests.conftest import ROOT
from tests.gguf.tiny import random_adapter, write_tiny_model
from tests.release.importance_text import write_text

ROLE = find_role("ba")


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
    more = ("--types", "q4_k_m,f16", "--imatrix", folder / "imatrix.gguf", "--test", folder / "val.jsonl")
    result = ship(folder, tuned, *more, "--max-kl", "1", "--max-kl-share", "1", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    ways = {way["name"]: way for way in report["ways"]}
    assert list(ways) == ["base", "base + adapter", "merged q4_k_m", "merged q4_k_m + imatrix", "merged f16"]
    plain, weighed, f16 = (ways[f"merged {name}"] for name in ("q4_k_m", "q4_k_m + imatrix", "f16"))
    assert ways["base + adapter"]["kl"] == 0 < f16["kl"] < weighed["kl"] < plain["kl"] < ways["base"]["kl"]
    assert all(way["tokens_per_second"] > 0 and way["score"] == 0 for way in ways.values())  # noise is no YAML
    assert plain["bytes"] < weighed["bytes"]  # by the note of the matrix, which does not count
    assert report["picked"] == "merged q4_k_m + imatrix"
    assert ways[report["picked"]]["bytes"] == tuned.stat().st_size
    assert list(tmp_path.iterdir()) == [tuned]


def test_a_stricter_limit_picks_a_larger_file(folder: Path, tmp_path: Path) -> None:
    """The picked file is tried first here, and stays although a smaller one comes after it."""
    result = ship(folder, tmp_path / "tuned.gguf", "--types", "f16,q4_0", "--max-kl", "0.0001")
    assert result.exit_code == 0, result.output
    assert "* the smallest merged file with a KL of at most 0.0001 nats: merged f16, written to" in result.output
    merge(folder / "base.gguf", tmp_path / "f16.gguf", adapter_path=folder / "adapter.gguf", file_type="f16")
    assert (tmp_path / "tuned.gguf").read_bytes() == (tmp_path / "f16.gguf").read_bytes()


def test_the_limit_is_a_share_of_the_base_s_own_distance_where_that_is_smaller(folder: Path, tmp_path: Path) -> None:
    limits = ("--max-kl", "1", "--max-kl-share", "0.001", "--json")
    report = json.loads(ship(folder, tmp_path / "tuned.gguf", "--types", "q4_0,f16", *limits).output)
    base, _, rounded, _ = (way["kl"] for way in report["ways"])
    assert report["rule"] == f"the smallest merged file with a KL of at most {base / 1000:.4f} nats"
    assert rounded > base / 1000
    assert report["picked"] == "merged f16"


def test_a_file_that_answers_worse_is_not_picked(folder: Path, tmp_path: Path) -> None:
    """Both files are near enough by KL; one of them answers otherwise."""
    asked, sampling = read_cases(folder / "val.jsonl", ROLE)[0].messages, Sampling(max_tokens=48)
    with LlamaServer(folder / "base.gguf", adapter=folder / "adapter.gguf", threads=1) as server:
        wanted = server.generate(asked, sampling).text
    job = ShipJob(
        folder / "base.gguf",
        folder / "adapter.gguf",
        folder / "val.jsonl",
        tmp_path / "tuned.gguf",
        types=("q4_0", "f32"),
        test=folder / "val.jsonl",
        role=replace(ROLE, metric=lambda answer, _: Score(float(answer == wanted), {})),
        max_kl=1,
        max_kl_share=1,
        max_tokens=sampling.max_tokens,
        threads=1,
    )
    report = choose_release(job)
    assert [variant.score for variant in report.variants] == [0, 1, 0, 1]
    assert report.rule.endswith(" and a score of at least 0.980")
    assert report.picked == report.variants[3]


def test_where_no_file_is_good_enough_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    result = ship(folder, tmp_path / "tuned.gguf", "--types", "q4_0", "--max-kl", "0")
    assert result.exit_code == 3
    assert "Nothing was written" in result.output
    assert list(tmp_path.iterdir()) == []


def test_the_output_may_be_a_link_and_no_device(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "tuned.gguf").symlink_to(Path("disk") / "tuned.gguf")
    result = ship(folder, tmp_path / "tuned.gguf", "--types", "f16")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "tuned.gguf").is_symlink()
    assert read_gguf(tmp_path / "disk" / "tuned.gguf").tensors
    os.mkfifo(tmp_path / "pipe")
    result = ship(folder, tmp_path / "pipe", "--types", "f16")
    assert (result.exit_code, "pipe: no regular file, expected the name of one" in result.output) == (2, True)


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
        ("--output", str(folder / "val.jsonl")): "the output is also an input",
        ("--output", str(tmp_path / "none" / "m.gguf")): "none: no such folder",
        ("--output", str(folder / "text.txt"), "--val", str(folder / "none.jsonl")): "none.jsonl: no such file",
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
    assert "the disk has 0.0 MB free and comparing the types needs" in result.output
    assert "MB: free some, or leave the largest types out" in result.output
    assert list(tmp_path.iterdir()) == []


def started(folder: Path, output: Path) -> "subprocess.Popen[bytes]":
    """A run that has written the first merged file."""
    command = [sys.executable, "-m", "cpuft", *arguments(folder, output, "--max-kl", "1")]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and not list(output.parent.glob(f".{output.name}.*/*.gguf")):
        time.sleep(0.01)
    return process


def test_an_interrupted_run_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with started(folder, tmp_path / "tuned.gguf") as process:
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_keeps_off_a_first_and_takes_away_what_a_killed_one_left(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "tuned.gguf"
    with started(folder, output) as process:
        second = ship(folder, output, "--types", "f16")
        assert second.exit_code == 2
        assert "tuned.gguf: another process is making it: wait for its end, or give another path" in second.output
        assert process.poll() is None
        process.kill()
    assert list(tmp_path.glob(".tuned.gguf.*/*.gguf"))
    with scratch_folder(output) as empty:
        assert list(empty.iterdir()) == []
    assert ship(folder, output, "--types", "f16").exit_code == 0
    assert list(tmp_path.iterdir()) == [output]


def test_what_answers_is_an_argument(folder: Path, tmp_path: Path) -> None:
    """No server starts: thirty lines answer for every file, and the score is theirs."""
    asked: list[tuple[str, bool]] = []

    class Server:
        """Answers with the name of its model's file."""

        def __init__(self, model: Path, *, adapter: Path | None = None, threads: int = 0) -> None:
            self.model = model
            asked.append((model.suffix, adapter is not None))

        def __enter__(self) -> "Server":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def generate(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
            return Completion(self.model.name, 2, 1.0, 1, finished=bool(messages and sampling))

    job = ShipJob(
        folder / "base.gguf", folder / "adapter.gguf", folder / "val.jsonl", tmp_path / "tuned.gguf",
        types=("f16",), test=folder / "val.jsonl", max_kl=1, max_kl_share=1,
        role=replace(ROLE, metric=lambda answer, _: Score(float("f16" in answer), {})),
    )  # fmt: skip
    report = choose_release(job, serve=Server)
    assert [(variant.score, variant.tokens_per_second) for variant in report.variants] == [(0, 2), (0, 2), (1, 2)]
    assert asked == [(".gguf", False), (".gguf", True), (".gguf", False)]
    assert report.picked == report.variants[2]
