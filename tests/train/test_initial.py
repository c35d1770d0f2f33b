"""Proves that a run starts from an adapter of either format, takes over its shape, and resumes like any other."""

import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cpuft.adapters.adapter import read_adapter, write_adapter
from cpuft.adapters.files import convert
from cpuft.config.file import load_config
from cpuft.config.keys import TrainJob
from cpuft.errors import AdapterError, ConfigError
from cpuft.gguf.reader import read_gguf
from cpuft.train.initial import InitialAdapter, load_initial
from cpuft.train.loop import Outcome, run_training
from tests.engine.golden import CASES
from tests.engine.random_model import write_model
from tests.gguf.tiny import write_tiny_model
from tests.train.runs import SETTINGS, Inputs, lasting
from tests.train.test_resume import disturb

QUIET = lambda _: None  # noqa: E731
STILL = {"training.max_steps": 1, "training.learning_rate": 1e-12, "training.warmup_steps": 0}  # nothing moves


@pytest.fixture(scope="module")
def initial(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter on q and down of the last layer, of rank 3 and alpha 5, none of which is a default."""
    settings = {"lora.r": 3, "lora.lora_alpha": 5, "lora.target_modules": ["q_proj", "down_proj"], "lora.layers": 1}
    folder = tmp_path_factory.mktemp("initial")
    run_training(inputs.job(folder / "run", {**settings, "training.max_steps": 2}), say=QUIET)
    return folder / "run" / "adapter.gguf"


def job(
    inputs: Inputs, output: Path, initial: Path, settings: dict[str, Any] | None = None, **options: Any
) -> TrainJob:
    """A run whose configuration leaves open what the adapter decides, but for `settings`."""
    open_settings = {key: value for key, value in SETTINGS.items() if key not in ("lora.r", "lora.lora_alpha")}
    config, _ = load_config(None, {**open_settings, "lora.init_adapter": str(initial), **(settings or {})})
    return TrainJob(inputs.model, inputs.train, output, config, inputs.val, **options)


def test_a_run_starts_there_and_takes_over_its_shape(inputs: Inputs, initial: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    run_training(job(inputs, tmp_path / "run", initial, STILL), say=lines.append)
    taken = "lora.r 3, lora.lora_alpha 5, lora.target_modules [q_proj, down_proj], lora.layers 1"
    assert f"Initial adapter: {initial}; from it: {taken}" in lines
    before, after = read_adapter(initial), read_adapter(tmp_path / "run" / "adapter.gguf")
    assert after.alpha == 5.0
    assert list(after.tensors) == list(before.tensors)
    assert all(np.allclose(after.tensors[name], values, atol=1e-8) for name, values in before.tensors.items())
    assert any(before.pair(weight)[1].any() for weight in before.weights)
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["lora"]
    assert (saved["r"], saved["lora_alpha"], saved["layers"], saved["init_adapter"]) == (3, 5.0, 1, str(initial))


def test_a_peft_folder_is_as_good(inputs: Inputs, initial: Path, tmp_path: Path) -> None:
    convert(initial, tmp_path / "folder", "peft", model=inputs.model)
    for name, path in (("gguf", initial), ("peft", tmp_path / "folder")):
        run_training(job(inputs, tmp_path / name, path), say=QUIET)
    same = [(tmp_path / name / "adapter.gguf").read_bytes() for name in ("gguf", "peft")]
    assert same[0] == same[1] != initial.read_bytes()


def test_what_the_configuration_says_as_well_may_agree(inputs: Inputs, initial: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    agreeing = {"lora.r": 3, "lora.lora_alpha": 5, "lora.target_modules": ["down_proj", "attn_q"], "lora.layers": 1}
    run_training(job(inputs, tmp_path / "run", initial, STILL | agreeing), say=lines.append)
    assert f"Initial adapter: {initial}" in lines


def test_what_contradicts_the_adapter_is_named_with_its_key(inputs: Inputs, initial: Path, tmp_path: Path) -> None:
    settings = {"lora.r": 4, "lora.lora_alpha": 8, "lora.target_modules": ["q_proj"], "lora.layers": None}
    with pytest.raises(ConfigError) as caught:
        run_training(job(inputs, tmp_path / "run", initial, settings), say=QUIET)
    assert str(caught.value) == (
        f"{initial}: the configuration contradicts the adapter to start from: lora.r is 4, the adapter's is 3; "
        "lora.lora_alpha is 8, the adapter's is 5; lora.target_modules is [q_proj], the adapter's is "
        "[q_proj, down_proj]; lora.layers is null (all), the adapter's is 1: "
        "leave these keys out, or set them as they are in the adapter"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("event", "word"), [("cpuft.say", "Model:"), ("cpuft.say", "Step 3/")])
def test_kill_and_resume(event: str, word: str, inputs: Inputs, initial: Path, tmp_path: Path) -> None:
    """Before the first checkpoint and behind it; the configuration that a resumed run reads is the run's own."""
    settings = {"lora.init_adapter": str(initial), **own_shape(initial)}
    run_training(job(inputs, tmp_path / "whole", initial), say=QUIET)
    assert disturb(inputs, tmp_path / "run", event, word, "kill", settings).returncode == -signal.SIGKILL
    config, _ = load_config(tmp_path / "run" / "config.yaml")
    resumed = TrainJob(inputs.model, inputs.train, tmp_path / "run", config, inputs.val, resume=True)
    assert run_training(resumed, say=QUIET).ended == "complete"
    assert lasting(tmp_path / "run") == lasting(tmp_path / "whole")


def own_shape(path: Path) -> dict[str, Any]:
    adapter = read_adapter(path)
    targets = ["q_proj", "down_proj"]
    return {"lora.r": adapter.rank, "lora.lora_alpha": adapter.alpha, "lora.target_modules": targets, "lora.layers": 1}


def test_the_same_command_resumes_and_another_adapter_does_not(inputs: Inputs, initial: Path, tmp_path: Path) -> None:
    settings = {"training.max_steps": 4}
    run_training(job(inputs, tmp_path / "run", initial, settings), say=QUIET)
    assert run_training(job(inputs, tmp_path / "run", initial, settings, resume=True), say=QUIET).ended == "complete"
    other = tmp_path / "run" / "adapter.gguf"
    with pytest.raises(ConfigError, match="begun with another initial adapter"):
        run_training(job(inputs, tmp_path / "run", other, settings, resume=True), say=QUIET)
    with pytest.raises(ConfigError, match=r"it lies in the run that --overwrite removes"):
        run_training(job(inputs, tmp_path / "run", other, settings, overwrite=True), say=QUIET)
    assert other.exists()


def test_adapters_that_cannot_be_trained_further(
    inputs: Inputs, initial: Path, whole_run: tuple[Path, Outcome], tmp_path: Path
) -> None:
    tensors, path = read_adapter(whole_run[0] / "adapter.gguf").tensors, tmp_path / "a.gguf"

    def refused(sentence: str, kept: dict[str, Any], alpha: float = 8, architecture: str = "llama") -> None:
        write_adapter(path, kept, alpha=alpha, architecture=architecture)
        with pytest.raises(AdapterError, match=sentence):
            run_training(job(inputs, tmp_path / "run", path), say=QUIET)

    refused(r"but blk\.1\.attn_q\.weight lacks a pair", {n: v for n, v in tensors.items() if "blk.1.attn_q" not in n})
    refused(r"blk\.1\..* lacks a pair; ", {n: v for n, v in tensors.items() if "blk.0." in n})
    n_vocab = read_gguf(inputs.model).tensors["output.weight"].rows
    head = {"output.weight.lora_a": np.ones((4, 32)), "output.weight.lora_b": np.ones((n_vocab, 4))}
    refused(r"but output\.weight has one", tensors | head)
    narrow = {n: (v[:2] if n.endswith("_a") else v[:, :2]) if "attn_v" in n else v for n, v in tensors.items()}
    refused(r"ranks 2, 4, .*`cpuft adapter combine .*a\.gguf --output … --rank 2`", narrow)
    refused(r"alpha is -8, expected one above 0", tensors, alpha=-8)
    refused(r"architecture 'qwen2', but .*tiny\.gguf is 'llama'", tensors, architecture="qwen2")
    wider = write_tiny_model(tmp_path / "wider.gguf", n_embd=64, n_ff=48)
    with pytest.raises(AdapterError, match=r"blk\.1\.attn_q\.weight is 32x32, the model's is 64x64"):
        run_training(job(Inputs(wider, inputs.train, inputs.val), tmp_path / "run", initial), say=QUIET)
    with pytest.raises(AdapterError, match=re.escape(f"{tmp_path / 'none.gguf'}: no such file")):
        run_training(job(inputs, tmp_path / "run", tmp_path / "none.gguf"), say=QUIET)
    assert not (tmp_path / "run").exists()


def loaded(model: Path, initial: Path, **lora: Any) -> InitialAdapter:
    config, _ = load_config(None, {"lora.init_adapter": str(initial), **{f"lora.{k}": v for k, v in lora.items()}})
    found = load_initial(TrainJob(model, model, model.parent / "run", config, None))
    assert found is not None
    return found


def test_fused_modules_may_be_named_by_their_parts(tmp_path: Path) -> None:
    case = CASES["phi3"]
    model = write_model(tmp_path / "base.gguf", case.model)
    write_adapter(tmp_path / "a.gguf", case.adapter(), alpha=case.alpha, architecture="phi3")
    taken = set(loaded(model, tmp_path / "a.gguf").config.lora.target_modules)
    parts = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
    named = [name for module in sorted(taken) for name in parts.get(module, [module])]
    assert loaded(model, tmp_path / "a.gguf", target_modules=named)
    with pytest.raises(ConfigError, match=r"lora\.target_modules is \[q_proj\]"):
        loaded(model, tmp_path / "a.gguf", target_modules=["q_proj"])


def test_the_digest_knows_which_weight_a_pair_is_of(inputs: Inputs, tmp_path: Path) -> None:
    """Keys and values have one shape: the same matrices on the others are another adapter. All layers are "null"."""
    rows = read_gguf(inputs.model).tensors["blk.0.attn_k.weight"].rows
    digests = set()
    for own in ("attn_k", "attn_v"):
        shapes = {"a": (2, 32), "b": (rows, 2)}
        tensors = {f"blk.{i}.{own}.weight.lora_{part}": np.ones(shapes[part]) for i in range(2) for part in shapes}
        write_adapter(tmp_path / "a.gguf", tensors, alpha=4, architecture="llama")
        found = loaded(inputs.model, tmp_path / "a.gguf")
        assert found.config.lora.layers is None
        digests.add(found.digest)
    assert len(digests) == 2


def test_alpha_0_means_a_scale_of_1(inputs: Inputs, initial: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a.gguf", read_adapter(initial).tensors, alpha=0, architecture="llama")
    run_training(job(inputs, tmp_path / "run", tmp_path / "a.gguf", STILL), say=QUIET)
    assert read_adapter(tmp_path / "run" / "adapter.gguf").alpha == 3.0
