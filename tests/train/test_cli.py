"""Proves what a user of `cpuft train` sees: the lines of a run, and one sentence with exit code 2 for each mistake."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpuft.toolchain import Toolchain
from tests.conftest import ROOT, RunCpuft
from tests.gguf.tiny import write_tiny_model
from tests.train.runs import SETTINGS, Inputs, metrics

SETTING_OPTIONS = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]


def arguments(inputs: Inputs, output: Path, **changes: Any) -> list[str]:
    """The command line of a short run; changes: option -> value, None to leave it out."""
    options = {"model": inputs.model, "train": inputs.train, "val": inputs.val, "output": output, **changes}
    return ["train", *(w for name, value in options.items() if value is not None for w in (f"--{name}", str(value)))]


def test_a_run_and_what_it_prints(inputs: Inputs, run_cpuft: RunCpuft, tmp_path: Path) -> None:
    done = run_cpuft(*arguments(inputs, tmp_path / "run"), *SETTING_OPTIONS, "--max-steps", "6")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"Epoch 1/2 - Step 3/6 - Loss: \d\.\d{3} - Val Loss: \d\.\d{3}", lines[5])
    assert lines[-3].startswith("✅ Training complete! ")
    best = min((line for line in metrics(tmp_path / "run") if "val_loss" in line), key=lambda line: line["val_loss"])
    assert lines[-2] == f"✅ Best checkpoint: step {best['step']} (val_loss: {best['val_loss']:.3f})"
    assert lines[-1] == f"✅ LoRA adapter saved to: {tmp_path}/run/adapter.gguf"


def test_json_alone_on_stdout_and_the_notes_of_the_configuration(
    inputs: Inputs, run_cpuft: RunCpuft, tmp_path: Path
) -> None:
    config = tmp_path / "lora_config.yaml"
    config.write_text("quantization: {load_in_4bit: true}\ntraining: {learning_rate: 2e-4, optim: adamw_8bit}\n")
    options = ["--config", str(config), "--max-steps", "1", "--json"]
    done = run_cpuft(*arguments(inputs, tmp_path / "run"), *options)
    result = json.loads(done.stdout)
    assert (result["ended"], result["step"], result["adapter"]) == ("complete", 1, f"{tmp_path}/run/adapter.gguf")
    assert "quantization.{load_in_4bit}: the base model stays" in done.stderr
    assert "training.optim" not in done.stderr


def test_the_layers_and_their_cache(inputs: Inputs, run_cpuft: RunCpuft, built: Toolchain, tmp_path: Path) -> None:
    environment = {"CPUFT_LIBRARY": str(built.engine_library), "CPUFT_CACHE": str(tmp_path / "cache")}
    options = [*SETTING_OPTIONS, "--max-steps", "1"]
    for layers, cached in (("last:1", ["--cache-frozen"]), ("all", ["--set", "lora.layers=1"]), ("all", [])):
        run = tmp_path / layers / str(len(cached))
        done = run_cpuft(*arguments(inputs, run, layers=layers), *options, *cached, env=environment)
        assert done.returncode == 0, done.stderr
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["lora"]["layers"] == (None if not cached else 1)  # --set is the last word
        assert config["training"]["cache_frozen"] is ("--cache-frozen" in cached)
    (folder,) = (tmp_path / "cache" / "frozen").iterdir()
    assert len(list(folder.iterdir())) == 4 + 3  # a step's training examples and the validation data


def test_interrupt_is_exit_130_and_says_how_to_go_on(inputs: Inputs, tmp_path: Path, run_cpuft: RunCpuft) -> None:
    command = arguments(inputs, tmp_path / "run")
    many = [*SETTING_OPTIONS, "--set", "training.num_epochs=10000", "--set", "training.logging_steps=1"]
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "cpuft", *command, *many], cwd=ROOT, stdout=stream, stderr=stream
        )
    while "Step 2/" not in log.read_text() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    *_, stopped, interrupted = log.read_text().splitlines()
    assert interrupted == "Interrupted: run the same command with --resume to go on."
    step = int(stopped.removeprefix("Stopped after step ").removesuffix(" of 30000."))
    assert (tmp_path / "run" / "checkpoints" / f"step-{step}").is_dir()
    resumed = run_cpuft(*command, "--resume", "--max-steps", str(step + 1), env={"PYTHONHASHSEED": "1"})
    assert resumed.returncode == 2
    assert "training.max_steps was None and is" in resumed.stderr


def test_a_model_that_is_cut_in_a_pass_is_exit_2_and_keeps_the_checkpoint(
    inputs: Inputs, tmp_path: Path, run_cpuft: RunCpuft
) -> None:
    whole = write_tiny_model(tmp_path / "whole.gguf", n_layer=4, n_embd=512, n_ff=1408, half=True)
    model, log = tmp_path / "model.gguf", tmp_path / "log"
    shutil.copy(whole, model)
    command = [*arguments(replace(inputs, model=model), tmp_path / "run"), *SETTING_OPTIONS]
    command += ["--set", "training.logging_steps=1"]
    with log.open("w") as stream:
        process = subprocess.Popen([sys.executable, "-m", "cpuft", *command], cwd=ROOT, stdout=stream, stderr=stream)
    while "Step 4/" not in log.read_text() and process.poll() is None:
        time.sleep(0.01)
    os.truncate(model, 4096)
    assert process.wait(timeout=60) == 2, log.read_text()
    size = whole.stat().st_size
    wanted = (
        f"Error: {model} had {size} bytes when it was opened and has 4096 now; start again once nothing writes to it"
    )
    assert log.read_text().splitlines()[-1] == wanted
    (newest,) = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1:]
    shutil.copy(whole, model)
    resumed = run_cpuft(*command, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"Resumed after step {newest.name.removeprefix('step-')}" in resumed.stdout


MISTAKES: list[tuple[dict[str, Any], list[str], str]] = [
    ({"model": "none.gguf"}, [], r"none\.gguf"),
    ({"model": "cut.gguf"}, [], r"cut\.gguf"),
    ({"train": "none.jsonl"}, [], r"none\.jsonl: no such file, expected a dataset of JSON lines"),
    ({"train": "empty.jsonl"}, [], r"empty\.jsonl: the file holds no examples"),
    ({"train": "bad.jsonl"}, [], r"bad\.jsonl: 2 examples cannot be used:\n.*bad\.jsonl:1: .*\n.*bad\.jsonl:3: "),
    ({"val": "long.jsonl"}, [], r"long\.jsonl:1: \d+ tokens, expected at most 512 \(the model's context length\)"),
    ({"config": "none.yaml"}, [], r"none\.yaml: no such file, expected a YAML configuration"),
    ({"config": "bad.yaml"}, [], r"bad\.yaml: 2 faults:\n  training\.lerning_rate: .*\n  training\.learning_rate: "),
    ({}, ["--set", "training.learning_rate=nan"], r"training\.learning_rate: found nan, expected a finite number"),
    ({}, ["--set", "learning_rate"], r"expected SECTION\.KEY=VALUE"),
    ({"layers": "last:0"}, [], r"'--layers': found 'last:0', expected all, or last:N with N of at least 1"),
    ({"layers": "last:x"}, [], r"found 'last:x', expected all, or last:N"),
    ({"layers": "first:3"}, [], r"found 'first:3', expected all, or last:N"),
    ({"layers": "last:3"}, [], r"lora\.layers is 3, but .*tiny\.gguf has 2 layers"),
    ({}, ["--cache-frozen"], r"lora\.layers is null, so all 2 layers are trained: set .* --layers last:1, or leave"),
    ({"layers": "last:2"}, ["--cache-frozen"], r"lora\.layers is 2, so all 2 layers are trained"),
    ({}, ["--resume"], "there is no run to resume"),
    ({}, ["--init-adapter", "none.gguf"], r"none\.gguf"),
    ({"output": "."}, [], "the folder is not empty: give --resume"),
]


@pytest.mark.parametrize(("changes", "more", "sentence"), MISTAKES)
def test_a_mistake_is_exit_2_and_leaves_nothing(
    changes: dict[str, Any],
    more: list[str],
    sentence: str,
    inputs: Inputs,
    run_cpuft: RunCpuft,
    tmp_path: Path,
) -> None:
    (tmp_path / "cut.gguf").write_bytes(inputs.model.read_bytes()[:3000])
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.jsonl").write_text('{"mess\n{"text": "a"}\n{"text": 1}\n')
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": "word " * 500}))
    (tmp_path / "bad.yaml").write_text("training: {lerning_rate: 1, learning_rate: .nan}")
    before = sorted(os.listdir(tmp_path))
    done = run_cpuft(
        *arguments(inputs, **{"output": Path("run"), **changes}), *more, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(rf"^Error: .*{sentence}", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir(tmp_path)) == before


def test_the_script_of_the_specification(inputs: Inputs, tmp_path: Path) -> None:
    """With its options: a folder of a base, one of data, and a folder for the logs."""
    assert inputs.val is not None
    for folder, name, file in (("base", "model.gguf", inputs.model), ("data", "train.jsonl", inputs.train)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).symlink_to(file)
    (tmp_path / "data" / "val.jsonl").symlink_to(inputs.val)
    script = [sys.executable, str(ROOT / "scripts" / "finetune_lora_cpu.py")]
    options = ["--model", "base", "--dataset", "data", "--output", "runs/ba", "--num-epochs", "1", "--device", "cpu"]
    command = [*script, *options, "--logging-dir", "logs/ba"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Epoch 1/1 - Step 2/2" in (tmp_path / "logs" / "ba" / "training.log").read_text()
    assert any("val_loss" in line for line in metrics(tmp_path / "runs" / "ba"))
    for changed, sentence in (
        (["--device", "cuda"], "'cuda' is not 'cpu'"),
        (["--model", "qwen2.5:3b"], "ollama:qwen"),
    ):
        done = subprocess.run([*command, *changed], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert sentence in done.stderr
