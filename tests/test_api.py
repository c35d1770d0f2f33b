"""`import cpuft` gives a script all that it needs, and imports nothing heavy before it is used."""

import inspect
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import cpuft
from cpuft import api, demo
from tests.gguf.tiny import write_tiny_model
from tests.progress import Heard
from tests.train.runs import Inputs


def test_the_surface_is_complete() -> None:
    own = [name for name in cpuft.__all__ if name not in ("__version__", "CpuftError", "UserError")]
    assert own == api.__all__
    assert all(getattr(cpuft, name) is getattr(api, name) for name in own)
    functions = {name for name, value in vars(api).items() if inspect.isfunction(value)}
    written = {name for name in functions if getattr(api, name).__module__ == api.__name__ and not name.startswith("_")}
    assert written == {name for name in own if inspect.isfunction(getattr(api, name))}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cpuft.nonsense  # noqa: B018


def test_everything_says_what_it_is() -> None:
    assert all(inspect.getdoc(getattr(cpuft, name)) for name in api.__all__ if name not in ("GREEDY", "Message"))


def test_importing_it_costs_nothing() -> None:
    code = "import sys, cpuft; print([name for name in ('numpy', 'gguf', 'click', 'yaml') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_script_trains_merges_generates_and_evaluates(inputs: Inputs, tmp_path: Path) -> None:
    facts = cpuft.describe_model(inputs.model)
    assert (facts["architecture"], facts["trainable"]) == ("llama", True)
    settings = {"training.max_steps": 1, "training.threads": 1}
    planned = cpuft.plan_training(inputs.model, inputs.train, val=inputs.val, settings=settings)
    assert planned.fitted.fits
    heard, lines = Heard(), list[str]()
    outcome = cpuft.train_adapter(
        inputs.model,
        inputs.train,
        tmp_path / "run",
        val=inputs.val,
        settings=settings,
        say=lines.append,
        progress=heard,
    )
    assert (outcome.ended, outcome.step, outcome.adapter) == ("complete", 1, tmp_path / "run" / "adapter.gguf")
    assert heard.steps[-1] == ("Training", 1, 1)
    assert lines
    merged = cpuft.merge_adapter(inputs.model, tmp_path / "tuned.gguf", adapter=outcome.adapter, type="F16", threads=1)
    assert merged.n_adapted > 0
    answer = cpuft.generate_answer(
        merged.output, "hello", system="be brief", threads=1, sampling=cpuft.Sampling(max_tokens=4)
    )
    assert answer.tokens == 4


def test_a_test_set_can_be_put_to_anything_that_answers(tmp_path: Path) -> None:
    class Parrot:
        """Thirty lines that answer are enough; a server is not needed."""

        def generate(
            self, messages: Sequence[cpuft.Message], sampling: cpuft.Sampling = cpuft.GREEDY
        ) -> cpuft.Completion:
            text = next(line["messages"][-1]["content"] for line in lines if line["messages"][:-1] == list(messages))
            return cpuft.Completion(text, 1, 1.0, 1, finished=True)

    lines = [json.loads(line) for line in demo.TEST.read_text().splitlines()]
    assert cpuft.evaluate_model(Parrot(), demo.TEST, limit=3).average_score > 0.9
    with pytest.raises(cpuft.UserError, match="chef: no such role"):
        cpuft.evaluate_model(write_tiny_model(tmp_path / "m.gguf"), demo.TEST, role="chef")
