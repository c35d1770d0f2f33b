"""Reads GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) that nobody has vouched for.

Every count, length, offset and size is checked against the file before it is used, so a truncated or hostile file gives
one ModelError. Only the header is read; tensor data are read by row, into memory that the caller bounds. Metadata keep
their raw bytes, so that a rewritten file can carry them unchanged.
"""

import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt

from cpuft.engine import BLOCK_SIZES
from cpuft.errors import ModelError, excerpt

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
LEAST_ALIGNMENT = 8  # by the specification
MAX_DIMS = 4  # GGML_MAX_DIMS
MAX_NAME = 64  # GGML_MAX_NAME, with the terminating zero
MAX_BYTES = 1 << 62  # no tensor is larger; keeps every product below far away from 64 bits

STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # struct codes
SCALAR_NAMES = {0: "u8", 1: "i8", 2: "u16", 3: "i16", 4: "u32", 5: "i32", 6: "f32", 7: "bool", 10: "u64", 11: "i64"}
SCALAR_NAMES |= {STRING: "str", ARRAY: "array", 12: "f64"}
_LENGTH = struct.Struct("<Q")  # what stands before a string's bytes


class TensorType(NamedTuple):
    """A ggml_type: its number and name, and how many values and bytes one of its blocks holds."""

    id: int
    name: str
    block_values: int
    block_bytes: int

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` values, a multiple of the block."""
        return columns // self.block_values * self.block_bytes


TYPES = {42: TensorType(42, "q2_0", *BLOCK_SIZES[42])}  # younger than the gguf package
TYPES |= {int(t): TensorType(int(t), t.name.lower(), *BLOCK_SIZES[int(t)]) for t in gguf.GGML_QUANT_SIZES}
TYPES_BY_NAME = {t.name: t for t in TYPES.values()}


@dataclass(frozen=True)
class Field:
    """One metadata entry. `raw` is the value as the file stores it, without its type."""

    key: str
    type: int
    raw: bytes

    @cached_property
    def value(self) -> Any:
        """The value in Python's types; text that is not UTF-8 has its faulty bytes replaced."""
        return _decode(self.type, self.raw)


@dataclass(frozen=True)
class Tensor:
    """A tensor's place in the file. `shape` is in numpy's order: the contiguous dimension comes last."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int  # from the beginning of the file

    @property
    def columns(self) -> int:
        """Values in a row."""
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """Rows over all outer dimensions."""
        return int(np.prod(self.shape[:-1], dtype=np.int64))

    @property
    def row_bytes(self) -> int:
        """Bytes of a row as stored."""
        return self.type.row_bytes(self.columns)

    @property
    def size(self) -> int:
        """Bytes of data, without padding."""
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class Gguf:
    """A checked header. `fields` and `tensors` keep the order of the file."""

    path: Path
    version: int
    file_size: int
    alignment: int
    fields: dict[str, Field]
    tensors: dict[str, Tensor]

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value."""
        field = self.fields.get(key)
        return default if field is None else field.value

    def integer(self, key: str, default: int) -> int:
        """A metadata value that must be a whole number where it is there."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ModelError(f"{self.path}: metadata {key} is {excerpt(repr(value), 40)}, expected a whole number")
        return value

    def count(self, key: str) -> int:
        """How many items a list in the metadata has; 0 where there is no such list."""
        field = self.fields.get(key)
        return _LENGTH.unpack_from(field.raw, 4)[0] if field is not None and field.type == ARRAY else 0

    @property
    def architecture(self) -> str:
        """Such as "llama"; empty where the file does not say."""
        return str(self.get("general.architecture", ""))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors, without padding."""
        return sum(tensor.size for tensor in self.tensors.values())

    def read_rows(self, stream: BinaryIO, tensor: Tensor, first: int, count: int) -> npt.NDArray[np.uint8]:
        """Rows [first, first + count) of a tensor as stored, from this file opened as `stream`."""
        stream.seek(tensor.offset + first * tensor.row_bytes)
        wanted = count * tensor.row_bytes
        data = np.fromfile(stream, dtype=np.uint8, count=wanted)
        if data.size != wanted:
            raise ModelError(f"{self.path}: the file became shorter while it was being read")
        return data

    def row_chunks(self, tensor: Tensor, max_values: int) -> Iterator[tuple[int, int]]:
        """(first row, row count) pairs that cover a tensor, each of at most max_values values or one row."""
        step = max(1, max_values // max(1, tensor.columns))
        for first in range(0, tensor.rows, step):
            yield first, min(step, tensor.rows - first)


def read_gguf(path: Path) -> Gguf:
    """The header of a GGUF file. Raises ModelError, naming the file and what is wrong with it."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size == 0:
                raise ModelError(f"{path}: the file is empty, expected a GGUF model")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return _parse(path, _Cursor(path, mapped, size))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file, expected a GGUF model") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot read the model: {error.strerror}") from error


class _Cursor:
    """Reads forward through a mapped file and never past its end."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path, self.data, self.size, self.position = path, data, size, 0

    def skip(self, count: int) -> int:
        """Moves over `count` bytes and returns where they start."""
        start = self.position
        if count > self.size - start:
            raise ModelError(
                f"{self.path}: the file ends at byte {self.size} inside its header, "
                "so it is truncated or damaged: fetch it again"
            )
        self.position = start + count
        return start

    def take(self, count: int) -> bytes:
        start = self.skip(count)
        return self.data[start : start + count]

    def number(self, code: str) -> Any:
        return struct.unpack_from("<" + code, self.data, self.skip(struct.calcsize("<" + code)))[0]

    def skip_strings(self, count: int) -> None:
        """Moves over `count` strings, in one bare loop: a vocabulary has hundreds of thousands of them."""
        data, length_at, position = self.data, _LENGTH.unpack_from, self.position
        try:
            for _ in range(count):
                position += 8 + length_at(data, position)[0]
        except (struct.error, OverflowError):
            position = self.size + 1  # a length lies beyond the end
        self.skip(position - self.position)

    def name(self, what: str) -> str:
        try:
            return self.take(self.number("Q")).decode()
        except UnicodeDecodeError:
            raise ModelError(f"{self.path}: the name of {what} is not UTF-8, so the file is damaged") from None


def _parse(path: Path, cursor: _Cursor) -> Gguf:
    magic = cursor.take(min(4, cursor.size))
    if magic != MAGIC:
        raise ModelError(f"{path}: the file begins with {magic!r}, expected {MAGIC!r}: it is not a GGUF model")
    version = cursor.number("I")
    _check_version(path, version)
    n_tensors, n_fields = cursor.number("Q"), cursor.number("Q")
    fields = _parse_fields(path, cursor, n_fields)
    alignment = fields.get("general.alignment")
    align = DEFAULT_ALIGNMENT if alignment is None else alignment.value
    if alignment is not None and (alignment.type != 4 or align < LEAST_ALIGNMENT or align & (align - 1)):
        raise ModelError(
            f"{path}: general.alignment is {excerpt(repr(align), 40)}, expected a power of two "
            f"from {LEAST_ALIGNMENT} on, as u32: convert the model again"
        )
    _refuse_part(path, fields)
    described = [_parse_tensor(path, cursor) for _ in _counted(path, cursor, n_tensors, 24, "tensors")]
    data = cursor.position + -cursor.position % align
    tensors: dict[str, Tensor] = {}
    for name, shape, type_, offset in described:
        tensor = Tensor(name, shape, type_, data + offset)
        if name in tensors:
            raise ModelError(f"{path}: tensor {name} appears twice, so the file is damaged")
        if offset % align:
            raise ModelError(f"{path}: tensor {name} lies at offset {offset}, expected a multiple of {align}")
        if tensor.offset + tensor.size > cursor.size:
            raise ModelError(
                f"{path}: tensor {name} ends at byte {tensor.offset + tensor.size}, but the file has {cursor.size}: "
                "it is truncated or damaged, fetch it again"
            )
        tensors[name] = tensor
    return Gguf(path, version, cursor.size, align, fields, tensors)


def _check_version(path: Path, version: int) -> None:
    if version in VERSIONS:
        return
    (swapped,) = struct.unpack(">I", struct.pack("<I", version))
    if swapped in (1, *VERSIONS):
        raise ModelError(
            f"{path}: the file is in big-endian byte order, expected little-endian: "
            "turn it with `gguf-convert-endian FILE little`, or fetch the usual one"
        )
    if version == 1:
        raise ModelError(
            f"{path}: GGUF version 1, of the summer of 2023, which llama.cpp reads no more, expected 2 or 3: "
            "convert the model again, or fetch a younger file"
        )
    raise ModelError(f"{path}: GGUF version {version}, expected 2 or 3: it is damaged, or younger than this cpuft")


def _refuse_part(path: Path, fields: Mapping[str, Field]) -> None:
    """Raises ModelError where the file holds a part of a model's tensors, as llama-gguf-split cuts them."""
    count, number = (fields[key].value if key in fields else 0 for key in ("split.count", "split.no"))
    if isinstance(count, int) and count > 1:
        raise ModelError(
            f"{path}: it is part {int(number) + 1 if isinstance(number, int) else '?'} of a model split into {count}: "
            "join them with llama.cpp's `llama-gguf-split --merge FIRST_PART OUTPUT`, or fetch it in one file"
        )


def _counted(path: Path, cursor: _Cursor, count: int, least: int, what: str) -> range:
    """range(count), after checking that so many entries of at least `least` bytes can still follow."""
    if count * least > cursor.size - cursor.position:
        raise ModelError(f"{path}: the header announces {count} {what}, more than the file can hold: it is damaged")
    return range(count)


def _parse_fields(path: Path, cursor: _Cursor, n_fields: int) -> dict[str, Field]:
    fields: dict[str, Field] = {}
    for _ in _counted(path, cursor, n_fields, 13, "metadata entries"):
        key = cursor.name("a metadata key")
        if not key or key in fields:
            raise ModelError(f"{path}: metadata key {excerpt(key)!r} is empty or appears twice, so the file is damaged")
        type_ = cursor.number("I")
        start = cursor.position
        _skip_value(path, cursor, key, type_)
        fields[key] = Field(key, type_, cursor.data[start : cursor.position])
    return fields


def _skip_value(path: Path, cursor: _Cursor, key: str, type_: int) -> None:
    if type_ in SCALARS:
        cursor.skip(struct.calcsize(SCALARS[type_]))
    elif type_ == STRING:
        cursor.skip(cursor.number("Q"))
    elif type_ == ARRAY:
        item, count = cursor.number("I"), cursor.number("Q")
        if item in SCALARS:
            cursor.skip(count * struct.calcsize(SCALARS[item]))
        elif item == STRING:
            cursor.skip_strings(len(_counted(path, cursor, count, 8, f"strings in {excerpt(key)}")))
        else:
            raise ModelError(f"{path}: metadata {excerpt(key)} is an array of type {item}, which GGUF does not have")
    else:
        raise ModelError(f"{path}: metadata {excerpt(key)} has type {type_}, which GGUF does not have")


def _parse_tensor(path: Path, cursor: _Cursor) -> tuple[str, tuple[int, ...], TensorType, int]:
    name = cursor.name("a tensor")
    n_dims = cursor.number("I")
    if not 1 <= n_dims <= MAX_DIMS or not 0 < len(name.encode()) < MAX_NAME:
        raise ModelError(f"{path}: tensor {name[:MAX_NAME]!r} has {n_dims} dimensions, so the file is damaged")
    dims = [cursor.number("Q") for _ in range(n_dims)]
    number, offset = cursor.number("I"), cursor.number("Q")
    type_ = TYPES.get(number)
    if type_ is None:
        raise ModelError(f"{path}: tensor {name} has the weight type {number}, which cpuft does not know")
    if 0 in dims or dims[0] % type_.block_values:
        raise ModelError(
            f"{path}: tensor {name} has rows of {dims[0]} values, expected a multiple of {type_.block_values} "
            f"for {type_.name}"
        )
    values = 1
    for dim in dims:
        values *= dim
        if values > MAX_BYTES // type_.block_bytes:
            raise ModelError(f"{path}: tensor {name} has the impossible shape {dims}, so the file is damaged")
    return name, tuple(reversed(dims)), type_, offset


def _decode(type_: int, raw: bytes) -> Any:
    if type_ == STRING:
        return raw[8:].decode(errors="replace")
    if type_ in SCALARS:
        return struct.unpack("<" + SCALARS[type_], raw)[0]
    item, count = struct.unpack_from("<IQ", raw)
    if item in SCALARS:
        return list(struct.unpack_from(f"<{count}{SCALARS[item]}", raw, 12))
    values, position = [], 12
    for _ in range(count):
        (length,) = struct.unpack_from("<Q", raw, position)
        position += 8 + length
        values.append(raw[position - length : position].decode(errors="replace"))
    return values
