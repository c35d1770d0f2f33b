"""Proves that the model commands say what they did, speak JSON, and answer mistakes with exit code 2 and a sentence."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cpuft.cli.main import cli
from cpuft.models.adapter import write_adapter
from tests.models.tiny import random_adapter, write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    model = write_tiny_model(folder / "base.gguf")
    write_adapter(folder / "adapter.gguf", random_adapter(model, rank=4), alpha=8, architecture="llama")
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_show(folder: Path) -> None:
    text = run("models", "show", folder / "base.gguf")
    assert text.exit_code == 0
    assert "architecture   llama" in text.output
    facts = json.loads(run("models", "show", folder / "base.gguf", "--json").output)
    assert facts["n_layer"] == 2
    adapter = json.loads(run("adapter", "show", folder / "adapter.gguf", "--json").output)
    assert (adapter["rank"], adapter["targets"]["ffn_down"]) == (4, 2)
    assert "rank           4" in run("adapter", "show", folder / "adapter.gguf").output


def test_merge_and_quantize(folder: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged.gguf"
    arguments = ("--model", folder / "base.gguf", "--adapter", folder / "adapter.gguf", "--output", merged)
    result = run("merge", *arguments, "--type", "Q8_0")
    assert result.exit_code == 0, result.output
    assert "14 merged with the adapter" in result.output
    shown = json.loads(run("models", "show", merged, "--json").output)
    assert shown["file_type"] == "q8_0"
    assert shown["merges"][0]["adapter_rank"] == 4
    result = run("quantize", "--model", merged, "--type", "q4_0", "--output", tmp_path / "small.gguf")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "small.gguf").stat().st_size < merged.stat().st_size


def test_names_in_a_file_cannot_steer_the_terminal(folder: Path, tmp_path: Path) -> None:
    tensors = random_adapter(folder / "base.gguf", rank=4)
    hostile = {"general.name": "\x1b]0;title\x07 LoRA"}
    write_adapter(tmp_path / "a.gguf", tensors, alpha=8, architecture="\x1b[2J", metadata=hostile)
    shown = run("adapter", "show", tmp_path / "a.gguf")
    merged = run("adapter", "convert", tmp_path / "a.gguf", "--to", "peft", "--output", tmp_path / "peft")
    assert r"\x1b]0;title\x07 LoRA" in shown.output
    assert merged.exit_code == 2
    assert all(c.isprintable() or c == "\n" for c in shown.output + merged.output)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["models", "show", "{none}"], "no such file"),
        (["adapter", "show", "{base}"], "not a LoRA adapter"),
        (["quantize", "--model", "{base}", "--type", "q9", "--output", "{out}"], "unknown type 'q9'"),
        (["quantize", "--model", "{base}", "--type", "keep", "--output", "{base}"], "output is also an input"),
        (["merge", "--model", "{base}", "--adapter", "{none}", "--output", "{out}"], "no such file"),
        (["merge", "--model", "{adapter}", "--adapter", "{adapter}", "--output", "{out}"], "expected a model"),
    ],
)
def test_mistakes(arguments: list[str], sentence: str, folder: Path, tmp_path: Path) -> None:
    places = {"base": folder / "base.gguf", "adapter": folder / "adapter.gguf", "none": tmp_path / "none.gguf"}
    result = run(*(argument.format(out=tmp_path / "out.gguf", **places) for argument in arguments))
    assert result.exit_code == 2
    assert sentence in result.output
    assert result.output.count("\n") == 1
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())
