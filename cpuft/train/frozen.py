"""What the frozen layers give for each example, kept on disk: it is the same in every epoch and every run.

Where only the upper layers are adapted, the residual stream before the first of them depends on nothing that training
changes: not on the adapter, and not on dropout, which acts inside adapted layers only. The engine gives the same bytes
for a sequence in any pass, so a value that is read back is the value that would be computed.

CACHE/frozen/KEY/EXAMPLE    magic, n_tokens, n_embd, sha256; then float32 [n_tokens, n_embd]
  KEY      digest of all else that the values depend on: weights, first adapted layer, kernels, precision, engine build
  EXAMPLE  digest of the tokens

The sha256 covers both names, too. An entry that is not whole, or stands where it does not belong, is made again.
"""

import hashlib
import os
import re
import shutil
import struct
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cpuft.config.keys import Config
from cpuft.data.examples import Example
from cpuft.engine import Batch, Engine, FloatArray
from cpuft.engine.abi import library_digest
from cpuft.errors import ConfigError
from cpuft.gguf.reader import Gguf
from cpuft.machine.cache import cache_dir
from cpuft.machine.disk import disk_errors, require_space
from cpuft.machine.files import atomic_write
from cpuft.machine.locks import sweep
from cpuft.machine.progress import Progress, silent

MAGIC = b"CPUFTFR1"
HEADER = struct.Struct("<8sqq32s8x")  # 64 bytes, so that the values after it are aligned
UNUSED_SECONDS = 30 * 24 * 3600  # a KEY that no run opened for so long is removed: it may take many gigabytes
READ_VALUES = 1 << 24  # of a tensor at a time, while its digest is made

TokenArray = npt.NDArray[np.int32]


class FrozenCache:
    """The output of an engine's frozen layers by example: read from `folder`, or computed once and kept there."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder, self._engine = folder, engine
        self._missing: set[str] = set()
        self._n_missing = 0
        self.progress: Progress = silent  # hears of missing examples that are made

    def require(self, examples: Iterable[Example]) -> str:
        """Looks what is missing for a run over `examples`; returns a sentence on it.

        Raises ResourceError where the disk has no room for it.
        """
        names = {_name(example.tokens): self._nbytes(example.tokens) for example in examples}
        missing = {name: nbytes for name, nbytes in names.items() if _size(self.folder / name) != nbytes}
        self._missing, self._n_missing = set(missing), len(missing)
        require_space(
            self.folder,
            sum(missing.values()),
            f"the frozen layers' output for {len(missing)} examples",
            f"free some, make {self.folder.parent} a link to a folder on another disk, or leave out --cache-frozen",
        )
        total = sum(names.values()) / 1e6
        there = f"{len(names) - len(missing)} of {len(names)} examples are there"
        return f"The frozen layers' output is kept in {self.folder}: {there}, {total:,.1f} MB when all are"

    def rows(self, batch: Batch) -> FloatArray:
        """[T, n_embd]: the residual stream before the first adapted layer, for `Engine.forward_backward`."""
        rows = np.empty((batch.tokens.size, int(self._engine.facts["n_embd"])), np.float32)
        ends = np.cumsum(batch.lengths)[:-1]
        parts = zip(np.split(batch.tokens, ends), np.split(rows, ends), strict=True)
        missing = [(tokens, part) for tokens, part in parts if not self._read(tokens, part)]
        if missing:
            lengths = np.array([tokens.size for tokens, _ in missing], np.int64)
            made = self._engine.forward_frozen(np.concatenate([tokens for tokens, _ in missing]), lengths)
            for (tokens, part), values in zip(missing, np.split(made, np.cumsum(lengths)[:-1]), strict=True):
                part[...] = values
                self._write(tokens, values)
        return rows

    def _read(self, tokens: TokenArray, out: FloatArray) -> bool:
        """Fills `out` with an example's entry; False where there is none that can be trusted."""
        name = _name(tokens)
        try:
            content = np.memmap(self.folder / name, np.uint8, "r")
        except (OSError, ValueError):  # not there, or empty
            return False
        header, values = content[: HEADER.size].tobytes(), content[HEADER.size :]
        if content.size != self._nbytes(tokens) or header != self._header(name, out.shape, values):
            return False
        out[...] = values.view(np.float32).reshape(out.shape)
        return True

    def _write(self, tokens: TokenArray, values: FloatArray) -> None:
        name = _name(tokens)
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)  # someone may have removed the cache
        with atomic_write(self.folder / name) as temporary, temporary.open("wb") as stream:
            stream.write(self._header(name, values.shape, values))
            stream.write(values.data)
        if name in self._missing:
            self._missing.remove(name)
            self.progress("Frozen layers", self._n_missing - len(self._missing), self._n_missing, "example")

    def _header(self, name: str, shape: tuple[int, ...], values: npt.NDArray[np.uint8] | FloatArray) -> bytes:
        digest = hashlib.sha256(f"{self.folder.name}/{name}".encode())
        digest.update(values.data)
        return HEADER.pack(MAGIC, *shape, digest.digest())

    def _nbytes(self, tokens: TokenArray) -> int:
        return HEADER.size + tokens.size * int(self._engine.facts["n_embd"]) * np.dtype(np.float32).itemsize


def open_frozen(engine: Engine, model: Gguf, first_layer: int) -> FrozenCache:
    """The cache for an engine whose adapter sits on the layers from first_layer on. Reads all the weights below."""
    root = cache_dir() / "frozen"
    folder = root / _key(engine, model, first_layer)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # it is in use
        sweep(folder)
        for other in root.iterdir():
            if re.fullmatch("[0-9a-f]{64}", other.name) and _age(other) > UNUSED_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
    return FrozenCache(folder, engine)


def require_frozen_layers(config: Config, n_layer: int) -> None:
    """Raises ConfigError where the frozen layers' output is to be kept and no layer is frozen."""
    if config.training.cache_frozen and config.lora.layers in (None, n_layer):
        found = "null" if config.lora.layers is None else config.lora.layers
        few = max(1, n_layer // 4)
        raise ConfigError(
            f"training.cache_frozen keeps what frozen layers give, but lora.layers is {found}, so all {n_layer} layers "
            f"are trained: set lora.layers to fewer, such as --layers last:{few}, or leave out --cache-frozen"
        )


def _key(engine: Engine, model: Gguf, first_layer: int) -> str:
    """Digest of everything but the tokens that decides the frozen layers' output.

    The whole of the weights counts, not a sample: models that were merged or edited may differ in one tensor, or in a
    row of one.
    """
    digest = hashlib.sha256()
    for part in (library_digest(), engine.facts["isa"], engine.facts["precision"], first_layer):
        digest.update(f"{part}\n".encode())
    for field in model.fields.values():
        digest.update(f"{field.key} {field.type} {len(field.raw)}\n".encode())
        digest.update(field.raw)
    with model.path.open("rb") as stream:
        for tensor in model.tensors.values():
            block = re.match(r"blk\.(\d+)\.", tensor.name)
            if block and int(block[1]) >= first_layer:
                continue
            digest.update(f"{tensor.name} {tensor.shape} {tensor.type.name}\n".encode())
            for first, count in model.row_chunks(tensor, READ_VALUES):
                digest.update(model.read_rows(stream, tensor, first, count).data)
    return digest.hexdigest()


def cached_bytes(examples: Iterable[Example], n_embd: int) -> int:
    """What the output for these examples takes on the disk, each counted once."""
    lengths = {_name(example.tokens): example.tokens.size for example in examples}
    return sum(HEADER.size + n * n_embd * np.dtype(np.float32).itemsize for n in lengths.values())


def _name(tokens: TokenArray) -> str:
    return hashlib.sha256(tokens.data).hexdigest()


def _size(path: Path) -> int | None:
    """Bytes of a file, None where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _age(path: Path) -> float:
    """Seconds since a file or folder was changed; 0 for one that has just gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
