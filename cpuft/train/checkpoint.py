"""Checkpoints: all that a resumed run needs to go on as if it had never stopped.

checkpoints/step-N/adapter.gguf    the adapter, usable as it is
checkpoints/step-N/optimizer.npy   AdamW's moments, as the engine's bytes
checkpoints/step-N/state.json      the step, the sums being logged, the best validation, what the run was given, and the
                                   sha256 of the two files above

The order of the data and the dropout masks are functions of the seed and the step, so no random state is kept. A
checkpoint appears whole or not at all; one that is damaged or cannot be read is passed over, and stays until the run
has come as far again: then a damaged one goes, and any other is kept as checkpoints/step-N.passed-over-….
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from cpuft.adapters.adapter import Adapter, read_adapter, write_adapter
from cpuft.engine import Engine
from cpuft.errors import AdapterError, ConfigError, list_faults
from cpuft.machine.disk import disk_errors
from cpuft.machine.files import atomic_folder
from cpuft.machine.locks import sweep

FORMAT = 1
ADAPTER, OPTIMIZER, STATE = "adapter.gguf", "optimizer.npy", "state.json"


@dataclass
class Window:
    """Sums since the last logged step."""

    loss: float = 0.0  # nats
    n_supervised: int = 0
    n_tokens: int = 0
    seconds: float = 0.0

    def add(self, loss: float, n_supervised: int, n_tokens: int, seconds: float) -> None:
        """Counts a step in."""
        self.loss += loss
        self.n_supervised += n_supervised
        self.n_tokens += n_tokens
        self.seconds += seconds


@dataclass
class State:
    """How far a run has come."""

    step: int = 0
    n_tokens: int = 0  # trained on so far, prompts included
    best_step: int = 0
    best_loss: float | None = None
    validations_since_best: int = 0
    window: Window = field(default_factory=Window)


@dataclass(frozen=True)
class Found:
    """A checkpoint that a run can go on from, and the fingerprints of what the run was given."""

    path: Path
    state: State
    fingerprints: dict[str, str]


class _UnusableError(Exception):
    """Why a checkpoint cannot be gone on from. damaged: it never can."""

    def __init__(self, why: str, *, damaged: bool = False) -> None:
        super().__init__(why)
        self.damaged = damaged


@dataclass(frozen=True)
class AdapterShape:
    """What an adapter file says beside its tensors."""

    alpha: float
    architecture: str
    metadata: Mapping[str, str]


def save_adapter(path: Path, engine: Engine, shape: AdapterShape) -> None:
    """Writes the engine's adapter, whole or not at all."""
    tensors = {tensor.name: tensor.view(engine.parameters) for tensor in engine.adapter_tensors}
    write_adapter(path, tensors, alpha=shape.alpha, architecture=shape.architecture, metadata=shape.metadata)


def save(
    folder: Path, engine: Engine, state: State, fingerprints: Mapping[str, str], shape: AdapterShape, limit: int
) -> Path:
    """Writes folder/step-N and removes all but the last `limit` checkpoints.

    fingerprints: of what the run must be given again to be resumed (see `check_fingerprints`).
    """
    path = folder / f"step-{state.step}"
    if path.exists():
        with disk_errors(path):
            _make_way(path)
    with atomic_folder(path) as temporary:
        save_adapter(temporary / ADAPTER, engine, shape)
        _save_optimizer(temporary / OPTIMIZER, engine)
        sums = {name: _sha256(temporary / name) for name in (ADAPTER, OPTIMIZER)}
        content = {"format": FORMAT, **asdict(state), "given": dict(fingerprints), "sha256": sums}
        (temporary / STATE).write_text(json.dumps(content, indent=1), encoding="utf-8")
    reached = [old for step, old in _steps(folder) if step <= state.step]  # later ones were passed over
    for old in reached[:-limit]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def newest(folder: Path) -> tuple[Found | None, list[str]]:
    """The newest checkpoint that can be gone on from, and a note where newer ones are passed over.

    None where there is no checkpoint at all. Raises ConfigError where there are some and none is of use: what the run
    has so far would be lost if it were begun anew. Removes none of them.
    """
    sweep(folder)
    passed_over: list[str] = []
    for step, path in reversed(_steps(folder)):
        try:
            found = _read(path)
        except _UnusableError as error:
            passed_over.append(f"{path.name} ({error})")
            continue
        notes = [f"Passed over: {', '.join(passed_over)}; the run goes on from step {step}"] if passed_over else []
        return found, notes
    if passed_over:
        raise ConfigError(
            f"{folder}: no checkpoint can be gone on from: {list_faults(passed_over)}: give --overwrite to begin "
            "the run anew, or another --output"
        )
    return None, []


def check_fingerprints(path: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raises ConfigError unless the run is given what it was given before: model, data, initial adapter."""
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        raise ConfigError(
            f"{path}: the run was begun with another {' and another '.join(changed)}: give the same to resume it, "
            "or begin a new run from its adapter with --init-adapter"
        )


def restore(path: Path, engine: Engine) -> None:
    """Puts a checkpoint's adapter and moments into the engine, whose adapter must have the same shape and precision."""
    load_adapter(path / ADAPTER, engine)
    engine.set_optimizer_state(np.load(path / OPTIMIZER, mmap_mode="r", allow_pickle=False))


def _save_optimizer(path: Path, engine: Engine) -> None:
    """Writes the optimizer's state as numpy.save would, but without a copy and with an errno on failure."""
    state = engine.optimizer_state
    with path.open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": state.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(state.data)


def load_adapter(path: Path, engine: Engine) -> None:
    """Puts an adapter's values into the engine's; raises AdapterError, listing every tensor that does not fit."""
    put_adapter(read_adapter(path), path, engine)


def put_adapter(adapter: Adapter, path: Path, engine: Engine) -> None:
    """Puts the values of an adapter that was read from `path` into the engine's, as load_adapter."""
    tensors = adapter.tensors
    wanted = {tensor.name: tensor for tensor in engine.adapter_tensors}
    faults = [f"{name} is not adapted in this run" for name in tensors if name not in wanted]
    for name, tensor in wanted.items():
        if name not in tensors:
            faults.append(f"{name} is missing")
        elif tensors[name].shape != tensor.shape:
            faults.append(f"{name} is {tensors[name].shape}, expected {tensor.shape}")
    if faults:
        raise AdapterError(
            f"{path}: the adapter does not fit this model and lora configuration: {list_faults(faults)}: "
            "set lora.r, lora.target_modules and lora.layers as they were when it was trained"
        )
    for name, tensor in wanted.items():
        np.copyto(tensor.view(engine.parameters), tensors[name])


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a folder in the order of their steps."""
    found = [(path.name.removeprefix("step-"), path) for path in folder.glob("step-*")]
    return sorted((int(step), path) for step, path in found if step.isdecimal())


def _read(path: Path) -> Found:
    """A checkpoint that is whole. Raises _UnusableError."""
    try:
        content = json.loads((path / STATE).read_text(encoding="utf-8"))
        if (kind := content.pop("format")) != FORMAT:
            raise _UnusableError(f"of format {kind!r}, expected {FORMAT}: another version of cpuft wrote it")
        sums, fingerprints = content.pop("sha256"), content.pop("given")
        state = State(**{**content, "window": Window(**content["window"])})
        whole = all(_sha256(path / name) == sums[name] for name in (ADAPTER, OPTIMIZER))
    except FileNotFoundError as error:
        raise _UnusableError(f"damaged: it has no {Path(error.filename).name}", damaged=True) from error
    except OSError as error:
        raise _UnusableError(f"it cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _UnusableError(f"damaged: {STATE} is not JSON", damaged=True) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise _UnusableError(f"{STATE} holds other things than expected: another version of cpuft wrote it") from error
    if not whole:
        raise _UnusableError("damaged: its files do not have their sums", damaged=True)
    return Found(path, state, fingerprints)


def _make_way(path: Path) -> None:
    """Takes what was passed over from the name of a new checkpoint: only what is damaged is removed."""
    try:
        _read(path)
    except _UnusableError as error:
        if error.damaged:
            shutil.rmtree(path)
            return
    path.rename(path.with_name(f"{path.name}.passed-over-{secrets.token_hex(4)}"))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
