"""Proves that the loop trains what it says it trains, and that the same seed gives the same bytes."""

import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from tensorboardX.proto.event_pb2 import Event

from cpuft.adapters.adapter import read_adapter, write_adapter
from cpuft.config.file import load_config
from cpuft.data.batches import passes
from cpuft.engine import Engine
from cpuft.errors import AdapterError, ConfigError
from cpuft.train.checkpoint import load_adapter
from cpuft.train.inputs import load_inputs
from cpuft.train.loop import Outcome, run_training
from cpuft.train.schedule import learning_rate
from tests.train.runs import Inputs, lasting, metrics

QUIET = lambda _: None  # noqa: E731


def test_same_seed_same_bytes_on_any_number_of_threads(
    inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path
) -> None:
    job = inputs.job(tmp_path / "run", {"training.threads": 2})
    run_training(job, say=QUIET)
    ours, theirs = lasting(tmp_path / "run"), lasting(whole_run[0])
    assert ours.pop("1 config.yaml") != theirs.pop("1 config.yaml")  # it says threads: 2
    assert ours == theirs


def test_recomputed_activations_give_the_same_bytes(
    inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path
) -> None:
    run_training(inputs.job(tmp_path / "run", {"training.activations": "recompute"}), say=QUIET)
    assert (tmp_path / "run" / "adapter.gguf").read_bytes() == (whole_run[0] / "adapter.gguf").read_bytes()


def test_another_seed_gives_another_adapter(inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path) -> None:
    run_training(inputs.job(tmp_path / "run", {"training.seed": 1}), say=QUIET)
    assert metrics(tmp_path / "run")[0]["loss"] != metrics(whole_run[0])[0]["loss"]


def test_the_losses_do_not_depend_on_the_passes(inputs: Inputs, tmp_path: Path) -> None:
    for n_tokens in (1, 200, 10_000):
        settings = {"training.tokens_per_pass": n_tokens, "training.precision": "f32"}
        run_training(inputs.job(tmp_path / str(n_tokens), settings), say=QUIET)
    for lines in zip(*(metrics(tmp_path / str(n_tokens)) for n_tokens in (1, 200, 10_000)), strict=True):
        for key in ("loss", "val_loss", "grad_norm"):
            values = [line.get(key, 0.0) for line in lines]
            assert values == pytest.approx(values[:1] * 3, rel=1e-4)


def test_the_metrics(inputs: Inputs, whole_run: tuple[Path, Outcome]) -> None:
    run, outcome = whole_run
    lines = metrics(run)
    logged = [line for line in lines if "loss" in line]
    validated = [line for line in lines if "val_loss" in line]
    assert [(line["step"], line["epoch"]) for line in logged] == [(2, 1), (4, 2), (6, 2), (8, 3), (9, 3)]
    assert [(line["step"], line["epoch"]) for line in validated] == [(3, 1), (6, 2), (9, 3)]
    assert set(logged[0]) == {"step", "epoch", "loss", "lr", "grad_norm", "tokens", "tok_s", "rss_mb"}
    assert set(validated[0]) == {"step", "epoch", "val_loss", "val_tokens"}
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert validated[-1]["val_loss"] < validated[0]["val_loss"]
    config = inputs.job(run).config.training
    assert [line["lr"] for line in logged] == [learning_rate(line["step"], 9, config) for line in logged]
    assert (outcome.ended, outcome.step, outcome.n_steps) == ("complete", 9, 9)
    best = min(validated, key=lambda line: line["val_loss"])
    assert (outcome.best_step, outcome.best_loss) == (best["step"], best["val_loss"])


def test_the_tokens_and_the_first_loss_are_those_of_the_examples(inputs: Inputs, tmp_path: Path) -> None:
    """One step over all examples without dropout: its loss is the base model's, because B is zero at first."""
    settings = {"training.gradient_accumulation_steps": 11, "training.num_epochs": 1, "lora.lora_dropout": 0}
    job = inputs.job(tmp_path / "run", {**settings, "training.precision": "f32"})
    run_training(job, say=QUIET)
    (line,) = [line for line in metrics(tmp_path / "run") if "loss" in line]
    with Engine(job.model, precision="f32") as engine:
        examples = load_inputs(job, job.config, engine).training.examples
        results = [engine.forward(batch) for batch in passes(examples, np.arange(11), 10_000)]
    assert line["tokens"] == sum(example.tokens.size for example in examples)
    assert line["loss"] == pytest.approx(sum(loss for loss, _ in results) / sum(n for _, n in results), rel=1e-5)


def test_the_adapter_is_the_best_one(inputs: Inputs, whole_run: tuple[Path, Outcome]) -> None:
    """Its loss on the validation data, computed again, is the lowest that was recorded."""
    run, outcome = whole_run
    job = inputs.job(run)
    with Engine(job.model) as engine:
        loaded = load_inputs(job, job.config, engine)
        load_adapter(run / "adapter.gguf", engine)
        assert loaded.validation is not None
        batches = passes(loaded.validation.examples, np.arange(3), job.config.training.tokens_per_pass)
        results = [engine.forward(batch) for batch in batches]
    assert sum(loss for loss, _ in results) / sum(n for _, n in results) == outcome.best_loss


def test_what_a_run_leaves_behind(inputs: Inputs, whole_run: tuple[Path, Outcome]) -> None:
    run, _ = whole_run
    names = {"config.yaml", "adapter.gguf", "checkpoints", "metrics.jsonl", "training.log", "tensorboard", "loss.png"}
    assert {path.name for path in run.iterdir()} == names | {".lock"}
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-8", "step-9"]
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert load_config(run / "config.yaml") == (inputs.job(run).config, [])
    adapter = read_adapter(run / "adapter.gguf")
    assert (adapter.rank, adapter.alpha, adapter.architecture) == (4, 8.0, "llama")
    log = (run / "training.log").read_text()
    assert re.search(r"^[-\d]+ [:\d]+ Epoch 1/3 - Step 2/9 - Loss: \d\.\d{3}$", log, re.MULTILINE)
    assert re.search(r"^[-\d]+ [:\d]+ Epoch 3/3 - Step 9/9 - Loss: \d\.\d{3} - Val Loss: \d\.\d{3}$", log, re.MULTILINE)


def test_tensorboard_events(whole_run: tuple[Path, Outcome]) -> None:
    (file,) = (whole_run[0] / "tensorboard").iterdir()
    data, position = file.read_bytes(), 0
    losses: dict[int, float] = {}
    while position < len(data):  # a record: length, its checksum, the event, its checksum
        (length,) = struct.unpack_from("<Q", data, position)
        event = Event.FromString(data[position + 12 : position + 12 + length])
        for value in event.summary.value:
            if value.tag == "train/loss":
                losses[event.step] = value.simple_value
        position += length + 16
    expected = {line["step"]: line["loss"] for line in metrics(whole_run[0]) if "loss" in line}
    assert losses == pytest.approx(expected, rel=1e-6)


def test_early_stopping(inputs: Inputs, tmp_path: Path) -> None:
    settings = {"training.early_stopping_patience": 1, "training.early_stopping_threshold": 10}
    job = inputs.job(tmp_path / "run", settings)
    outcome = run_training(job, say=QUIET)
    assert (outcome.ended, outcome.step, outcome.best_step) == ("early", 6, 6)
    before = lasting(tmp_path / "run")
    again = run_training(replace(job, resume=True), say=QUIET)  # it is over: nothing is left to do
    assert (again.ended, again.step) == ("early", 6)
    assert lasting(tmp_path / "run") == before


def test_without_validation_the_last_adapter_is_kept(inputs: Inputs, tmp_path: Path) -> None:
    outcome = run_training(inputs.job(tmp_path / "run", {"training.max_steps": 2}, val=None), say=QUIET)
    assert (outcome.step, outcome.best_loss) == (2, None)
    last = tmp_path / "run" / "checkpoints" / "step-2" / "adapter.gguf"
    assert (tmp_path / "run" / "adapter.gguf").read_bytes() == last.read_bytes()


def test_validation_examples_that_are_trained_on_are_counted(inputs: Inputs, tmp_path: Path) -> None:
    lines: list[str] = []
    run_training(inputs.job(tmp_path / "run", {"training.max_steps": 1}, val=inputs.train), say=lines.append)
    assert "11 of the validation examples are in the training data, too: val_loss looks too good" in lines


def test_layers_and_targets_that_are_adapted(inputs: Inputs, tmp_path: Path) -> None:
    settings = {"lora.layers": 1, "lora.target_modules": ["down_proj", "q_proj"], "training.max_steps": 1}
    run_training(inputs.job(tmp_path / "run", settings), say=QUIET)
    names = ["blk.1.attn_q.weight", "blk.1.ffn_down.weight"]
    assert read_adapter(tmp_path / "run" / "adapter.gguf").weights == names
    with pytest.raises(AdapterError, match=r"lora\.layers is 3, but .*tiny\.gguf has 2 layers"):
        run_training(inputs.job(tmp_path / "other", {"lora.layers": 3}), say=QUIET)


def test_a_loss_that_is_not_finite_stops_the_run(
    inputs: Inputs, whole_run: tuple[Path, Outcome], tmp_path: Path
) -> None:
    tensors = {
        name: values * np.float32(1e30) for name, values in read_adapter(whole_run[0] / "adapter.gguf").tensors.items()
    }
    write_adapter(tmp_path / "huge.gguf", tensors, alpha=8, architecture="llama")
    with pytest.raises(
        ConfigError, match=r"step 1: the loss is (nan|inf).*no checkpoint yet.*lower training\.learning_rate"
    ):
        run_training(inputs.job(tmp_path / "run", {"lora.init_adapter": str(tmp_path / "huge.gguf")}), say=QUIET)
    assert not (tmp_path / "run" / "adapter.gguf").exists()


def test_the_configuration_is_saved_with_the_day_of_the_run(inputs: Inputs, tmp_path: Path) -> None:
    run_training(inputs.job(tmp_path / "run", {"training.max_steps": 1, "training.date": None}), say=QUIET)
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", saved["training"]["date"])
