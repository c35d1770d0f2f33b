"""A tiny model, a dataset for it, and short runs over them."""

import json
from pathlib import Path

import pytest

from cpuft.train.loop import Outcome, run_training
from tests.models.tiny import write_tiny_model
from tests.train.runs import Inputs


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
