"""Proves what a plan holds, that it counts what then happens, and that nothing of it is left behind."""

import json
import signal
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpuft.config.keys import TrainJob
from cpuft.machine.cpu import CpuLoad
from cpuft.plan.plan import plan_run
from cpuft.plan.timing import Line, _line
from cpuft.toolchain import Toolchain
from cpuft.train import checkpoint
from cpuft.train.loop import run_training
from cpuft.train.passes import times_due
from tests.conftest import RunCpuft
from tests.train.runs import Inputs, metrics
from tests.train.test_cli import SETTING_OPTIONS

PARTS = ["process", "base", "adapter", "gradients", "optimizer", "activations", "workspace", "threads"]
TIMES = ["start", "training", "validation", "frozen_layers", "checkpoints", "total", "tok_s"]


def options(inputs: Inputs) -> list[str]:
    assert inputs.val is not None
    return ["--model", str(inputs.model), "--train", str(inputs.train), "--val", str(inputs.val), *SETTING_OPTIONS]


def test_json(inputs: Inputs, run_cpuft: RunCpuft) -> None:
    done = run_cpuft("plan", *options(inputs), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    plan = json.loads(done.stdout)
    assert list(plan) == ["run", "chosen", "memory", "time", "disk", "notes"]
    assert list(plan["memory"]["parts"]) == PARTS
    assert plan["memory"]["peak"] >= sum(plan["memory"]["parts"].values())
    assert plan["memory"]["fits"] is True
    assert list(plan["time"]) == TIMES
    assert all(plan["time"][name] > 0 for name in TIMES if name != "frozen_layers")
    parts = [plan["time"][name] for name in TIMES[:5]]
    assert plan["time"]["total"] == pytest.approx(sum(parts))
    assert plan["time"]["tok_s"] == pytest.approx(plan["run"]["tokens"] / plan["time"]["training"])
    assert plan["disk"]["total"] == plan["disk"]["adapter"] + plan["disk"]["checkpoints"]
    assert plan["chosen"] == {"activations": "keep", "tokens_per_pass": 200}


def test_text_and_exit_code_where_it_does_not_fit(inputs: Inputs, run_cpuft: RunCpuft) -> None:
    done = run_cpuft("plan", *options(inputs))
    assert done.returncode == 0
    assert "base model, memory-mapped" in done.stdout
    assert "tokens/s" in done.stdout
    small = run_cpuft("plan", *options(inputs), "--max-ram", "1M")
    assert small.returncode == 2
    assert "It does not fit: the run takes" in small.stdout
    assert "tokens/s" not in small.stdout
    assert json.loads(run_cpuft("plan", *options(inputs), "--max-ram", "1M", "--json").stdout)["time"] is None


def test_it_counts_what_then_happens(inputs: Inputs, whole_run: tuple[Path, Any]) -> None:
    run, outcome = whole_run
    plan = plan_run(inputs.job(Path("none")))
    assert (plan.run["steps"], plan.run["tokens"]) == (outcome.n_steps, outcome.n_tokens)
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name.removeprefix("step-")))
    sizes = {path.name: path.stat().st_size for path in newest.iterdir()}
    header = sizes["adapter.gguf"] - plan.disk["adapter"]
    assert 0 < header < 10_000
    kept = len(list((run / "checkpoints").iterdir())) + 1  # and one that is being written
    assert plan.disk["checkpoints"] == pytest.approx(kept * sum(sizes.values()), rel=0.2)
    n_validations = sum("val_loss" in line for line in metrics(run))
    assert n_validations == times_due(outcome.n_steps, 3)


def test_other_programs_are_told(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their share is known in the end; what an idle machine's services take is no news."""
    for others, told in ((0.42, True), (0.05, False)):
        monkeypatch.setattr(CpuLoad, "others", lambda self, share=others: share)
        notes = plan_run(inputs.job(Path("none"))).document()["notes"]
        found = [note for note in notes if "other programs" in note]
        assert len(found) == told
        assert not told or found[0].startswith("other programs used 42% of the CPUs")


def test_the_frozen_cache_is_planned_and_not_made(
    inputs: Inputs, built: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPUFT_LIBRARY", str(built.engine_library))
    monkeypatch.setenv("CPUFT_CACHE", str(tmp_path / "cache"))
    job = inputs.job(tmp_path / "run", {"lora.layers": 1, "training.cache_frozen": True})
    plan = plan_run(job)
    assert plan.times is not None
    assert plan.times.frozen_layers > 0
    assert not (tmp_path / "cache").exists()
    run_training(job, say=lambda _: None)
    (folder,) = (tmp_path / "cache" / "frozen").iterdir()
    assert plan.disk["frozen_cache"] == sum(entry.stat().st_size for entry in folder.iterdir())


def test_ctrl_c_leaves_nothing(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is most to leave: while a checkpoint is written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    save = checkpoint.save
    seen: list[Path] = []

    def interrupted(folder: Path, *arguments: Any, **options: Any) -> Path:
        save(folder, *arguments, **options)
        seen.extend(tmp_path.iterdir())
        signal.raise_signal(signal.SIGINT)
        return folder

    monkeypatch.setattr(checkpoint, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan_run(inputs.job(tmp_path / "run"))
    assert len(seen) == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_inputs_are_refused_as_by_train(inputs: Inputs, run_cpuft: RunCpuft, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    for changed in (["--train", str(empty)], ["--model", str(empty)], ["--layers", "last:99"]):
        done = run_cpuft("plan", *options(inputs), *changed)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


def test_lines_through_what_was_timed() -> None:
    sizes = np.array([[100, 0, 0, 1, 0], [50, 0, 0, 1, 0]], np.int64)
    assert _line([(100, 3.0), (50, 2.0)]).seconds(sizes, 0) == pytest.approx(5.0)
    assert _line([(100, 3.0)]) == Line(0.0, 0.03)
    assert _line([(100, 3.0), (50, 1.0)]) == Line(0.0, 0.03)  # less than nothing for an empty pass
    assert _line([(100, 3.0), (50, 4.0)]) == Line(0.0, 0.03)  # a larger pass takes no less
    assert _line([(0, 0.0)]) == Line(0.0, 0.0)


@pytest.mark.parametrize(("n_steps", "every", "count"), [(9, 3, 3), (10, 3, 4), (2, 50, 1), (1, 1, 1)])
def test_times_due(n_steps: int, every: int, count: int) -> None:
    assert times_due(n_steps, every) == count


def test_a_job_is_left_as_it_was(inputs: Inputs) -> None:
    job = inputs.job(Path("none"))
    before = asdict(job)
    plan_run(job)
    assert isinstance(job, TrainJob)
    assert asdict(job) == before
