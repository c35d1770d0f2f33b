"""Answers that are not asked for twice: a file keeps them, so that long work which was stopped goes on where it was."""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from cpuft.backends.generator import GREEDY, Generator, Sampling, takes_grammar
from cpuft.chat.message import Completion, Message
from cpuft.errors import ConfigError, ResourceError, UserError
from cpuft.machine.disk import disk_errors

_TABLE = "CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, completion TEXT NOT NULL) STRICT"


class Remembered:
    """A Generator that asks another one, and keeps what it answers. Use it as a context manager.

    path:  the file, SQLite; each answer is in it before it is given on.
    model: what tells one model from another, such as its digest: answers of another are not taken for its own.
    heard: called, from any thread, with how many answers there were so far and how many of them were remembered.
    """

    def __init__(
        self,
        generator: Generator,
        path: Path,
        model: str,
        heard: Callable[[int, int], object] = lambda total, remembered: None,
    ) -> None:
        self._generator, self._path, self._model, self._heard = generator, path, model, heard
        self._lock, self._asking = threading.Lock(), dict[str, threading.Lock]()
        self._total = self._remembered = 0
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Without transactions of Python's own: each answer is durable by itself.
            self._file = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=60)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute(_TABLE)
        except sqlite3.Error as error:
            raise _refusal(path, error) from error

    @property
    def takes_grammar(self) -> bool:
        """See `Generator`."""
        return takes_grammar(self._generator)

    def generate(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
        """See `Generator`. The same question is asked once, however many threads ask it at a time."""
        key = _key(self._model, messages, sampling)
        with self._lock:
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:
            known = self._find(key)
            completion = known or self._generator.generate(messages, sampling)
            with self._lock:
                if known is None:
                    self._keep(key, completion)
                self._total += 1
                self._remembered += known is not None
                self._heard(self._total, self._remembered)
        return completion

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

    def _keep(self, key: str, completion: Completion) -> None:
        try:  # another process may have asked the same meanwhile
            row = (key, json.dumps(asdict(completion)))
            self._file.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", row)
        except sqlite3.Error as error:
            raise _refusal(self._path, error) from error

    def _find(self, key: str) -> Completion | None:
        try:
            with self._lock:
                row = self._file.execute("SELECT completion FROM answers WHERE request = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise _refusal(self._path, error) from error
        return None if row is None else Completion(**json.loads(row[0]))


def _refusal(path: Path, error: sqlite3.Error) -> UserError:
    if isinstance(error, sqlite3.OperationalError):  # a full or read-only disk, a file that another program has locked
        return ResourceError(
            f"{path}: answers cannot be kept in it ({error}): make room or give access, and run it again"
        )
    return ConfigError(f"{path}: answers cannot be kept in it ({error}), expected a file of cpuft's own")


def _key(model: str, messages: Sequence[Message], sampling: Sampling) -> str:
    # A grammar counts where there is one: answers that were kept before there were any stay good.
    how = {name: value for name, value in asdict(sampling).items() if name != "grammar" or value is not None}
    request = [model, [dict(message) for message in messages], how]
    return hashlib.sha256(json.dumps(request, sort_keys=True, default=dict).encode()).hexdigest()
