"""The forms in which `write_answer` writes a text, as rules of a grammar (GBNF) that count its characters."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import yaml

from cpuft.roles.pattern import PRINTABLE, Pattern, Ranges, characters, join, meet, without

T = TypeVar("T", bound=Hashable)

# How long a plain text may look like a number or a date before it becomes something else: "2024-01-01 12:00 is late".
LOOKS = 24
_NAMED = 16  # a set that takes more characters to write has a rule of its own
_ESCAPE = (
    r'"\\" ([0abtnvfre"\\N_LP] | "x" hex hex | "u" ([0-9A-CEF] hex hex hex | "D" [0-7] hex hex)'
    r' | "U00" ("0" [1-9A-F] | "10") hex hex hex hex)'
)
_SPACE, _COLON, _HASH, _QUOTE = map(characters, (" ", ":", "#", "'"))
_FIRST_ALONE = characters("-?:")  # they begin a plain text only where no space follows
_NEVER_FIRST = characters(" #,[]{}&*!|>'\"%@`")

# Where a plain text stands: (characters, what comes then). It may end in a word only.
_SHAPES: dict[str, list[tuple[Ranges, str]]] = {
    "start": [(without(PRINTABLE, join([_NEVER_FIRST, _FIRST_ALONE])), "word"), (_FIRST_ALONE, "colon")],
    "word": [(without(PRINTABLE, join([_SPACE, _COLON])), "word"), (_SPACE, "space"), (_COLON, "colon")],
    "space": [
        *((without(PRINTABLE, join([_SPACE, _COLON, _HASH])), "word"), (_SPACE, "space")),
        (_COLON, "colon"),
    ],
    "colon": [(without(PRINTABLE, join([_SPACE, _COLON])), "word"), (_COLON, "colon")],
}


class Rules:
    """The rules of a grammar, by their names; what is the same twice is one rule."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self._names: dict[Hashable, str] = {}

    def add(self, body: str) -> str:
        """The name of a rule that says this."""
        name = self.name(body)
        self.texts[name] = body
        return name

    def name(self, meaning: Hashable) -> str:
        """A name for a rule; the same meaning has the same name."""
        return self._names.setdefault(meaning, f"r{len(self._names)}")

    def text(self) -> str:
        """The grammar."""
        return "".join(f"{name} ::= {body}\n" for name, body in self.texts.items())


def literal(text: str) -> str:
    """A text that must stand as it is."""
    return f'"{"".join(map(_escaped, text))}"'


@dataclass(frozen=True)
class Value:
    """What of a text's value is still to come: from `least` to `most` characters (None: any number).

    pattern: what it must match as well; state: how far it has.
    """

    least: int = 0
    most: int | None = None
    pattern: Pattern | None = None
    state: int = 0

    def edges(self) -> list[tuple[Ranges, "Value"]]:
        """What a printable character leaves to come."""
        if self.most == 0:
            return []
        most = None if self.most is None else self.most - 1
        shorter = replace(self, least=max(self.least - 1, 0), most=most)
        if self.pattern is None:
            return [(PRINTABLE, shorter)]
        return [(ranges, replace(shorter, state=state)) for ranges, state in self.pattern.edges(self.state)]

    def may_end(self) -> bool:
        """Whether nothing need come."""
        return self.least == 0 and (self.pattern is None or self.pattern.accepts(self.state))


def text_rule(rules: Rules, value: Value, indent: int) -> str | None:
    """The name of a rule for a text, in each of its forms; None where no text has such a value.

    indent: of the lines of a block.
    """
    forms: list[tuple[str, Callable[[Any], _Step], Hashable]]
    forms = [("", _plain, (value, "start", 0, 0)), ("'", _single, value)]
    if value.pattern is None:
        rules.texts |= {"escape": _ESCAPE, "hex": "[0-9A-F]"}
        forms += [('"', _double, value), ("|-\n" + " " * indent, _block(indent), ("first", value))]
        # The line's end counts as a character, but not where the model leaves it out at the end of all: be it right
        # both ways.
        if value.most is None or value.most > 0:
            whole = replace(value, most=None if value.most is None else value.most - 1)
            forms += [("|\n" + " " * indent, _block(indent), ("first", whole))]
    found = [(opening, _automaton(rules, step, start)) for opening, step, start in forms]
    alive = [f"{literal(opening)} {name}" if opening else name for opening, name in found if name is not None]
    return rules.add(" | ".join(alive)) if alive else None


# What a step gives: (an element of a rule, the next state), and how the text may end here, if it may.
_Step = tuple[list[tuple["str | Ranges", Hashable]], str | None]


def _automaton(rules: Rules, step: Callable[[Any], _Step], start: Hashable) -> str | None:
    """A rule for each state that leads to an end; the name of the first, None where none does."""
    steps, before, left = dict[Hashable, _Step](), dict[Hashable, list[Hashable]](), [start]
    while left:
        state = left.pop()
        if state not in steps:
            steps[state] = step(state)
            for _, target in steps[state][0]:
                before.setdefault(target, []).append(state)
                left.append(target)
    alive, left = set[Hashable](), [state for state, (_, end) in steps.items() if end is not None]
    while left:
        state = left.pop()
        if state not in alive:
            alive.add(state)
            left += before.get(state, ())
    for state in alive:
        edges, end = steps[state]
        going = [(what, to) for what, to in edges if to in alive]
        sets = _joined((what, to) for what, to in going if not isinstance(what, str) and what)
        said = [(_class(rules, ranges), to) for ranges, to in sets]
        said += [(what, to) for what, to in going if isinstance(what, str)]
        parts = [f"{what} {rules.name((step, to))}" for what, to in said]
        rules.texts[rules.name((step, state))] = " | ".join(parts if end is None else [*parts, end])
    return rules.name((step, start)) if start in alive else None


def _plain(state: tuple[Value, str, int, int]) -> _Step:
    """Neither marked nor quoted: it must not look like anything but a text."""
    value, shape, looks, length = state
    known = _looks()
    edges: list[tuple[str | Ranges, Hashable]] = []
    for ranges, shorter in value.edges():
        for shaped, next_shape in _SHAPES[shape]:
            for looked, next_looks in known.edges[looks]:
                is_free = next_looks == known.free
                if (found := meet(meet(ranges, shaped), looked)) and (is_free or length < LOOKS):
                    edges.append((found, (shorter, next_shape, next_looks, 0 if is_free else length + 1)))
    may_end = shape == "word" and value.may_end() and not known.resolved[looks]
    return edges, '""' if may_end else None


def _single(state: Value) -> _Step:
    edges: list[tuple[str | Ranges, Hashable]] = []
    for ranges, shorter in state.edges():
        edges.append((without(ranges, _QUOTE), shorter))
        if meet(ranges, _QUOTE):
            edges.append((literal("''"), shorter))
    return edges, literal("'") if state.may_end() else None


def _double(state: Value) -> _Step:
    raw = without(PRINTABLE, characters('"\\'))
    edges: list[tuple[str | Ranges, Hashable]] = []
    for _, shorter in state.edges():
        edges += [(raw, shorter), ("escape", shorter)]
    return edges, literal('"') if state.may_end() else None


@cache
def _block(indent: int) -> Callable[[tuple[str, Value]], _Step]:
    def step(state: tuple[str, Value]) -> _Step:
        """Lines. The first one begins with a character, which is where a reader learns how far they are indented."""
        where, value = state
        if where == "in line":  # behind the indentation
            return [(PRINTABLE, ("line", shorter)) for _, shorter in value.edges()], None
        edges: list[tuple[str | Ranges, Hashable]] = []
        for _, shorter in value.edges():
            if where == "start":
                edges += [(literal("\n"), ("start", shorter))]
            elif where == "line":
                edges += [(PRINTABLE, ("line", shorter)), (literal("\n"), ("start", shorter))]
            else:
                edges += [(without(PRINTABLE, _SPACE), ("line", shorter))]
        if where == "start":
            edges.append((literal(" " * indent), ("in line", value)))
        return edges, '""' if where == "line" and value.may_end() else None

    return step


@dataclass(frozen=True)
class _Looks:
    """What a plain text looks like so far, as the automaton of all that YAML 1.1 reads as no text.

    edges: of each state, the first of which is 0: where each printable character leads. resolved: whether a text that
    ends there is none. free: the state of what is a text whatever comes.
    """

    edges: list[list[tuple[Ranges, int]]]
    resolved: list[bool]
    free: int


@cache
def _looks() -> _Looks:
    """It knows what PyYAML knows, from PyYAML's own expressions."""
    expressions = {
        (expression.pattern, expression.flags)
        for resolvers in yaml.SafeLoader.yaml_implicit_resolvers.values()
        for _, expression in resolvers
    }
    patterns = [Pattern(*one) for one in sorted(expressions)]
    states = [frozenset((number, 0) for number in range(len(patterns)))]
    edges = dict[_Set, list[tuple[Ranges, _Set]]]()
    for state in states:  # it grows
        edges[state] = _determined([(r, (n, to)) for n, at in state for r, to in patterns[n].edges(at)])
        states += {to for _, to in edges[state]} - set(states)
    # States from which the same texts are none are one, so that a grammar has a third of the rules.
    alike: dict[_Set, Hashable] = {state: any(patterns[n].accepts(at) for n, at in state) for state in states}
    resolved, count = dict(alike), 0
    while count < (count := len(set(alike.values()))):
        said = {state: (alike[state], frozenset(_joined((r, alike[to]) for r, to in edges[state]))) for state in states}
        numbers = {meaning: i for i, meaning in enumerate(dict.fromkeys(said.values()))}
        alike = {state: numbers[meaning] for state, meaning in said.items()}
    of = {alike[state]: state for state in reversed(states)}
    return _Looks(
        [[(r, int(str(alike[to]))) for r, to in edges[of[i]]] for i in range(count)],
        [bool(resolved[of[i]]) for i in range(count)],
        int(str(alike[frozenset()])),
    )


_Set = frozenset[tuple[int, int]]  # of states: (which pattern, its state)


def _determined(moves: list[tuple[Ranges, tuple[int, int]]]) -> list[tuple[Ranges, _Set]]:
    """Moves as such to sets, so that every printable character leads to one."""
    borders = sorted({border for ranges, _ in moves for low, high in ranges for border in (low, high + 1)} | {0})
    edges = list[tuple[Ranges, _Set]]()
    for low, after in pairwise([*borders, 0x110000]):
        if atom := meet(PRINTABLE, ((low, after - 1),)):
            edges.append((atom, frozenset(target for ranges, target in moves if meet(ranges, ((low, low),)))))
    return list(_joined(edges))


def _joined(edges: Iterable[tuple[Ranges, T]]) -> Iterator[tuple[Ranges, T]]:
    """The edges, those to one state as one."""
    sets: dict[T, list[Ranges]] = {}
    for ranges, target in edges:
        sets.setdefault(target, []).append(ranges)
    for target, found in sets.items():
        yield join(found), target


def _class(rules: Rules, ranges: Ranges) -> str:
    said = "".join(_escaped(chr(a)) if a == b else f"{_escaped(chr(a))}-{_escaped(chr(b))}" for a, b in ranges)
    return rules.add(f"[{said}]") if len(said) > _NAMED else f"[{said}]"


def _escaped(character: str) -> str:
    code = ord(character)
    if character.isascii() and (character.isalnum() or character == " "):
        return character
    if character == "\n":
        return r"\n"
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
