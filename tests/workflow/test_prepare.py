"""Proves that a base is made, checked and described, that work goes on after an interruption, and what is refused."""

import hashlib
import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cpuft.cli.main import cli
from cpuft.errors import ModelError
from cpuft.gguf.reader import read_gguf
from cpuft.machine.locks import sole_use
from cpuft.sources.source import resolve
from cpuft.workflow import prepare
from tests.conftest import ROOT
from tests.gguf.tiny import write_tiny_model

FILES = {"source.json", "model.gguf", "model.json", "plan.json", "README.txt"}
LOCK = ".lock"  # it stays, so that two processes always meet at the same file


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("source") / "f16.gguf", half=True)


@pytest.fixture(autouse=True)
def little_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan over few examples."""
    for name, count in (("PLAN_EXAMPLES", 8), ("PLAN_VALIDATION", 2), ("PLAN_TOKENS", 64)):
        monkeypatch.setattr(prepare, name, count)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["prepare", *map(str, arguments)])


def test_a_base_is_made(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts" / "base"
    result = run("--source", source, "--quantization", "8bit", "--output", folder)
    assert result.exit_code == 0, result.output
    assert {entry.name for entry in folder.iterdir()} == FILES | {LOCK}
    assert read_gguf(folder / "model.gguf").tensors["blk.0.attn_q.weight"].type.name == "q8_0"
    description = json.loads((folder / "model.json").read_text())
    assert description["sha256"] == hashlib.sha256((folder / "model.gguf").read_bytes()).hexdigest()
    assert (description["architecture"], description["file_type"], description["trainable"]) == ("llama", "q8_0", True)
    assert (description["licence"], description["notes"]) == (None, [])
    template = description["template"]
    assert template["works"]
    assert template["trained_on"].startswith("Paris")
    assert "capital of France" in template["text"]
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["memory"]["fits"]
    assert plan["run"]["examples"] == 8
    assert (folder / "README.txt").read_text() in result.output


def test_the_same_quantization_takes_no_second_copy(source: Path, tmp_path: Path) -> None:
    for quantization in ("f16", "keep"):
        result = run("--source", source, "--quantization", quantization, "--output", tmp_path / quantization)
        assert result.exit_code == 0, result.output
        assert (tmp_path / quantization / "model.gguf").samefile(source)


def test_requantizing_a_quantized_file_is_told(source: Path, tmp_path: Path) -> None:
    run("--source", source, "--quantization", "q8_0", "--output", tmp_path / "first")
    result = run("--source", tmp_path / "first" / "model.gguf", "--quantization", "q4_0", "--output", tmp_path / "two")
    assert "quantized from q8_0, which loses more than from f16" in result.output


@pytest.mark.parametrize("missing", ["model.gguf", "model.json", "plan.json", "README.txt"])
def test_it_goes_on(missing: str, source: Path, tmp_path: Path) -> None:
    arguments = ("--source", source, "--quantization", "q8_0", "--output", tmp_path / "base")
    assert run(*arguments).exit_code == 0
    before = {name: (tmp_path / "base" / name).stat().st_mtime_ns for name in FILES}
    (tmp_path / "base" / missing).unlink()
    (tmp_path / "base" / ".model.gguf.x.partial").write_text("of a killed run")
    assert run(*arguments).exit_code == 0
    assert {entry.name for entry in (tmp_path / "base").iterdir()} == FILES | {LOCK}
    after = {name: (tmp_path / "base" / name).stat().st_mtime_ns for name in FILES}
    together = {missing} | ({"plan.json", "README.txt"} if missing in ("plan.json", "README.txt") else set())
    assert {name for name in before if after[name] != before[name]} == together


def test_two_processes_do_not_share_a_folder(source: Path, tmp_path: Path) -> None:
    arguments = ("--source", source, "--quantization", "keep", "--output", tmp_path / "base")
    assert run(*arguments).exit_code == 0
    with sole_use(tmp_path / "base", "waiting"):
        result = run(*arguments)
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "another process is preparing a base in this folder" in result.output


def test_the_folder_is_a_model_to_train_on(source: Path, tmp_path: Path) -> None:
    assert run("--source", source, "--quantization", "keep", "--output", tmp_path / "base").exit_code == 0
    assert resolve(str(tmp_path / "base")).path == tmp_path / "base" / "model.gguf"
    (tmp_path / "base" / "config.json").write_text("{}")  # a checkpoint that has a GGUF beside it
    with pytest.raises(ModelError):
        resolve(str(tmp_path / "base"))


def test_what_is_refused(source: Path, tmp_path: Path) -> None:
    unknown = tmp_path / "unknown.gguf"
    unknown.write_bytes(source.read_bytes().replace(b"llama", b"lllma"))
    other = write_tiny_model(tmp_path / "other.gguf", seed=1)
    base, full = tmp_path / "base", tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    assert run("--source", source, "--quantization", "keep", "--output", base).exit_code == 0
    for arguments, sentence in (
        (("--source", unknown, "--output", tmp_path / "out"), "lllma"),
        (("--source", tmp_path / "none.gguf", "--output", tmp_path / "out"), "none.gguf"),
        (("--source", source, "--output", full), "the folder holds thesis.txt"),
        (("--source", source, "--output", other), "a file, expected a folder"),
        (("--source", other, "--output", base), "another source or quantization"),
        (("--source", source, "--output", base), "another source or quantization"),
        (("--source", source, "--output", tmp_path / "q9", "--quantization", "q9"), "unknown type 'q9'"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert sentence in result.output
        assert result.output.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert [entry.name for entry in full.iterdir()] == ["thesis.txt"]


def test_a_folder_in_which_another_process_works_is_not_claimed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    with sole_use(tmp_path / "base", "preparing a base"):
        result = run("--source", source, "--quantization", "keep", "--output", tmp_path / "base")
    assert (result.exit_code, "another process is preparing a base" in result.output) == (2, True)
    assert {entry.name for entry in (tmp_path / "base").iterdir()} == {LOCK}


RACING = """
import sys
from pathlib import Path
from cpuft.workflow.prepare import prepare
prepare(Path(sys.argv[1]), Path(sys.argv[2]), "keep", threads=1)
"""


def test_of_two_processes_one_has_the_folder(source: Path, tmp_path: Path) -> None:
    """Whoever comes second finds what the first one claimed, or that it works there."""
    other = write_tiny_model(tmp_path / "other.gguf", seed=1)
    command = [sys.executable, "-c", RACING]
    racers = [
        subprocess.Popen([*command, file, tmp_path / "base"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for file in (source, other)
    ]
    said = [racer.communicate()[1] for racer in racers]
    assert sorted(racer.returncode for racer in racers) == [0, 1], said
    winner = (source, other)[[racer.returncode for racer in racers].index(0)]
    assert (tmp_path / "base" / "model.gguf").read_bytes() == winner.read_bytes()
    claimed = json.loads((tmp_path / "base" / "source.json").read_text())
    assert claimed["sha256"] == hashlib.sha256(winner.read_bytes()).hexdigest()


def test_weights_that_are_no_numbers_are_refused(source: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "nan.gguf"
    content = bytearray(source.read_bytes())
    norm = read_gguf(source).tensors["output_norm.weight"]
    content[norm.offset : norm.offset + 4] = struct.pack("<f", math.nan)
    damaged.write_bytes(content)
    result = run("--source", damaged, "--quantization", "keep", "--output", tmp_path / "base")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "the weights hold values that are not finite" in result.output


def test_a_model_without_a_template_is_told(source: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.gguf"
    bare.write_bytes(source.read_bytes().replace(b"tokenizer.chat_template", b"tokenizer.none_template"))
    result = run("--source", bare, "--quantization", "keep", "--output", tmp_path / "base")
    assert result.exit_code == 0, result.output
    assert "give examples as prompt and completion, or text" in result.output


def test_the_script_of_the_specification(source: Path, tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "prepare_model_for_training.py")]
    names = ["--model-name", str(source), "--output-dir", str(tmp_path / "base"), "--quantization", "keep", "--json"]
    done = subprocess.run([*script, *names], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == str(tmp_path / "base" / "model.gguf")
    for named in (["--model-name", "qwen2.5:3b-instruct"], ["--model-name=qwen2.5:3b-instruct"]):
        done = subprocess.run([*script, *named, *names[2:]], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 2
        assert "ollama:qwen2.5:3b-instruct" in done.stderr
