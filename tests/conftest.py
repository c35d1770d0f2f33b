"""Fixtures that several parts' tests share."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cpuft import demo, toolchain
from cpuft.config.file import load_config
from cpuft.config.keys import TrainJob
from cpuft.errors import ToolchainError
from cpuft.train.loop import Outcome, run_training
from tests.gguf.tiny import write_tiny_model
from tests.ollama.server import OllamaServer, serve
from tests.train.runs import Inputs

ROOT = Path(__file__).resolve().parents[1]
TRAINED_ON = 240  # of the demo's examples, the first: enough for nine good answers of ten

# Runs `cpuft ARGS` as a user does, in a process of its own, with environment variables changed (None: removed).
RunCpuft = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_configure() -> None:
    """Lets Ctrl-C and a closed terminal reach the tests' processes: jobs in the background and under nohup ignore them,
    and so does all that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests of a file in one worker, since they share fixtures; what takes longest begins first."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in ("real", "slow")))


@pytest.fixture(scope="session")
def run_cpuft() -> RunCpuft:
    """A function (*args, cwd=…, env={…}) -> finished process, its output captured as text."""

    def run(
        *args: str | Path, cwd: Path = ROOT, env: dict[str, str | None] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        merged = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
        return subprocess.run(
            [sys.executable, "-m", "cpuft", *map(str, args)],
            cwd=cwd,
            env={name: value for name, value in merged.items() if value is not None},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def built() -> toolchain.Toolchain:
    """The compiled toolchain; a test run without it is a fault of the set-up, not a reason to skip."""
    try:
        return toolchain.locate()
    except ToolchainError as error:
        pytest.exit(f"{error} (`make test` does it)", returncode=2)


@pytest.fixture(scope="session")
def ollama_server(built: toolchain.Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """A running Ollama with an empty store; skips where it can be neither found nor built."""
    with serve(tmp_path_factory.mktemp("ollama"), built.lib_dir) as server:
        yield server


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A model of 60 000 parameters, 11 training examples of different lengths and 3 for validation."""
    folder = tmp_path_factory.mktemp("train")
    for name, count in (("train", 11), ("val", 3)):
        lines = []
        for i in range(count):
            ask = {"role": "user", "content": f"Concept: {name} {i} {'very ' * (i % 4)}long"}
            say = {"role": "assistant", "content": f"title: {name} {i}\nitems:\n{'- one' * (i % 3)}"}
            lines.append(json.dumps({"messages": [ask, say]}) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))
    model = write_tiny_model(folder / "tiny.gguf", n_embd=32, n_ff=48)
    return Inputs(model, folder / "train.jsonl", folder / "val.jsonl")


@pytest.fixture(scope="session")
def whole_run(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder and outcome of a run that nothing disturbed: 9 steps."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run_training(inputs.job(folder), say=lambda _: None)


@pytest.fixture(scope="session")
def tuned_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the bundled base that answers the demo's questions well: a quarter of the demo's training."""
    folder = tmp_path_factory.mktemp("tuned")
    data = folder / "train.jsonl"
    data.write_text("".join(demo.TRAIN.read_text(encoding="utf-8").splitlines(keepends=True)[:TRAINED_ON]))
    config, _ = load_config(ROOT / "configs" / "demo.yaml", {"training.warmup_steps": 5, "training.threads": 1})
    job = TrainJob(demo.BASE_MODEL, data, folder / "run", config, demo.VALIDATION)
    assert run_training(job, say=lambda _: None).ended == "complete"
    return folder / "run" / "adapter.gguf"
