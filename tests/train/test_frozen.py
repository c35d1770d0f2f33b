"""Proves that what the frozen layers give is kept and used again, changes no byte, and is never trusted blindly."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpuft.engine import Batch, Engine, FloatArray
from cpuft.errors import ResourceError
from cpuft.gguf.reader import read_gguf
from cpuft.toolchain import Toolchain
from cpuft.train import frozen
from cpuft.train.inputs import load_inputs
from cpuft.train.loop import run_training
from tests.gguf.tiny import write_tiny_model
from tests.progress import Heard
from tests.train.runs import Inputs, lasting
from tests.train.test_resume import disturb

QUIET = lambda _: None  # noqa: E731
PLAIN: dict[str, Any] = {"lora.layers": 1}
CACHED: dict[str, Any] = {**PLAIN, "training.cache_frozen": True}
N_EXAMPLES = 11 + 3  # for training and for validation, all different


@pytest.fixture
def cache(built: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own; the engine is the one that was built."""
    monkeypatch.setenv("CPUFT_LIBRARY", str(built.engine_library))
    monkeypatch.setenv("CPUFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "frozen"


@pytest.fixture(scope="module")
def plain_run(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run leaves that computes the frozen layers in every pass."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    run_training(inputs.job(folder, PLAIN), say=QUIET)
    return without_config(folder)


def without_config(run: Path) -> dict[str, Any]:
    """All that must be the same with the cache and without it."""
    left = lasting(run)
    assert left.pop("1 config.yaml")
    return left


def entries(cache: Path) -> dict[Path, bytes]:
    """Every file under the cache's one key."""
    (folder,) = cache.iterdir()
    return {path: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_bytes_are_those_of_a_run_without_it(
    inputs: Inputs, plain_run: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    """While it is filled, when it is full, with recomputed activations, and on more threads."""
    others: list[dict[str, Any]] = [{}, {}, {"training.activations": "recompute"}, {"training.threads": 2}]
    for number, other in enumerate(others):
        run_training(inputs.job(tmp_path / str(number), {**CACHED, **other}), say=QUIET)
        assert without_config(tmp_path / str(number)) == plain_run
    assert len(entries(cache)) == N_EXAMPLES


@pytest.mark.usefixtures("cache")
def test_each_example_is_computed_once(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In three epochs and two runs; and no pass runs the frozen layers beside the cache."""
    computed: list[bytes] = []
    forward_frozen, forward, forward_backward = Engine.forward_frozen, Engine.forward, Engine.forward_backward

    def count(engine: Engine, tokens: Any, lengths: Any) -> FloatArray:
        computed.extend(part.tobytes() for part in np.split(tokens, np.cumsum(lengths)[:-1]))
        return forward_frozen(engine, tokens, lengths)

    def given(call: Callable[..., Any]) -> Callable[..., Any]:
        def checked(engine: Engine, batch: Batch, rows: FloatArray | None = None) -> Any:
            assert rows is not None
            return call(engine, batch, rows)

        return checked

    monkeypatch.setattr(Engine, "forward_frozen", count)
    monkeypatch.setattr(Engine, "forward", given(forward))
    monkeypatch.setattr(Engine, "forward_backward", given(forward_backward))
    for run in ("first", "second"):
        run_training(inputs.job(tmp_path / run, CACHED), say=QUIET)
        assert len(computed) == len(set(computed)) == N_EXAMPLES


def test_a_run_that_ends_early_makes_only_what_it_sees(inputs: Inputs, cache: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    run_training(inputs.job(tmp_path / "run", {**CACHED, "training.max_steps": 2}), say=lines.append)
    assert any(line.startswith("The frozen layers' output is kept in ") and "0 of 11 " in line for line in lines)
    assert len(entries(cache)) == 8 + 3


def folder_of(inputs: Inputs, output: Path, settings: dict[str, Any]) -> Path:
    """Where a run with these settings would keep its values."""
    job = inputs.job(output, {**CACHED, **settings})
    precision = job.config.training.precision
    with Engine(job.model, threads=1, precision=None if precision == "auto" else precision) as engine:
        opened = load_inputs(job, job.config, engine).frozen
    assert opened is not None
    return opened.folder


@pytest.mark.usefixtures("cache")
def test_what_the_values_depend_on_has_a_folder_of_its_own(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder(model: Path, **settings: Any) -> Path:
        return folder_of(replace(inputs, model=model), tmp_path / "run", settings)

    def changed(tensor_name: str) -> Path:
        """The model with one bit of a value in the middle of one tensor changed."""
        path = tmp_path / f"{tensor_name}.gguf"
        content = bytearray(model.read_bytes())
        tensor = read_gguf(model).tensors[tensor_name]
        content[tensor.offset + tensor.size // 2] ^= 1
        path.write_bytes(content)
        return path

    model = write_tiny_model(tmp_path / "three.gguf", n_layer=3, n_embd=32, n_ff=48)
    folders = {"": folder(model, **{"training.precision": "f32"})}
    for name in ("token_embd.weight", "blk.0.attn_norm.weight", "blk.1.ffn_down.weight"):
        folders[name] = folder(changed(name), **{"training.precision": "f32"})
    folders["two layers"] = folder(model, **{"training.precision": "f32", "lora.layers": 2})
    longer = write_tiny_model(tmp_path / "longer.gguf", n_layer=3, n_embd=32, n_ff=48, n_ctx=1024)
    folders["metadata"] = folder(longer, **{"training.precision": "f32"})
    with monkeypatch.context() as patch:
        patch.setenv("CPUFT_ISA", "reference")
        folders["isa"] = folder(model, **{"training.precision": "f32"})
    with monkeypatch.context() as patch:
        patch.setattr(frozen, "library_digest", lambda: "another build")
        folders["build"] = folder(model, **{"training.precision": "f32"})
    assert len(set(folders.values())) == len(folders)
    # The adapted layer, the adapter and the data are no part of it.
    same = {"training.precision": "f32", "lora.r": 2, "lora.lora_dropout": 0, "training.seed": 5}
    assert folder(changed("blk.2.ffn_down.weight"), **same) == folders[""]
    with Engine(model, threads=1) as engine:
        if engine.facts["precision"] == "bf16":
            assert folder(model, **{"training.precision": "bf16"}) not in folders.values()


def test_a_changed_example_is_another_entry(inputs: Inputs, cache: Path, tmp_path: Path) -> None:
    run_training(inputs.job(tmp_path / "first", CACHED), say=QUIET)
    before = entries(cache)
    lines = inputs.train.read_text().splitlines()
    train = tmp_path / "changed.jsonl"
    train.write_text("\n".join([*lines[1:], lines[0].replace("title: train 0", "title: train 0!")]))
    run_training(replace(inputs, train=train).job(tmp_path / "second", CACHED), say=QUIET)
    after = entries(cache)
    assert len(after) == len(before) + 1
    assert {path: after[path] for path in before} == before


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "empty": lambda content, _: b"",
    "half a header": lambda content, _: content[:20],
    "truncated": lambda content, _: content[: len(content) // 2],
    "longer": lambda content, _: content + b"\0\0\0\0",
    "another magic": lambda content, _: flip(content, 0),
    "another length": lambda content, _: flip(content, 8),
    "a bit of a value": lambda content, _: flip(content, len(content) - 1),
    "zeros": lambda content, _: content[:64] + bytes(len(content) - 64),
    "another entry": lambda _, other: other,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_made_again(
    damage: str, inputs: Inputs, plain_run: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    run_training(inputs.job(tmp_path / "first", CACHED), say=QUIET)
    whole = entries(cache)
    by_size: dict[int, list[Path]] = {}
    for path, content in whole.items():
        by_size.setdefault(len(content), []).append(path)
    one, other = next(paths[:2] for paths in by_size.values() if len(paths) > 1)
    one.write_bytes(DAMAGES[damage](whole[one], whole[other]))
    run_training(inputs.job(tmp_path / "second", CACHED), say=QUIET)
    assert entries(cache) == whole
    assert without_config(tmp_path / "second") == plain_run


@pytest.mark.parametrize(
    ("event", "word"),
    [
        ("open", "/frozen/"),  # the first entry is looked for, and will be written
        ("os.rename", "/frozen/"),  # it is written, under a temporary name
        ("cpuft.say", "Step 2/"),  # the first epoch is not over: some entries stand
    ],
)
def test_a_killed_run_leaves_what_can_be_used(
    event: str, word: str, inputs: Inputs, plain_run: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert disturb(inputs, run, event, word, "kill", CACHED).returncode == -9
    left = [path for path in entries(cache) if path.suffix == ".partial"]
    assert bool(left) == (event == "os.rename")
    run_training(inputs.job(run, CACHED, resume=True), say=QUIET)
    assert without_config(run) == plain_run
    assert len(entries(cache)) == N_EXAMPLES  # and nothing unfinished


@pytest.mark.usefixtures("cache")
def test_a_run_may_be_resumed_with_the_cache_or_without_it(
    inputs: Inputs, plain_run: dict[str, Any], tmp_path: Path
) -> None:
    for number, (before, after) in enumerate(((CACHED, PLAIN), (PLAIN, CACHED))):
        run = tmp_path / str(number)
        disturb(inputs, run, "cpuft.say", "Step 6/", "kill", before)
        run_training(inputs.job(run, after, resume=True), say=QUIET)
        assert without_config(run) == plain_run


def test_a_full_disk(inputs: Inputs, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = disturb(inputs, tmp_path / "first", "os.rename", "/frozen/", "full disk", CACHED)
    assert done.stderr.splitlines()[-1].startswith("cpuft.errors.ResourceError: ")
    assert "the disk is full" in done.stderr
    run_training(inputs.job(tmp_path / "second", CACHED), say=QUIET)
    usage = shutil.disk_usage(tmp_path)
    full = usage._replace(free=100)  # the disk of the cache, not that of the runs
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full if path.is_relative_to(cache) else usage)
    run_training(inputs.job(tmp_path / "third", CACHED), say=QUIET)  # nothing more is needed
    shutil.rmtree(cache)
    with pytest.raises(
        ResourceError, match=r"the disk has 0\.0 MB free and .* for 14 examples needs [\d.]+ MB: free some"
    ):
        run_training(inputs.job(tmp_path / "fourth", CACHED), say=QUIET)
    assert not (tmp_path / "fourth").exists()


def test_keys_that_no_run_uses_any_more_are_removed(inputs: Inputs, cache: Path, tmp_path: Path) -> None:
    old, recent, foreign = cache / ("a" * 64), cache / ("b" * 64), cache / "notes"
    for folder, days in ((old, 31), (recent, 29), (foreign, 99)):
        folder.mkdir(parents=True)
        (folder / "entry").touch()
        os.utime(folder, (time.time() - days * 86400,) * 2)
    run_training(inputs.job(tmp_path / "run", {**CACHED, "training.max_steps": 1}), say=QUIET)
    assert not old.exists()
    assert (recent / "entry").exists()
    assert (foreign / "entry").exists()


@pytest.mark.usefixtures("cache")
def test_progress_counts_the_examples_that_are_made(inputs: Inputs, tmp_path: Path) -> None:
    for run, n_made in (("first", 14), ("full", 0)):
        heard = Heard()
        run_training(inputs.job(tmp_path / run, CACHED), say=QUIET, progress=heard)
        made = [(done, total) for what, done, total in heard.steps if what == "Frozen layers"]
        assert made == [(n, 14) for n in range(1, n_made + 1)]
        assert heard.steps[-1][0] == "Training"
