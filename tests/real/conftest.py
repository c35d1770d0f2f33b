"""Fixtures of the tests on real models: the files, and one tuning that several tests look at."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cpuft.backends.generator import Message
from cpuft.evaluate.ship import ShipJob, ShipReport, compare_ways
from tests.conftest import RunCpuft
from tests.real import appointments, models

# Enough for the form of the appointments, and for nothing more: 12 steps of 8 conversations of 73 tokens.
SETTINGS = {
    "lora.r": 8,
    "lora.lora_dropout": 0,
    "training.max_steps": 12,
    "training.learning_rate": 1e-3,
    "training.warmup_steps": 3,
    "training.eval_steps": 12,
    "training.save_steps": 12,
}


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Marks every test of this folder; they stay together, because what they share takes long to make."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("real")
            item.add_marker(pytest.mark.xdist_group("real"))


@pytest.fixture(scope="session")
def coder() -> Path:
    """Qwen2.5-Coder 0.5B Instruct."""
    return models.require(models.CODER)


@pytest.fixture(scope="session")
def gemma() -> Path:
    """Gemma 3 270M."""
    return models.require(models.GEMMA)


@dataclass(frozen=True)
class Tuned:
    """A real tuning of the 0.5B on appointments, by the commands that a user types.

    plan, outcome: what `cpuft plan` said before it, and `cpuft train` after it.
    held_out:      conversations that it has not seen; validation is a file of them.
    """

    model: Path
    adapter: Path
    validation: Path
    held_out: list[list[Message]]
    plan: dict[str, Any]
    outcome: dict[str, Any]


@pytest.fixture(scope="session")
def tuned(coder: Path, run_cpuft: RunCpuft, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """12 steps, planned and trained."""
    folder = tmp_path_factory.mktemp("tuned")
    chats = appointments.conversations(96 + 8, seed=1)
    training, held_out = chats[8:], chats[:8]
    train = appointments.write(folder / "train.jsonl", training)
    validation = appointments.write(folder / "val.jsonl", held_out)
    files = ("--model", coder, "--train", train, "--val", validation)
    given = {**SETTINGS, "training.threads": models.threads()}
    settings = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    planned = run_cpuft("plan", *files, *settings, "--json")
    assert planned.returncode == 0, planned.stderr
    trained = run_cpuft("train", *files, *settings, "--output", folder / "run", "--json")
    assert trained.returncode == 0, trained.stderr
    outcome = json.loads(trained.stdout)
    return Tuned(coder, Path(outcome["adapter"]), validation, held_out, json.loads(planned.stdout), outcome)


@dataclass(frozen=True)
class Right:
    """A score: 1 for the form as it was taught, letter by letter."""

    total: float
    yaml_valid: bool = True
    completeness: float = 1.0


@dataclass(frozen=True)
class Shipped:
    """What `cpuft ship` made of the tuning: its report and the file that it picked."""

    report: ShipReport
    file: Path


@pytest.fixture(scope="session")
def shipped(tuned: Tuned, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """The ways out, each scored by how many held-out appointments come out right."""
    wanted = {asked["content"]: form["content"] for asked, form in tuned.held_out}
    job = ShipJob(
        tuned.model,
        tuned.adapter,
        tuned.validation,
        tmp_path_factory.mktemp("shipped") / "shipped.gguf",
        types=("q4_k_m", "q8_0"),
        test=tuned.validation,
        metric=lambda answer, asked: Right(float(answer == wanted[asked])),
        max_tokens=32,
        threads=models.threads(),
    )
    return Shipped(compare_ways(job), job.output)
