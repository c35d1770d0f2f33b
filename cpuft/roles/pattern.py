"""Regular expressions as automata over code points, and sets of code points."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from re import _constants, _parser  # type: ignore[attr-defined] # what `re` itself reads an expression with
from typing import Any

# Of code points: ascending, apart, both ends included.
Ranges = tuple[tuple[int, int], ...]

# What PyYAML prints as it is, without the four characters that end a line.
PRINTABLE: Ranges = (
    *((0x20, 0x7E), (0xA0, 0x2027), (0x202A, 0xD7FF)),
    *((0xE000, 0xFEFE), (0xFF00, 0xFFFD), (0x10000, 0x10FFFF)),
)
MAX_STATES = 8000
_ASCII: Ranges = ((0, 0x7F),)
_CLASSES = {
    _constants.CATEGORY_DIGIT: r"\d",
    _constants.CATEGORY_NOT_DIGIT: r"\D",
    _constants.CATEGORY_SPACE: r"\s",
    _constants.CATEGORY_NOT_SPACE: r"\S",
    _constants.CATEGORY_WORD: r"\w",
    _constants.CATEGORY_NOT_WORD: r"\W",
}
_BEGIN = {_constants.AT_BEGINNING, _constants.AT_BEGINNING_STRING}
_END = {_constants.AT_END, _constants.AT_END_STRING}


def characters(text: str) -> Ranges:
    """The set of a text's characters."""
    return join([((ord(character), ord(character)),) for character in text])


def join(sets: Iterable[Ranges]) -> Ranges:
    """What is in any of the sets."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(one for ranges in sets for one in ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


@lru_cache(4096)
def meet(one: Ranges, other: Ranges) -> Ranges:
    """What is in both sets."""
    found = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return tuple((low, high) for low, high in found if low <= high)


@lru_cache(4096)
def without(ranges: Ranges, left_out: Ranges) -> Ranges:
    """What is in the first set and not in the second."""
    borders = [-1, *(border for low, high in left_out for border in (low - 1, high + 1)), 0x110000]
    gaps = tuple((borders[i] + (i == 0), borders[i + 1]) for i in range(0, len(borders), 2))
    return meet(ranges, gaps)


class Pattern:
    """Texts of printable characters, in one line, in which a regular expression is found, as an automaton.

    States are numbers, 0 the first. It may be in several at a time: such a text is taken where one of them takes it.
    \\d, \\w, \\s and their opposites mean characters of ASCII alone.

    Raises ValueError, which names what is not regular or not known here: look-around, references, word borders, flags.
    """

    def __init__(self, pattern: str, flags: int = 0) -> None:
        try:
            parsed = _parser.parse(pattern, flags)
        except re.error as error:
            raise ValueError(f"no regular expression ({error})") from None
        if parsed.state.flags & ~(re.UNICODE | re.VERBOSE):
            raise ValueError("it has flags")
        self._edges: defaultdict[int, list[tuple[Ranges, int]]] = defaultdict(list)
        self._empty: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
        self._count = 1
        begin = self._new(0)  # whatever stands before, and behind
        self._edges[begin].append((PRINTABLE, begin))
        self._last = self._new(self._walk(parsed, begin))
        self._edges[self._last].append((PRINTABLE, self._last))
        self._alive = self._lead_to_the_end()

    @lru_cache(None)  # noqa: B019 - patterns live as long as the grammars that are kept
    def edges(self, state: int) -> list[tuple[Ranges, int]]:
        """Where a character leads from here: (characters, the next state), several for one character, too."""
        found: dict[int, list[Ranges]] = {}
        for passed in self._reached(state, at_end=False):
            for ranges, target in self._edges[passed]:
                if target in self._alive:
                    found.setdefault(target, []).append(ranges)
        return [(join(sets), target) for target, sets in found.items()]

    @lru_cache(None)  # noqa: B019
    def accepts(self, state: int) -> bool:
        """Whether a text may end here."""
        return self._last in self._reached(state, at_end=True)

    def _reached(self, state: int, at_end: bool) -> set[int]:
        """The states that are reached without a character."""
        open_edges = {"", *(["begin"] if state == 0 else []), *(["end"] if at_end else [])}
        reached, left = {state}, [state]
        while left:
            for condition, target in self._empty[left.pop()]:
                if condition in open_edges and target not in reached:
                    reached.add(target)
                    left.append(target)
        return reached

    def _lead_to_the_end(self) -> set[int]:
        """The states behind the first character from which a text can be completed."""
        before = defaultdict[int, list[int]](list)
        for state in range(self._count):
            targets = [to for condition, to in self._empty[state] if condition != "begin"]
            for target in (*targets, *(to for _, to in self._edges[state])):
                before[target].append(state)
        alive, left = {self._last}, [self._last]
        while left:
            new = set(before[left.pop()]) - alive
            alive |= new
            left += new
        return alive

    def _new(self, *before: int, condition: str = "") -> int:
        if self._count >= MAX_STATES:
            raise ValueError("it is too long, its repetitions counted")
        self._count += 1
        for state in before:
            self._empty[state].append((condition, self._count - 1))
        return self._count - 1

    def _walk(self, items: Iterable[tuple[Any, Any]], state: int) -> int:
        for kind, value in items:
            state = self._one(kind, value, state)
        return state

    def _one(self, kind: Any, value: Any, state: int) -> int:
        if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
            return self._repeated(value, state)
        if kind is _constants.BRANCH:
            return self._new(*[self._walk(branch, self._new(state)) for branch in value[1]])
        if kind is _constants.SUBPATTERN:
            _, added, removed, inner = value
            if added or removed:
                raise ValueError("it has flags")
            return self._walk(inner, state)
        if kind is _constants.AT and value in _BEGIN | _END:
            return self._new(state, condition="begin" if value in _BEGIN else "end")
        after = self._new()
        self._edges[state].append((_set(kind, value), after))
        return after

    def _repeated(self, value: tuple[int, int, Sequence[Any]], state: int) -> int:
        least, most, inner = value
        for _ in range(least):
            state = self._walk(inner, state)
        if most is _constants.MAXREPEAT:
            loop = self._new(state)
            self._empty[self._walk(inner, self._new(loop))].append(("", loop))
            return loop
        end = self._new(state)
        for _ in range(most - least):
            state = self._walk(inner, state)
            self._empty[state].append(("", end))
        return end


def _set(kind: Any, value: Any) -> Ranges:
    if kind is _constants.LITERAL:
        return meet(PRINTABLE, ((value, value),))
    if kind is _constants.NOT_LITERAL:
        return without(PRINTABLE, ((value, value),))
    if kind is _constants.ANY:
        return PRINTABLE
    if kind is _constants.IN:
        return _class(value)
    raise ValueError(f"{str(kind).lower()} is not regular")


def _class(items: Sequence[tuple[Any, Any]]) -> Ranges:
    negated = items[0][0] is _constants.NEGATE
    sets, within = list[Ranges](), PRINTABLE
    for kind, value in items[negated:]:
        if kind is _constants.CATEGORY:
            sets.append(_category(value))
            within = meet(PRINTABLE, _ASCII) if negated else within  # nothing is known of what lies beyond
        else:
            sets.append((value,) if kind is _constants.RANGE else ((value, value),))
    return without(within, join(sets)) if negated else meet(within, join(sets))


@lru_cache
def _category(category: Any) -> Ranges:
    return characters("".join(c for c in map(chr, range(0x80)) if re.match(_CLASSES[category], c)))
