"""Spoils bytes and JSON values at random."""

import random
import struct
from typing import Any

# Numbers at which counts, sizes and offsets go wrong.
NUMBERS = [0, 1, 2, 3, 7, 8, 31, 32, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1]
NUMBERS += [2**32, 2**48, 2**60, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]
TEXTS = [
    "",
    "a",
    "\0",
    "\n",
    "\x1b[2J",
    "é",
    "\U0010ffff",
    "x" * 300,
    "y" * 5000,
    "../..",
    "%s%n",
    "{{ 1 }}",
    "true",
    "\ud800",
]
VALUES: list[Any] = [None, True, False, [], {}, -1, 1.5, 1e308, float("nan"), float("inf"), -(2**70), *NUMBERS, *TEXTS]


def damaged(whole: bytes, first: int, end: int, chance: random.Random) -> bytes:
    """The bytes with some in [first, end) changed, replaced by a run of others or by a number, removed or inserted."""
    data = bytearray(whole)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        place, n = chance.randrange(first, end), chance.randrange(1, 40)
        match chance.randrange(8):
            case 0 | 1 | 2:
                data[place] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256), data[place] ^ 1])
            case 3:
                start = chance.randrange(first, end)
                data[place : place + n] = whole[start : start + n]
            case 4:
                del data[place : place + n]
            case 5:
                data[place:place] = chance.randbytes(n)
            case _:
                data[place : place + 8] = struct.pack("<Q", chance.choice(NUMBERS))[: chance.choice([4, 8])]
        end = min(end, len(data))
        if end <= first:
            break
    return bytes(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.05 else data)


def changed(value: Any, chance: random.Random) -> Any:
    """A JSON value with something in it replaced, removed, repeated or nested deeper."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        rest = {name: one for name, one in value.items() if name != key}
        if chance.random() < 0.15:
            return rest
        if chance.random() < 0.1:
            return rest | {chance.choice(TEXTS): value[key]}
        return value | {key: changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        i = chance.randrange(len(value))
        match chance.randrange(6):
            case 0:
                return value[:i] + value[i + 1 :]
            case 1:
                return value[:i] + value[i:] + value[i:]
            case _:
                return [*value[:i], changed(value[i], chance), *value[i + 1 :]]
    if isinstance(value, str) and chance.random() < 0.3:
        return value + chance.choice(TEXTS)
    return chance.choice([*VALUES, [value], {"a": value}])
