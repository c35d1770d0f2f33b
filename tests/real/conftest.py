"""Fixtures of the tests on real models: the files, and one tuning that several tests look at."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cpuft.chat.message import Message
from cpuft.release.ship import ShipJob, ShipReport, choose_release
from cpuft.roles import DEFAULT, Inputs, Score, find_role
from tests.conftest import RunCpuft
from tests.real import appointments, models

# Enough for the form of the appointments, and for nothing more: 14 steps of 4 conversations of 73 tokens.
SETTINGS = {
    "lora.r": 8,
    "lora.lora_dropout": 0,
    "training.max_steps": 14,
    "training.gradient_accumulation_steps": 4,
    "training.learning_rate": 1e-3,
    "training.warmup_steps": 3,
    "training.eval_steps": 14,
    "training.save_steps": 14,
}

HELD_OUT = 5
MAX_TOKENS = 24  # a right answer has about 16


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
    """14 steps, planned and trained."""
    folder = tmp_path_factory.mktemp("tuned")
    chats = appointments.conversations(56 + HELD_OUT, seed=1)
    training, held_out = chats[HELD_OUT:], chats[:HELD_OUT]
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
class Shipped:
    """What `cpuft ship` made of the tuning: its report, and the file that it picked.

    answers: for each way of the report, what it said to the held-out questions.
    """

    report: ShipReport
    file: Path
    answers: list[list[str]]


@pytest.fixture(scope="session")
def shipped(tuned: Tuned, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """The ways out, each scored by how many held-out appointments come out right."""
    wanted = {asked["content"]: form["content"] for asked, form in tuned.held_out}
    said: list[str] = []

    def metric(answer: str, inputs: Inputs) -> Score:
        said.append(answer)
        return Score(float(answer == wanted[inputs["concept"]]))

    job = ShipJob(
        tuned.model,
        tuned.adapter,
        tuned.validation,
        tmp_path_factory.mktemp("shipped") / "shipped.gguf",
        types=("q4_k_m", "q8_0"),
        test=tuned.validation,
        role=replace(find_role(DEFAULT), metric=metric),
        max_tokens=MAX_TOKENS,
        limit=3,
        threads=models.threads(),
    )
    report = choose_release(job)
    return Shipped(report, job.output, [said[i : i + HELD_OUT] for i in range(0, len(said), HELD_OUT)])
