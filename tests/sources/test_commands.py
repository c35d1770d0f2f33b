"""Proves that the model commands say what they did, speak JSON, and answer mistakes with exit code 2 and a sentence."""

import errno
import json
import os
from pathlib import Path

import gguf
import pytest
from click.testing import CliRunner, Result

from cpuft.adapters.adapter import write_adapter
from cpuft.cli.main import UserMistake, cli, error_boundary
from cpuft.errors import ModelError
from tests.gguf.tiny import random_adapter, write_tiny_model


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


def test_a_hostile_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "hostile.gguf", "llama\x1b[2J")
    writer.add_name("\x1b]0;mine\x07\r\x9b31m")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shown = run("models", "show", tmp_path / "hostile.gguf")
    assert "]0;mine" in shown.output
    assert all(letter.isprintable() or letter == "\n" for letter in shown.output)
    with pytest.raises(UserMistake, match="\ufffdc: no such thing"), error_boundary():
        raise ModelError("\x1bc: no such thing")
    assert json.loads(run("models", "show", tmp_path / "hostile.gguf", "--json").output)["name"][0] == "\x1b"


def test_what_is_no_file_and_what_may_not_be_read_are_the_users_to_mend(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    result = run("models", "show", tmp_path / "pipe.gguf")
    assert (result.exit_code, "not a regular file" in result.output) == (2, True)
    with pytest.raises(UserMistake, match=r"^secret: permission denied: ask for access"), error_boundary():
        raise PermissionError(errno.EACCES, "Permission denied", "secret")


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


def test_a_model_is_not_fetched_for_a_command_line_with_another_fault() -> None:
    result = run("quantize", "--model", "hf:none/none/none.gguf", "--type", "q8_0", "--output", "o", "--threads", "x")
    assert result.exit_code == 2
    assert "'--threads'" in result.output
    assert "hf:" not in result.output
