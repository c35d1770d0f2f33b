"""GGUF files taken apart, spoilt in one place so that the rest still holds, and put together again.

Bytes changed at random are mostly refused by the first check of a length. What lies behind that check is reached by
files that are well-formed and say something odd.
"""

import random
import re
import struct
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from cpuft import toolchain
from cpuft.gguf.reader import ARRAY, SCALARS, STRING, TYPES, read_gguf
from tests.fuzz.mutation import NUMBERS, TEXTS

REALS = [0.0, -0.0, -1.0, 1e-45, 1e38, float("inf"), float("nan")]
KEYS = [
    f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "eot", "eom", "unknown", "padding", "mask", "prefix")
]
KEYS += [
    f"tokenizer.ggml.{name}" for name in ("add_bos_token", "add_eos_token", "add_space_prefix", "token_type_count")
]
KEYS += ["tokenizer.ggml.suppress_tokens", "tokenizer.ggml.precompiled_charsmap", "tokenizer.chat_template"]
KEYS += ["tokenizer.ggml.remove_extra_whitespaces", "split.count", "split.no", "general.alignment", "general.name"]
KEYS += [f"llama.{name}" for name in ("attention.sliding_window", "rope.scaling.type", "rope.scaling.factor")]
KEYS += ["adapter.lora.alpha", "adapter.type", "adapter.alora.invocation_tokens", "adapter.lora.task_name"]
Entry = tuple[bytes, int, bytes]  # key, type, value as stored
Info = tuple[bytes, tuple[int, ...], int, int]  # name, dimensions as stored, type, offset


@dataclass(frozen=True)
class Parts:
    """A file's content."""

    entries: tuple[Entry, ...]
    tensors: tuple[Info, ...]
    data: bytes

    @classmethod
    def of(cls, path: Path) -> "Parts":
        """Of a file that is whole."""
        file = read_gguf(path)
        start = min(tensor.offset for tensor in file.tensors.values())
        entries = tuple((f.key.encode(), f.type, f.raw) for f in file.fields.values())
        tensors = tuple((t.name.encode(), t.shape[::-1], t.type.id, t.offset - start) for t in file.tensors.values())
        return cls(entries, tensors, path.read_bytes()[start:])

    def together(self) -> bytes:
        """The file."""
        parts = [b"GGUF", struct.pack("<IQQ", 3, len(self.tensors), len(self.entries))]
        for key, kind, raw in self.entries:
            parts += [_text(key), struct.pack("<I", kind), raw]
        for name, dims, kind, offset in self.tensors:
            shape = struct.pack(f"<I{len(dims)}Q", len(dims), *(dim % 2**64 for dim in dims))
            parts += [_text(name), shape, struct.pack("<IQ", kind, offset % 2**64)]
        header = b"".join(parts)
        return header + bytes(-len(header) % 32) + self.data

    def spoilt(self, chance: random.Random) -> "Parts":
        """With something odd in its metadata or its tensors."""
        parts = self
        for _ in range(chance.choice([1, 1, 2, 4])):
            parts = parts._with_odd_tensor(chance) if chance.random() < 0.25 else parts._with_odd_entry(chance)
        return parts

    def _with_odd_entry(self, chance: random.Random) -> "Parts":
        if not self.entries or chance.random() < 0.3:
            return replace(self, entries=(*self.entries, (chance.choice(KEYS).encode(), *_any_value(chance))))
        i = chance.randrange(len(self.entries))
        key, kind, raw = self.entries[i]
        odd: tuple[Entry, ...] = ((key, *_odd_value(key, kind, raw, chance)),)
        if chance.random() < 0.15:
            odd = ()
        return replace(self, entries=self.entries[:i] + odd + self.entries[i + 1 :])

    def _with_odd_tensor(self, chance: random.Random) -> "Parts":
        if not self.tensors:
            return self
        i = chance.randrange(len(self.tensors))
        name, dims, kind, offset = self.tensors[i]
        odd: tuple[Info, ...]
        match chance.randrange(7):
            case 0:
                odd = ()
            case 1:
                odd = ((name, dims, kind, chance.choice(NUMBERS)),)
            case 2:
                odd = ((chance.choice(TEXTS).encode(errors="replace"), dims, kind, offset),)
            case 3 if dims:
                place = chance.randrange(len(dims))
                number = chance.choice([*NUMBERS, dims[place] + 1, dims[place] * 2])
                odd = ((name, (*dims[:place], number, *dims[place + 1 :]), kind, offset),)
            case 4:
                odd = ((name, chance.choice([(), (*dims, 1), (*dims, 2), dims[::-1]]), kind, offset),)
            case _:
                odd = ((name, dims, chance.choice([*TYPES, 4, 5, 36, 99, 2**31, 2**32 - 1]), offset),)
        return replace(self, tensors=self.tensors[:i] + odd + self.tensors[i + 1 :])._laid_out(chance)

    def _laid_out(self, chance: random.Random) -> "Parts":
        """Mostly with each tensor where the sizes of those before it say, and data for all."""
        offset, tensors = 0, []
        for name, dims, kind, _ in self.tensors:
            values = 1
            for dim in dims:
                values *= dim
            if kind not in TYPES or values > 1 << 22:
                return self
            tensors.append((name, dims, kind, offset))
            size = values // TYPES[kind].block_values * TYPES[kind].block_bytes
            offset += size + -size % 32
        if chance.random() < 0.1:
            return self
        return replace(self, tensors=tuple(tensors), data=(self.data + bytes(max(0, offset - len(self.data)))))


def _odd_value(key: bytes, kind: int, raw: bytes, chance: random.Random) -> tuple[int, bytes]:
    """Another value of an entry, mostly of the same type."""
    if key == b"tokenizer.ggml.pre" and chance.random() < 0.9:
        return STRING, _text(chance.choice(tokenizer_kinds()).encode())
    if kind != ARRAY or chance.random() < 0.1:
        return _any_value(chance) if chance.random() < 0.2 else (kind, _value(kind, chance))
    item, count = struct.unpack_from("<IQ", raw)
    items = _items(item, raw)
    for _ in range(chance.choice([1, 1, 3, 20])):
        place = chance.randrange(len(items)) if items else 0
        other = items[chance.randrange(len(items))] if items and chance.random() < 0.3 else _value(item, chance)
        items[place : place + 1] = [other]
    if chance.random() < 0.3:
        items = items[: chance.choice([0, 1, 2, count // 2, max(0, count - 1)])]
    return ARRAY, struct.pack("<IQ", item, len(items)) + b"".join(items)


def _items(item: int, raw: bytes) -> list[bytes]:
    """The items of a list as stored."""
    (count,) = struct.unpack_from("<Q", raw, 4)
    items, place = [], 12
    for _ in range(count):
        size = 8 + struct.unpack_from("<Q", raw, place)[0] if item == STRING else struct.calcsize(SCALARS[item])
        items.append(raw[place : place + size])
        place += size
    return items


def _any_value(chance: random.Random) -> tuple[int, bytes]:
    kind = chance.choice([*SCALARS, STRING, ARRAY])
    if kind != ARRAY:
        return kind, _value(kind, chance)
    item = chance.choice([*SCALARS, STRING])
    items = [_value(item, chance) for _ in range(chance.choice([0, 1, 2, 30]))]
    return ARRAY, struct.pack("<IQ", item, len(items)) + b"".join(items)


def _value(kind: int, chance: random.Random) -> bytes:
    """A value of a type that is no list, as stored."""
    if kind == STRING:
        return _text(chance.choice([*TEXTS, "<unk>", "<0x0A>", "<s>", "▁", "llama", "gpt2"]).encode(errors="replace"))
    if kind not in SCALARS:
        return struct.pack("<IQ", chance.choice([*SCALARS, STRING]), 0)
    size = struct.calcsize(SCALARS[kind])
    if SCALARS[kind] in "fd":
        number = chance.choice(REALS)
        return struct.pack("<" + SCALARS[kind], number)
    return struct.pack("<Q", chance.choice([*NUMBERS, chance.randrange(400)]))[:size]


@cache
def tokenizer_kinds() -> tuple[str, ...]:
    """What tokenizer.ggml.pre may say, by llama.cpp's source."""
    source = (toolchain.locate().source / "src" / "llama-vocab.cpp").read_text(encoding="utf-8")
    return tuple(sorted(set(re.findall(r'tokenizer_pre == "([^"]+)"', source))))


def _text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data
