"""Proves that `cpuft adapter` does what it says, speaks JSON, and answers mistakes with exit code 2 and a sentence."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cpuft.adapters.adapter import read_adapter, write_adapter
from cpuft.cli.main import cli
from tests.gguf.tiny import random_adapter, write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base.gguf, two adapters of rank 4 and 6, and the first as a PEFT folder."""
    folder = tmp_path_factory.mktemp("adapters")
    model = write_tiny_model(folder / "base.gguf")
    for name, rank in (("a", 4), ("b", 6)):
        tensors = random_adapter(model, rank=rank, seed=rank)
        write_adapter(folder / f"{name}.gguf", tensors, alpha=8, architecture="llama")
    arguments = ("--to", "peft", "--model", model, "--output", folder / "peft", "--base-name", "me/tiny")
    result = run("adapter", "convert", folder / "a.gguf", *arguments)
    assert result.exit_code == 0, result.output
    assert "peft: rank 4, alpha 8, 0.01 M parameters on 14 weights" in result.output
    return folder


def run(*arguments: str | Path | float) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_show(folder: Path) -> None:
    facts = json.loads(run("adapter", "show", folder / "peft", "--json").output)
    assert (facts["format"], facts["base_model"], facts["rank"], facts["alpha"]) == ("peft", "me/tiny", 4, 8.0)
    assert (facts["targets"]["down_proj"], facts["n_layer"], facts["untrained"]) == (2, 2, 0)
    assert facts["n_params"] == json.loads(run("adapter", "show", folder / "a.gguf", "--json").output)["n_params"]
    assert "rank           4" in run("adapter", "show", folder / "peft").output


def test_convert(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "back.gguf"
    result = run(
        "adapter",
        "convert",
        folder / "peft",
        "--to",
        "gguf",
        "--model",
        folder / "base.gguf",
        "--output",
        output,
        "--json",
    )
    assert json.loads(result.output)["n_weights"] == 14
    before, after = read_adapter(folder / "a.gguf"), read_adapter(output)
    assert after.alpha == before.alpha
    assert {n: v.tobytes() for n, v in after.tensors.items()} == {n: v.tobytes() for n, v in before.tensors.items()}


def test_scale(folder: Path, tmp_path: Path) -> None:
    result = run("adapter", "scale", "--output", tmp_path / "s.gguf", "--", folder / "a.gguf", -0.25)
    assert result.exit_code == 0, result.output
    assert "alpha 8 -> 2, and the sign into B" in result.output
    assert read_adapter(tmp_path / "s.gguf").alpha == 2.0


def test_combine(folder: Path, tmp_path: Path) -> None:
    inputs = (folder / "peft", folder / "b.gguf", "--model", folder / "base.gguf", "--weight", 0.7, "--weight", 0.3)
    exact = json.loads(run("adapter", "combine", *inputs, "--output", tmp_path / "exact.gguf", "--json").output)
    assert exact["rank"] == 10
    result = run("adapter", "combine", *inputs, "--rank", 5, "--output", tmp_path / "small.gguf")
    assert "small.gguf: rank 5" in result.output
    assert "Energy kept: " in result.output
    assert "rank 10 -> 5\n  and 4 more (list them with --json)" in result.output
    small = json.loads(
        run("adapter", "combine", *inputs, "--rank", 5, "--output", tmp_path / "s.gguf", "--json").output
    )
    assert len(small["weights"]) == 14
    assert all(0.5 < one["energy"] < 1 for one in small["weights"])
    assert read_adapter(tmp_path / "small.gguf").rank == 5


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "{base}"], "not a LoRA adapter"),
        (["show", "{out}"], "no such file"),
        (["convert", "{peft}", "--to", "gguf", "--output", "{out}"], "give the base model with --model"),
        (["convert", "{a}", "--to", "peft", "--output", "{out}"], "give the base model with --model"),
        (["convert", "{a}", "--to", "gguf", "--output", "{out}"], "is a file already"),
        (["scale", "{a}", "0", "--output", "{out}"], "expected a finite number other than 0"),
        (["scale", "{a}", "2", "--output", "{out}/a.gguf"], "no such folder"),
        (["combine", "{a}", "{b}", "--weight", "1", "--output", "{out}"], "1 weights for 2 adapters"),
        (["combine", "{peft}", "{b}", "--output", "{out}"], "give the base model with --model"),
        (["combine", "{a}", "{b}", "--output", "{peft}"], "expected the name of a file for the adapter"),
        (["scale", "{a}", "2", "--output", "{a}"], "the output is also an input"),
        (["combine", "{a}", "{b}", "--output", "{b}"], "the output is also an input"),
        (["combine", "{a}", "{b}", "--model", "{base}", "--output", "{base}"], "the output is also an input"),
        (
            ["convert", "{peft}", "--to", "gguf", "--model", "{base}", "--output", "{peft}/adapter_model.safetensors"],
            "the output is also an input",
        ),
    ],
)
def test_mistakes(arguments: list[str], sentence: str, folder: Path, tmp_path: Path) -> None:
    places = {"base": folder / "base.gguf", "peft": folder / "peft", "out": tmp_path / "out"}
    places |= {name: folder / f"{name}.gguf" for name in "ab"}
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    result = run("adapter", *(argument.format(**places) for argument in arguments))
    assert before == {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    assert result.exit_code == 2
    assert sentence in result.output
    assert result.output.count("\n") == 1
    assert not list(tmp_path.iterdir())
