"""Proves that the memory of a run is foretold, that what is chosen fits, and that what cannot fit is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpuft import demo
from cpuft.config.file import load_config
from cpuft.config.keys import Config
from cpuft.data.examples import Example
from cpuft.engine import PASS_SIZE, Engine
from cpuft.errors import ResourceError
from cpuft.gguf.reader import read_gguf
from cpuft.train import memory
from cpuft.train.inputs import attach_for_training, load_data
from cpuft.train.loop import run_training
from cpuft.train.memory import Fit, fit, moments, predict
from cpuft.train.passes import RunPasses, pass_sizes
from cpuft.train.run import RunFolder
from tests.conftest import RunCpuft
from tests.train.runs import Inputs, lasting

# One pass of eight of the demo's examples, in float32: its arrays outweigh Python.
WIDE = {"training.max_steps": 1, "training.tokens_per_pass": 4096, "training.precision": "f32", "training.threads": 2}
TOLERANCE = 0.1


def command(name: str, settings: dict[str, Any], *options: str | Path) -> list[str | Path]:
    """`cpuft plan` or `cpuft train` over the demo's data."""
    given = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return [name, "--model", demo.BASE_MODEL, "--train", demo.VALIDATION, "--json", *given, *options]


@pytest.mark.parametrize("policy", ["keep", "recompute"])
def test_the_peak_is_foretold(policy: str, run_cpuft: RunCpuft, tmp_path: Path) -> None:
    settings = {**WIDE, "training.activations": policy}
    plan = json.loads(run_cpuft(*command("plan", settings)).stdout)["memory"]
    trained = json.loads(run_cpuft(*command("train", settings, "--output", tmp_path / "run")).stdout)
    assert plan["fits"]
    assert plan["peak"] == pytest.approx(trained["peak_rss_mb"] * 1e6, rel=TOLERANCE)
    passes = plan["parts"]["activations"] + plan["parts"]["workspace"]
    assert passes > 0.3 * plan["peak"], "Python alone would hide a wrong figure"


def test_a_refusal_names_a_setting_that_fits(run_cpuft: RunCpuft, tmp_path: Path) -> None:
    settings = {**WIDE, "lora.r": 256}
    least = json.loads(run_cpuft(*command("plan", settings, "--max-ram", "1M")).stdout)["memory"]
    assert (least["fits"], least["advice"], least["limit"]) == (False, None, 1_000_000)
    limit = f"{(least['peak'] - 8_000_000) // 10**6}M"
    refused = run_cpuft(*command("train", settings, "--max-ram", limit, "--output", tmp_path / "run"))
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    advice = re.search(r"\(training\.max_ram: [\d.]+ GB\): it fits with (\S+): (\S+)$", refused.stderr.strip())
    assert advice is not None, refused.stderr
    assert (advice[1], advice[2]) == ("training.optim", "adamw_8bit")
    assert not (tmp_path / "run").exists()
    mended = {**settings, advice[1]: advice[2]}
    done = run_cpuft(*command("train", mended, "--max-ram", limit, "--output", tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["peak_rss_mb"] < float(limit[:-1])


@pytest.mark.parametrize("value", ["4X", "-1", "0", "", "lots", "4 4G"])
@pytest.mark.parametrize("name", ["plan", "train"])
def test_a_limit_that_is_no_size(name: str, value: str, run_cpuft: RunCpuft, tmp_path: Path) -> None:
    output = ("--output", tmp_path / "run") if name == "train" else ()
    done = run_cpuft(*command(name, {}, "--max-ram", value, *output))
    assert done.returncode == 2
    assert "training.max_ram: found" in done.stderr
    assert "expected a size such as 4G" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "n_bytes"), [("4G", 4 * 10**9), ("1.5 GiB", 3 << 29), ("800MB", 800 * 10**6), (7, 7), (None, None)]
)
def test_sizes(text: str | int | None, n_bytes: int | None) -> None:
    config, _ = load_config(None, {"training.max_ram": text})
    assert config.training.max_ram == n_bytes


class Situation:
    """An engine and a run over 11 examples, on a machine with as much memory as wanted, where Python takes `held`."""

    def __init__(self, inputs: Inputs, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model, self._engine, self._monkeypatch = inputs.model, engine, monkeypatch
        job = inputs.job(Path("run"))
        data = load_data(job, job.config, engine, read_gguf(inputs.model))
        self.config, self.examples = job.config, data.training.examples
        self._data, self.held = data, 0

    def _passes(self, config: Config) -> RunPasses:
        return self._data.passes(config, self._engine)

    def needed(self, **settings: Any) -> int:
        """What a run takes; settings: activations, tokens_per_pass, …"""
        policy = settings.pop("activations")
        config = replace(self.config, training=replace(self.config.training, **settings))
        return predict(config, policy, self._engine, pass_sizes(self._passes(config), self._engine), 0).total

    def fitted(self, available: int = 10**12, resume: bool = False, **settings: Any) -> Fit:
        """What is chosen."""
        self._monkeypatch.setattr(memory, "resident_bytes", lambda model: self.held)
        self._monkeypatch.setattr(memory, "available_within", lambda: (available, "a test"))
        config = replace(self.config, training=replace(self.config.training, **settings))
        return fit(config, self._engine, self._passes, self.model, resume=resume)


@pytest.fixture
def situation(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> Any:
    with Engine(inputs.model, threads=1) as engine:
        yield Situation(inputs, engine, monkeypatch)


def test_the_policy_follows_the_free_memory(situation: Situation) -> None:
    keep, recompute = (situation.needed(activations=policy) for policy in ("keep", "recompute"))
    assert recompute < keep
    for available, policy in ((2 * keep, "keep"), (keep, "recompute"), (recompute, "recompute")):
        found = situation.fitted(available)
        assert (found.fits, found.policy) == (True, policy)
        assert found.config == situation.config
    assert not situation.fitted(recompute - 1).fits
    found = situation.fitted(keep, activations="keep")
    assert (found.fits, found.policy) == (True, "keep")


def test_a_limit_also_chooses_the_passes(situation: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FEW_TOKENS", 100)
    half = situation.needed(activations="keep", tokens_per_pass=100)
    found = situation.fitted(max_ram=half)
    assert (found.fits, found.policy, found.config.training.tokens_per_pass) == (True, "keep", 100)
    # Passes of less than FEW_TOKENS are the last resort, and a resumed run keeps its passes.
    least = min(situation.needed(activations=policy, tokens_per_pass=1) for policy in ("keep", "recompute"))
    found = situation.fitted(max_ram=least)
    longest = max(example.tokens.size for example in situation.examples)
    assert found.fits
    assert longest <= found.config.training.tokens_per_pass <= 100
    assert not situation.fitted(max_ram=half, resume=True, activations="keep").fits


def test_advice_is_the_mildest_change_that_fits(situation: Situation) -> None:
    recompute = situation.needed(activations="recompute")
    assert situation.fitted(recompute, activations="keep").advice == {"training.activations": "recompute"}
    few = situation.needed(activations="recompute", tokens_per_pass=100)
    assert situation.fitted(few).advice == {"training.tokens_per_pass": 100}
    smallest = situation.fitted(1)
    assert smallest.advice is None
    assert "no setting makes it fit" in smallest.refusal()


def test_a_resumed_run_is_told_only_what_it_may_change(situation: Situation) -> None:
    recompute = situation.needed(activations="recompute")
    assert situation.fitted(recompute, resume=True, activations="keep").advice == {"training.activations": "recompute"}
    few = situation.fitted(situation.needed(activations="recompute", tokens_per_pass=100), resume=True)
    assert few.advice is None
    assert "nothing that a resumed run may change makes it fit" in few.refusal()


@pytest.mark.parametrize(
    "settings", [{}, {"lora.layers": 1}, {"training.optim": "adamw_8bit", "lora.r": 7}, {"lora.layers": 2}]
)
def test_the_adapter_takes_what_is_foretold(settings: dict[str, Any], inputs: Inputs) -> None:
    job = inputs.job(Path("run"), settings)
    with Engine(inputs.model, threads=1) as engine:
        data = load_data(job, job.config, engine, read_gguf(inputs.model))
        sizes = pass_sizes(data.passes(job.config, engine), engine)
        foretold = predict(job.config, "keep", engine, sizes, process=1000)
        attach_for_training(job.config, engine, read_gguf(inputs.model), None)
        held = (engine.parameters.nbytes, engine.gradients.nbytes, engine.optimizer_state.nbytes)
    parts = foretold.parts
    assert (parts["adapter"], parts["gradients"], parts["optimizer"]) == held
    assert parts["process"] == 1000
    assert foretold.total == int(sum(parts.values()) * 1.02)


def test_rows_of_frozen_layers_are_counted_twice(inputs: Inputs) -> None:
    """As they are read from the cache and as they are made."""
    job = inputs.job(Path("run"), {"lora.layers": 1})
    cached = inputs.job(Path("run"), {"lora.layers": 1, "training.cache_frozen": True})
    with Engine(inputs.model, threads=1) as engine:
        data = load_data(job, job.config, engine, read_gguf(inputs.model))
        sizes = pass_sizes(data.passes(job.config, engine), engine, frozen=True)
        plain, more = (predict(each.config, "keep", engine, sizes, 0).parts for each in (job, cached))
        rows = int(sizes[:, PASS_SIZE.index("tokens")].max()) * int(engine.facts["n_embd"]) * 4
    assert {name: more[name] - plain[name] for name in plain} == {**dict.fromkeys(plain, 0), "workspace": 2 * rows}


def test_the_limit_is_what_is_free_and_what_is_held(situation: Situation) -> None:
    assert situation.fitted(10**9, max_ram=10**8).limit.n_bytes == 10**8
    assert situation.fitted(10**9, max_ram=10**10).limit.n_bytes == 10**9  # the machine has no more
    assert situation.fitted(10**9).limit.n_bytes == 10**9
    situation.held = 5 * 10**7
    assert situation.fitted(10**9).limit.n_bytes == 10**9 + 5 * 10**7
    assert situation.fitted(10**9).memory.parts["process"] == 5 * 10**7


def test_the_mapped_model_is_no_part_of_the_process(tmp_path: Path) -> None:
    size = 32 << 20
    (tmp_path / "model.gguf").write_bytes(b"x" * size)
    (tmp_path / "link.gguf").symlink_to(tmp_path / "model.gguf")
    mapped = np.memmap(tmp_path / "model.gguf", np.uint8, "r")
    assert int(mapped[::4096].sum()) > 0
    with_it, without = (memory.resident_bytes(tmp_path / name) for name in ("none.gguf", "link.gguf"))
    assert with_it - without == pytest.approx(size, rel=0.1)


def test_a_run_that_is_resumed_with_less_memory(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_training(inputs.job(tmp_path / "run", {"training.max_steps": 2}), say=lambda _: None)
    before = lasting(tmp_path / "run")
    monkeypatch.setattr(memory, "available_within", lambda: (1, "a test"))
    monkeypatch.setattr(memory, "resident_bytes", lambda model: 0)
    with pytest.raises(ResourceError, match="nothing that a resumed run may change makes it fit"):
        run_training(inputs.job(tmp_path / "run", {"training.max_steps": 2}, resume=True), say=lambda _: None)
    assert lasting(tmp_path / "run") == before


def test_a_limit_that_is_met_changes_nothing_and_can_be_resumed(inputs: Inputs, tmp_path: Path) -> None:
    """Fewer tokens in a pass are kept by a resumed run, whose limit may then be another."""
    job = inputs.job(tmp_path / "run", {"training.max_ram": "1TB"})
    free = inputs.job(tmp_path / "free")
    for each in (job, free):
        run_training(each, say=lambda _: None)
    limited, unlimited = lasting(tmp_path / "run"), lasting(tmp_path / "free")
    configuration = next(name for name in limited if name.endswith("config.yaml"))
    assert limited.pop(configuration) != unlimited.pop(configuration)
    assert limited == unlimited
    folder = RunFolder(tmp_path / "run")
    text = folder.config.read_text()
    folder.config.write_text(text.replace("tokens_per_pass: 200", "tokens_per_pass: 90"))
    assert folder.settled(job.config, resume=True).training.tokens_per_pass == 90


def test_a_run_counts_each_pass_once(inputs: Inputs) -> None:
    with Engine(inputs.model, threads=1) as engine:
        job = inputs.job(Path("run"))
        examples = [_example(n) for n in (5, 7, 9)]
        run = RunPasses(job.config, examples, examples[:2], prefix_block=64)
        sizes = pass_sizes(run, engine)
        assert sizes[:, 0].sum() == 3 * sum(n - 1 for n in (5, 7, 9)) + 4 + 6  # epochs, and one validation
        assert sizes[:, 3].tolist() == [1, 1, 1, 0]


def test_moments_of_both_optimizers() -> None:
    config, _ = load_config(None, {"training.optim": "adamw_8bit"})
    assert (moments(Config()), moments(config)) == ("f32", "8bit")


def _example(n: int) -> Example:
    tokens = np.arange(n, dtype=np.int32) + n
    supervised = np.ones(n, np.uint8)
    supervised[0] = 0
    return Example(tokens, supervised, "test")
