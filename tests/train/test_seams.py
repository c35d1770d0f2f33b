"""The training loop minimizes what it is handed, and tells whoever listens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpuft.engine import Batch, Engine
from cpuft.errors import ConfigError, ModelError
from cpuft.train.checkpoint import State
from cpuft.train.inputs import load_inputs
from cpuft.train.interrupt import StopRequest
from cpuft.train.loop import Trainer
from cpuft.train.objective import CrossEntropy
from cpuft.train.run import RunFolder
from tests.progress import Heard
from tests.train.runs import Inputs


class Doubled(CrossEntropy):
    """Twice the cross-entropy: as if every token counted twice."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.engine = engine

    def add_gradient(self, batch: Batch) -> tuple[float, int]:
        """The loss and its gradient, both doubled."""
        before = self.engine.gradients.copy()
        loss, count = super().add_gradient(batch)
        self.engine.gradients[:] = before + 2 * (self.engine.gradients - before)
        return 2 * loss, count


class Broken(Doubled):
    """Leaves a gradient that is no number."""

    def add_gradient(self, batch: Batch) -> tuple[float, int]:
        """A finite loss."""
        result = super().add_gradient(batch)
        self.engine.gradients[0] = np.nan
        return result


class Idle(Doubled):
    """Computes nothing, so that the engine has no step to take."""

    def add_gradient(self, batch: Batch) -> tuple[float, int]:
        """A finite loss."""
        return 1.0, 1


class Diary:
    """A listener that keeps all that it hears."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[Mapping[str, Any]] = []
        self.validations: list[Mapping[str, Any]] = []
        self.order: list[str] = []

    def note(self, line: str) -> None:
        """A sentence."""
        self.notes.append(line)

    def training(self, values: Mapping[str, Any]) -> None:
        """A logged step."""
        self.steps.append(values)
        self.order.append("training")

    def validation(self, values: Mapping[str, Any]) -> None:
        """A validation."""
        self.validations.append(values)
        self.order.append("validation")

    def progress(self, epoch: int, step: int, loss: float, val_loss: float | None) -> None:
        """How far it is."""
        self.order.append("progress")

    def sync(self) -> None:
        """A checkpoint follows."""
        self.order.append("sync")


def train(inputs: Inputs, folder: Path, objective: type[CrossEntropy]) -> tuple[list[Diary], Heard]:
    """Two steps of plain descent on the loss that `objective` gives, heard by two listeners."""
    settings = {"training.max_steps": 2, "training.logging_steps": 1, "training.max_grad_norm": 0.0}
    job = inputs.job(folder, settings)
    run, diaries, heard = RunFolder(job.output), [Diary(), Diary()], Heard()
    config = run.settled(job.config, resume=False)
    with Engine(job.model, threads=1, precision="f32") as engine:
        loaded = load_inputs(job, config, engine)
        with run.opened(resume=False, overwrite=False), StopRequest() as stop:
            Trainer(run, loaded, objective(engine), State(), stop, diaries).train(heard)
    return diaries, heard


def test_the_objective_is_an_argument(inputs: Inputs, tmp_path: Path) -> None:
    (plain, _), _ = train(inputs, tmp_path / "plain", CrossEntropy)
    (doubled, _), _ = train(inputs, tmp_path / "doubled", Doubled)
    assert doubled.steps[0]["loss"] == pytest.approx(2 * plain.steps[0]["loss"], rel=1e-6)
    assert doubled.steps[0]["grad_norm"] == pytest.approx(2 * plain.steps[0]["grad_norm"], rel=1e-5)
    # AdamW forgets the scale of a gradient, and validation has no doubling: both adapters learned the same.
    assert doubled.validations[-1]["val_loss"] == pytest.approx(plain.validations[-1]["val_loss"], rel=1e-3)


def test_every_listener_hears_all_in_its_order(inputs: Inputs, tmp_path: Path) -> None:
    (first, second), heard = train(inputs, tmp_path / "run", CrossEntropy)
    assert vars(first) == vars(second)
    assert first.notes[0].startswith("Model: llama")
    assert [step["step"] for step in first.steps] == [1, 2]
    assert first.order == ["training", "progress", "training", "validation", "progress", "sync"]
    assert [done for what, done, _ in heard.steps if what == "Training"] == [0, 1, 2]
    assert np.isfinite([step["grad_norm"] for step in first.steps]).all()


def test_only_a_gradient_that_is_not_finite_is_called_so(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"step 1: the gradient is not finite, .* lower training\.learning_rate"):
        train(inputs, tmp_path / "broken", Broken)
    with pytest.raises(ModelError, match="no supervised token since the last step"):
        train(inputs, tmp_path / "idle", Idle)
