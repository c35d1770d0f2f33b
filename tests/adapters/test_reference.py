"""Proves that a PEFT folder does wherever an adapter is given, and that merges find mistakes before they begin."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cpuft.adapters.adapter import write_adapter
from cpuft.adapters.files import convert
from cpuft.cli.main import cli
from tests.gguf.tiny import random_adapter, write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base.gguf, an adapter as a PEFT folder (tuned) and as that gives it in GGUF, and a data set."""
    folder = tmp_path_factory.mktemp("reference")
    base = write_tiny_model(folder / "base.gguf")
    write_adapter(folder / "a.gguf", random_adapter(base, rank=4), alpha=8, architecture="llama")
    convert(folder / "a.gguf", folder / "tuned", "peft", model=base)
    convert(folder / "tuned", folder / "tuned.gguf", "gguf", model=base)
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "title: good day"}]
    (folder / "val.jsonl").write_text("\n".join([json.dumps({"messages": messages})] * 4))
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def both(folder: Path, *arguments: str | Path) -> list[Result]:
    """The command with the folder and with the file."""
    options = ("--model", folder / "base.gguf")
    return [run(*arguments, *options, "--adapter", folder / name) for name in ("tuned", "tuned.gguf")]


def test_merge_and_fidelity(folder: Path, tmp_path: Path) -> None:
    for name in ("tuned", "tuned.gguf"):
        files = ("--model", folder / "base.gguf", "--adapter", folder / name)
        result = run("merge", *files, "--type", "q8_0", "--output", tmp_path / f"{name}-merged")
        assert result.exit_code == 0, result.output
    assert (tmp_path / "tuned-merged").read_bytes() == (tmp_path / "tuned.gguf-merged").read_bytes()
    merged = ("--merged", tmp_path / "tuned-merged", "--val", folder / "val.jsonl", "--threads", "1", "--json")
    reports = both(folder, "fidelity", *merged)
    assert [report.exit_code for report in reports] == [0, 0]
    assert json.loads(reports[0].output)["tensors"] == json.loads(reports[1].output)["tensors"]


def test_ship(folder: Path, tmp_path: Path) -> None:
    for name in ("tuned", "tuned.gguf"):
        files = ("--model", folder / "base.gguf", "--adapter", folder / name, "--val", folder / "val.jsonl")
        limits = ("--types", "q8_0", "--max-kl", "1", "--max-tokens", "4", "--threads", "1")
        result = run("ship", *files, *limits, "--output", tmp_path / name)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "tuned").read_bytes() == (tmp_path / "tuned.gguf").read_bytes()


def test_generate_and_eval(folder: Path) -> None:
    asked = ("--prompt", "hi", "--temperature", "0", "--max-tokens", "16", "--threads", "1")
    answers = [result.stdout for result in both(folder, "generate", *asked)]
    assert answers[0] == answers[1] != run("generate", "--model", folder / "base.gguf", *asked).stdout
    results = both(folder, "eval", "run", "--data", folder / "val.jsonl", "--limit", "1", "--max-tokens", "4", "--json")
    assert [result.exit_code for result in results] == [0, 0]


def test_a_folder_for_another_model_is_refused_by_its_name(folder: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other.gguf", n_embd=32)
    result = run("merge", "--model", other, "--adapter", folder / "tuned", "--output", tmp_path / "out.gguf")
    assert result.exit_code == 2
    assert f"{folder / 'tuned'}: the adapter was made for another base model" in result.output
    result = run("merge", "--model", other, "--adapter", tmp_path, "--output", tmp_path / "out.gguf")
    assert "the folder has neither adapter.gguf" in result.output
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--val", "none.jsonl"], "no such file, expected a dataset"),
        (["--val", "broken.jsonl"], "broken.jsonl:1: not valid JSON"),
        (["--type", "q9"], "unknown type 'q9'"),
        (["--output", "nowhere/out.gguf"], "no such folder"),
        (["--adapter", "none.gguf"], "no such file, expected a GGUF adapter"),
        (["--val", "val.jsonl", "--output", "val.jsonl"], "the output is also an input"),
        (["--output", "train.jsonl"], "the output is also an input"),
        (["--output", "tuned/adapter_model.safetensors"], "the output is also an input"),
    ],
)
def test_a_merge_finds_mistakes_before_it_begins(
    options: list[str], sentence: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before an importance matrix is computed, too, which takes minutes; and no file of the user's is lost."""
    monkeypatch.setattr("cpuft.cli.merge.importance_matrix", lambda *_, **__: pytest.fail("it began"))
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "broken.jsonl").write_text('{"messages": [')
    (tmp_path / "train.jsonl").write_bytes((folder / "val.jsonl").read_bytes())
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    given = {"--adapter": "tuned", "--type": "q8_0", "--imatrix": "train.jsonl", "--output": "out.gguf"}
    given |= dict(zip(options[::2], options[1::2], strict=True))
    paths = {option: name if option == "--type" else tmp_path / name for option, name in given.items()}
    result = run("merge", "--model", tmp_path / "base.gguf", *(part for pair in paths.items() for part in pair))
    assert result.exit_code == 2, result.output
    assert sentence in result.output
    assert result.output.count("\n") == 1
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
