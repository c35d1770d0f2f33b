"""`cpuft bench precision`: it trains as a user would, samples what the teacher says, and counts right."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import precision, tasks
from benchmarks.precision import Arm, Run
from benchmarks.tasks import Teacher
from cpuft import demo
from cpuft.cli.main import cli
from cpuft.config.file import load_config
from cpuft.config.keys import TrainJob
from cpuft.engine import Engine
from cpuft.train.loop import run_training
from tests.benchmarks.test_bench import bench
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("built")

SMALL = Teacher(
    shape=replace(tasks.SHAPE, n_layer=1, n_embd=256, n_ff=256, n_head=4, n_head_kv=2),
    n_train=16,
    n_validation=200,
    length=6,
)


def test_a_run_is_what_cpuft_train_does(tmp_path: Path) -> None:
    arm = precision.default_arms()[-1]  # int8 where this CPU has it
    run = precision.train(tasks.demo_task(), arm, seed=3, steps=2, threads=1)
    keys = {"seed": 3, "max_steps": 2, "logging_steps": 1, "precision": arm.precision}
    config, _ = load_config(ROOT / "configs" / "demo.yaml", {f"training.{key}": value for key, value in keys.items()})
    job = TrainJob(demo.BASE_MODEL, demo.TRAIN, tmp_path / "run", config, demo.VALIDATION)
    run_training(job, say=lambda line: None)
    records = [json.loads(line) for line in (job.output / "metrics.jsonl").read_text().splitlines()]
    assert run.losses == [record["loss"] for record in records if "loss" in record]
    assert [run.validation] == [record["val_loss"] for record in records if "val_loss" in record]
    assert run.adapter == pytest.approx(run.validation, rel=2e-2)
    assert (run.adapter == run.validation) == (arm.precision != "int8"), "this was not computed in float32"


def test_the_data_are_drawn_from_the_teacher(models: Path) -> None:
    task = tasks.teacher_task(models, SMALL, threads=1)
    assert (len(task.training), len(task.validation)) == (16, 200)
    with Engine(task.model, threads=1, precision="f32") as engine:
        without = tasks.mean_loss(engine, task.validation, 1024)
        tasks.attach(engine, SMALL)
        tokens = np.concatenate([example.tokens for example in task.validation])
        logits = engine.logits(tokens, np.full(200, 6, np.int64)).astype(np.float64)
    # A sample's mean loss under its own distribution is the mean entropy, up to the error of a mean.
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    predicting = np.arange(tokens.size) % 6 != 5
    entropy = -(np.exp(logs) * logs).sum(axis=1)[predicting]
    deviation = np.sqrt((np.exp(logs) * logs**2).sum(axis=1)[predicting] - entropy**2)
    error = np.sqrt((deviation**2).sum()) / entropy.size
    assert task.floor == pytest.approx(entropy.mean(), abs=4 * error)
    assert without > entropy.mean() + 10 * error


def test_the_files_of_a_teacher_are_kept(models: Path) -> None:
    task = tasks.teacher_task(models, SMALL, threads=1)
    before = {path: path.stat().st_mtime_ns for path in models.glob("teacher-*")}
    again = tasks.teacher_task(models, SMALL, threads=1)
    assert {path: path.stat().st_mtime_ns for path in models.glob("teacher-*")} == before
    assert [x.tokens.tobytes() for x in again.training] == [x.tokens.tobytes() for x in task.training]
    assert replace(SMALL, strength=0.4).digest != SMALL.digest


def test_runs_and_their_summary(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "Teacher", lambda: SMALL)
    work = ("--part", "teacher", "--models", models, "--threads", 1, "--steps", 4, "--learning-rate", "0.1")
    rows = bench("precision", *work, "--arm", "bf16", "--arm", "f32", "--seed", 4, "--seed", 7)
    runs = [row for row in rows if row["benchmark"] == "precision"]
    assert [(row["seed"], row["arm"]) for row in runs] == [(4, "f32"), (4, "bf16"), (7, "f32"), (7, "bf16")]
    for row in runs:
        assert (row["steps"], row["learning_rate"], len(row["curve"])) == (4, 0.1, 1)
        assert all((row[figure] == 0) == (row["arm"] == "f32") for figure in ("train_diff", "val_diff"))
        assert row["floor"] < row["val_loss"]
    summary = {row["figure"]: row for row in rows if row["benchmark"] == "precision summary"}
    assert summary.keys() == set(precision.DIFFERENCES)
    differences = [row["val_diff"] for row in runs if row["arm"] == "bf16"]
    assert summary["val_diff"]["mean"] == pytest.approx(np.mean(differences), abs=1e-3)


def test_differences_are_percent_of_the_baseline() -> None:
    baseline = Run("avx2", losses=[4.0] * 100 + [2.0] * 50, validation=3.0, adapter=5.0, seconds=1.0)
    losses = [4.0] * 25 + [3.6] * 25 + [4.2] * 50 + [1.0] * 25 + [2.02] * 25
    other = Run("avx2", losses=losses, validation=3.03, adapter=4.5, seconds=1.0)
    row = precision.row("demo", tasks.demo_task(), 0, Arm("int8"), other, baseline)
    assert row["curve"] == [4.0, 3.6, 4.2, 4.2, 1.0, 2.02]
    figures = [row[figure] for figure in ("train_diff", "val_diff", "adapter_diff", "early_diff", "early_worst")]
    assert figures == pytest.approx([1.0, 1.0, -10.0, 0.0, -10.0], abs=1e-4)


def test_summary_of_three_seeds() -> None:
    figures = dict.fromkeys(precision.DIFFERENCES, 0.0)
    rows = [{"task": "demo", "arm": "int8", **figures, "val_diff": value} for value in (1.0, 2.0, 6.0)]
    summary = {row["figure"]: row for row in precision.summaries(rows)}["val_diff"]
    assert (summary["n_seeds"], summary["least"], summary["most"]) == (3, 1.0, 6.0)
    assert (summary["mean"], summary["spread"]) == (3.0, pytest.approx(7.0**0.5, abs=1e-3))
    assert summary["error"] == pytest.approx((7.0 / 3.0) ** 0.5, abs=1e-3)


def test_gradients(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "Teacher", lambda: SMALL)
    work = ("--part", "gradients", "--models", models, "--threads", 1, "--seed", 0)
    same, rounded = bench("precision", *work, "--arm", "reference:f32", "--arm", "bf16")
    assert same["n_tensors"] == 14
    assert same["cosine_least"] == pytest.approx(1.0, abs=1e-5)
    assert 0.99 < rounded["cosine_least"] <= rounded["cosine_median"] < 1.0
    assert abs(same["loss_diff"]) < 1e-4


def test_an_arm_is_a_precision_that_there_is() -> None:
    result = CliRunner().invoke(cli, ["bench", "precision", "--arm", "avx2:f16"])
    assert result.exit_code == 2
    assert "'avx2:f16': expected [ISA:]PRECISION" in result.stderr
