"""Writes GGUF files tensor by tensor, so that no more than a chunk of one tensor is ever in memory.

The bytes depend on nothing but the arguments: the same input gives the same file.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from cpuft.gguf.reader import DEFAULT_ALIGNMENT, MAGIC, STRING, Field, TensorType

VERSION = 3
U32, F32 = 4, 6


class TensorInfo(NamedTuple):
    """A tensor to be written. `shape` is in numpy's order."""

    name: str
    shape: tuple[int, ...]
    type: TensorType

    @property
    def size(self) -> int:
        """Bytes of data, without padding."""
        return int(np.prod(self.shape[:-1], dtype=np.int64)) * self.type.row_bytes(self.shape[-1])


def text(key: str, value: str) -> Field:
    """A string entry."""
    return Field(key, STRING, _string(value))


def u32(key: str, value: int) -> Field:
    """An entry of type u32."""
    return Field(key, U32, struct.pack("<I", value))


def f32(key: str, value: float) -> Field:
    """An entry of type f32."""
    return Field(key, F32, struct.pack("<f", value))


def scalar(key: str, value: str | float) -> Field:
    """An entry of the type that fits a Python value: str, u32 or f32."""
    if isinstance(value, str):
        return text(key, value)
    return u32(key, value) if isinstance(value, int) else f32(key, value)


def write_header(
    stream: BinaryIO, fields: Iterable[Field], tensors: Sequence[TensorInfo], alignment: int = DEFAULT_ALIGNMENT
) -> None:
    """Writes everything before the data. The caller then writes each tensor in this order, each with `pad` after it."""
    stored = list(fields)
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(stored))]
    for field in stored:
        parts += [_string(field.key), struct.pack("<I", field.type), field.raw]
    offset = 0
    for tensor in tensors:
        dims = tuple(reversed(tensor.shape))
        parts += [_string(tensor.name), struct.pack(f"<I{len(dims)}Q", len(dims), *dims)]
        parts.append(struct.pack("<IQ", tensor.type.id, offset))
        offset += tensor.size + -tensor.size % alignment
    header = b"".join(parts)
    stream.write(header)
    pad(stream, len(header), alignment)


def pad(stream: BinaryIO, written: int, alignment: int = DEFAULT_ALIGNMENT) -> None:
    """Zeros up to the next multiple of the alignment after a piece of `written` bytes that began on one."""
    stream.write(bytes(-written % alignment))


def _string(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data
