"""Two answers to one question, field by field, with the words marked in which they differ."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

# A piece of an answer, and whether the other answer lacks it.
Segment = tuple[bool, str]
# A field begins where a key of YAML stands at the margin.
_FIELD = re.compile(r"^([A-Za-z_]\w*):", re.MULTILINE)
# A word or a run of signs, with the white space before it: how far it is indented is no difference of its words.
_WORD = re.compile(r"\s*(?:\w+|[^\w\s]+)|\s+$")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
# difflib takes time by the product of both lengths: a tenth of a second for so many words on each side.
MAX_WORDS = 1500
MAX_LINES = 1500
MAX_FIELDS = 100  # no schema has so many; a model that repeats itself does
# Below this share of common words, marks would cover nearly everything and show nothing.
MIN_COMMON = 0.25


@dataclass(frozen=True)
class Field:
    """What both answers have under one key; "" is what stands before the first. None: an answer has no such field.

    rewritten: they have so little in common that no words are marked.
    """

    name: str
    base: tuple[Segment, ...] | None
    tuned: tuple[Segment, ...] | None
    rewritten: bool = False

    @property
    def differs(self) -> bool:
        """Whether they are not word by word the same."""
        return self.base is None or self.tuned is None or any(mark for mark, _ in (*self.base, *self.tuned))


def compare_answers(base: str, tuned: str) -> list[Field]:
    """Both answers, cut at the keys of YAML: a field of one beside that of the same name of the other.

    The pieces of a side, put together, are its answer, but for the order of its fields where they stand otherwise.
    Nothing is parsed, so an answer that is no YAML is compared as well.
    """
    left, right = dict(_fields(base)), dict(_fields(tuned))
    if max(len(left), len(right)) > MAX_FIELDS:
        left, right = {"": base}, {"": tuned}
    return [_compared(name, left.get(name), right.get(name)) for name in _in_order(list(left), list(right))]


def _fields(text: str) -> Iterator[tuple[str, str]]:
    """(name, text with its key); where a model repeats itself, a key that comes again has its number in the name."""
    starts = [(0, ""), *((found.start(), found[1]) for found in _FIELD.finditer(text))]
    seen: dict[str, int] = {}
    for number, (start, key) in enumerate(starts):
        end = starts[number + 1][0] if number + 1 < len(starts) else len(text)
        if key or text[start:end].strip():
            seen[key] = seen.get(key, 0) + 1
            yield f"{key} ({seen[key]})" if seen[key] > 1 else key, text[start:end]


def _in_order(left: Sequence[str], right: Sequence[str]) -> list[str]:
    """The names of both, those of the right put behind the one that they follow there."""
    names = list(left)
    place = 0
    for name in right:
        if name in names:
            place = names.index(name) + 1
        else:
            names.insert(place, name)
            place += 1
    return names


def _compared(name: str, base: str | None, tuned: str | None) -> Field:
    if base is None or tuned is None:
        return Field(name, _unmarked(base), _unmarked(tuned))
    if base == tuned:
        return Field(name, _unmarked(base), _unmarked(tuned))
    left, right = _WORD.findall(base), _WORD.findall(tuned)
    if max(len(left), len(right)) > MAX_WORDS:
        left, right = _LINE.findall(base), _LINE.findall(tuned)
    if max(len(left), len(right)) > MAX_LINES:
        return Field(name, ((True, base),), ((True, tuned),), rewritten=True)
    matcher = SequenceMatcher(None, [one.strip() for one in left], [one.strip() for one in right], autojunk=False)
    if matcher.ratio() < MIN_COMMON:
        return Field(name, ((True, base),), ((True, tuned),), rewritten=True)
    return Field(name, *_marked(matcher, left, right))


def _unmarked(text: str | None) -> tuple[Segment, ...] | None:
    return None if text is None else ((False, text),)


def _marked(
    matcher: "SequenceMatcher[str]", left: Sequence[str], right: Sequence[str]
) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """The segments of both sides. A single common word between two differences is marked with them."""
    operations = matcher.get_opcodes()
    marks = [kind != "equal" for kind, *_ in operations]
    for n, (_, start, end, *_) in enumerate(operations):
        if 0 < n < len(operations) - 1 and end - start == 1 and marks[n - 1] and marks[n + 1]:
            marks[n] = True
    base = [(mark, "".join(left[start:end])) for mark, (_, start, end, _, _) in zip(marks, operations, strict=True)]
    tuned = [(mark, "".join(right[start:end])) for mark, (_, _, _, start, end) in zip(marks, operations, strict=True)]
    return _joined(base), _joined(tuned)


def _joined(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Neighbours of a kind as one; white space alone is no difference."""
    joined: list[Segment] = []
    for mark, text in segments:
        mark = mark and bool(text.strip())
        if joined and (joined[-1][0] == mark or not text.strip()):
            joined[-1] = (joined[-1][0], joined[-1][1] + text)
        elif text:
            joined.append((mark, text))
    return tuple(joined)
