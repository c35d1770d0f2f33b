"""What reviewers say of two models' answers side by side: the form of a verdict, and where verdicts are kept."""

import json
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from cpuft.errors import ConfigError, list_faults
from cpuft.feedback.migrations import database_errors, transaction
from cpuft.feedback.tables import open_feedback

Pick = Literal["base", "tuned", "tie"]
PICKS: tuple[Pick, ...] = ("base", "tuned", "tie")
BEST = 5  # stars; 1 is the worst
KIND = "cpuft verdicts"  # what an exported file says that it is
# Of what a page sends: a person writes less, and a file that nobody has vouched for must not fill the disk.
MAX_NOTE, MAX_REVIEWER = 4000, 80
_ID = re.compile("[0-9a-f]{16}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True)
class Judged:
    """A model that is judged. key: digests of the model and its adapter, empty where they are not known."""

    name: str
    key: str = ""

    @classmethod
    def of(cls, name: str, digest: str | None, adapter_digest: str | None) -> "Judged":
        """The model of a result; a digest that nobody knows is left out."""
        return cls(name, "+".join(filter(None, (digest, adapter_digest))))

    def same(self, other: "Judged") -> bool:
        """Whether both are one model: by what they are, and by their names where one does not say what it is."""
        return self.key == other.key if self.key and other.key else self.name == other.name


@dataclass(frozen=True)
class Rivals:
    """The two models of a comparison."""

    base: Judged
    tuned: Judged

    def same(self, other: "Rivals") -> bool:
        """Whether both pairs are of the same models in the same places."""
        return self.base.same(other.base) and self.tuned.same(other.tuned)

    def __str__(self) -> str:
        return f"{self.base.name} and {self.tuned.name}"


@dataclass(frozen=True)
class Verdict:
    """What one reviewer says of one sample.

    sample: what tells it from others (question and both answers), 16 hexadecimal digits.
    picked: whose answer is better; None: not said yet. base_rating, tuned_rating: stars from 1 (bad) to 5.
    blind:  it was picked before the reviewer was told which answer is whose.
    at:     when, ISO 8601 in UTC.
    """

    sample: str
    picked: Pick | None = None
    base_rating: int | None = None
    tuned_rating: int | None = None
    note: str = ""
    blind: bool = False
    reviewer: str = ""
    at: str = ""

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def verdict_of(value: Any) -> Verdict:
    """The verdict in an object of JSON. Raises ValueError, which says what is wrong with it."""
    if not isinstance(value, Mapping):
        raise ValueError("found no object, expected a verdict")
    names = Verdict.__dataclass_fields__
    if unknown := [name for name in value if name not in names]:
        raise ValueError(f"{str(unknown[0])[:40]!r}: no such key, expected {', '.join(names)}")
    return Verdict(
        _matching(value, "sample", _ID, "16 hexadecimal digits"),
        _picked(value.get("picked")),
        _stars(value, "base_rating"),
        _stars(value, "tuned_rating"),
        _text(value, "note", MAX_NOTE),
        _truth(value, "blind"),
        _text(value, "reviewer", MAX_REVIEWER),
        _matching(value, "at", _TIME, "a time such as 2026-01-31T12:00:00Z"),
    )


def read_verdicts(path: Path, rivals: Rivals) -> list[Verdict]:
    """What a file says of a pair of models: one that the page exported, or one of `VerdictStore`.

    Raises ConfigError where it is neither, is damaged, or knows other models alone.
    """
    try:
        with path.open("rb") as stream:
            stored = stream.read(len(_SQLITE)) == _SQLITE
        if stored:
            with VerdictStore(path) as store:
                found = store.all()
        else:
            found = [_exported(path)]
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}), expected verdicts: a JSON file that the page exported, or the "
            "SQLite file of `cpuft review`"
        ) from error
    if matching := [verdict for about, verdicts in found if about.same(rivals) for verdict in verdicts]:
        return matching
    others = "; ".join(sorted(str(about) for about, verdicts in found if verdicts)) or "none"
    raise ConfigError(f"{path}: no verdicts on {rivals}; those in it are about: {list_faults([others], 1)}")


class VerdictStore:
    """A SQLite file of verdicts on any number of pairs. Use it as a context manager; from any thread.

    A verdict stands in the file when `keep` returns, whatever happens to the process or the power after that.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self._file = open_feedback(path)

    def keep(self, rivals: Rivals, verdict: Verdict) -> None:
        """Keeps what a reviewer says of a sample, in place of what they said of it before."""
        values = (verdict.sample, verdict.reviewer, verdict.picked, verdict.base_rating, verdict.tuned_rating)
        with self._lock, database_errors(self.path), transaction(self._file):
            self._file.execute(
                "INSERT OR REPLACE INTO verdict (pair, sample, reviewer, picked, base_rating, tuned_rating, note, "
                "blind, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (self._pair_id(rivals), *values, verdict.note, verdict.blind, verdict.at),
            )

    def all(self) -> list[tuple[Rivals, list[Verdict]]]:
        """Each pair with the verdicts on it."""
        with self._lock, database_errors(self.path):
            pairs = self._file.execute("SELECT id, base, base_key, tuned, tuned_key FROM pair ORDER BY id").fetchall()
            return [
                (Rivals(Judged(base, base_key), Judged(tuned, tuned_key)), self._verdicts(number))
                for number, base, base_key, tuned, tuned_key in pairs
            ]

    def of(self, rivals: Rivals, samples: Iterable[str]) -> list[Verdict]:
        """The verdicts on these samples, by every reviewer."""
        wanted = set(samples)
        return [
            verdict
            for about, verdicts in self.all()
            if about.same(rivals)
            for verdict in verdicts
            if verdict.sample in wanted
        ]

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pair_id(self, rivals: Rivals) -> int:
        words = (rivals.base.name, rivals.base.key, rivals.tuned.name, rivals.tuned.key)
        names = tuple(_whole(word) for word in words)
        self._file.execute("INSERT OR IGNORE INTO pair (base, base_key, tuned, tuned_key) VALUES (?, ?, ?, ?)", names)
        (number,) = self._file.execute(
            "SELECT id FROM pair WHERE (base, base_key, tuned, tuned_key) = (?, ?, ?, ?)", names
        ).fetchone()
        return int(number)

    def _verdicts(self, pair: int) -> list[Verdict]:
        rows = self._file.execute(
            "SELECT sample, picked, base_rating, tuned_rating, note, blind, reviewer, at FROM verdict WHERE pair = ? "
            "ORDER BY at, sample, reviewer",
            (pair,),
        ).fetchall()
        return [
            Verdict(sample, picked, base, tuned, note, bool(blind), reviewer, at)
            for sample, picked, base, tuned, note, blind, reviewer, at in rows
        ]


def _exported(path: Path) -> tuple[Rivals, list[Verdict]]:
    """What the page wrote. Raises ConfigError, which names the first bad verdicts."""
    expected = "expected the JSON file that the page's Export button writes, or the SQLite file of `cpuft review`"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["kind"] != KIND:
            raise ValueError(f"found the kind {facts['kind']!r}")
        base, tuned = (Judged(str(facts[side]["name"]), str(facts[side]["key"])) for side in ("base", "tuned"))
        values = list(facts["verdicts"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: no verdicts ({list_faults([repr(error)])}), {expected}") from error
    verdicts, faults = [], []
    for number, value in enumerate(values, 1):
        try:
            verdicts.append(verdict_of(value))
        except ValueError as error:
            faults.append(f"{path}: verdict {number}: {error}")
    if faults:
        raise ConfigError(list_faults(faults))
    return Rivals(base, tuned), verdicts


def _picked(value: Any) -> Pick | None:
    for pick in PICKS:
        if value == pick:
            return pick
    if value is None:
        return None
    raise ValueError(f"picked: found {str(value)[:40]!r}, expected one of {', '.join(PICKS)}, or null")


def _stars(value: Mapping[str, Any], name: str) -> int | None:
    stars = value.get(name)
    if stars is None or (isinstance(stars, int) and not isinstance(stars, bool) and 1 <= stars <= BEST):
        return stars
    raise ValueError(f"{name}: found {str(stars)[:40]!r}, expected a whole number from 1 to {BEST}, or null")


def _text(value: Mapping[str, Any], name: str, most: int) -> str:
    text = value.get(name, "")
    if not isinstance(text, str) or len(text) > most:
        raise ValueError(f"{name}: expected a text of at most {most} characters")
    return _whole(text)


def _whole(text: str) -> str:
    """The text without halves of a character, which JSON can hold and SQLite cannot."""
    return text.encode("utf-8", "replace").decode()


def _truth(value: Mapping[str, Any], name: str) -> bool:
    found = value.get(name, False)
    if not isinstance(found, bool):
        raise ValueError(f"{name}: found {str(found)[:40]!r}, expected true or false")
    return found


def _matching(value: Mapping[str, Any], name: str, pattern: re.Pattern[str], expected: str) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise ValueError(f"{name}: found {str(text)[:40]!r}, expected {expected}")
    return text
