"""A SQLite file whose tables change with the versions of cpuft; a killed process never leaves it half changed."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cpuft.errors import ConfigError, ResourceError, UserError
from cpuft.machine.disk import disk_errors

# The statements that lead from one version of the tables to the next. A step is never edited once it was released: what
# is to be different becomes a step of its own, at the end.
Step = Sequence[str]


def open_database(path: Path, steps: Sequence[Step], application: int) -> sqlite3.Connection:
    """Opens a file, or makes it, and brings its tables to the newest version.

    steps:       all of them; PRAGMA user_version says how many a file has had.
    application: a number of 32 bits (PRAGMA application_id) by which a file is told from those of other programs.
    The connection may be used from any thread, by one at a time. Each statement outside of `transaction` is durable
    when it returns. Raises ConfigError for a file of another program or of a newer cpuft, ResourceError for a place
    that cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with database_errors(path):
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
    try:
        with database_errors(path):
            _require_own(connection, path, len(steps), application)
            # Readers never wait for a writer; FULL waits for the disk at each commit: a power cut loses nothing.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            _migrate(connection, steps, application)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that the block writes stands in the file after it, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turns what SQLite raises into a sentence that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise _refusal(path, error) from error


def _require_own(connection: sqlite3.Connection, path: Path, newest: int, application: int) -> None:
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if owner != application and (owner or version or tables):
        raise ConfigError(f"{path}: a database of another kind, expected one for this or a new name: give another path")
    if version > newest:
        raise ConfigError(
            f"{path}: written by a newer cpuft (version {version} of its tables, this one knows {newest}): update cpuft"
        )


def _migrate(connection: sqlite3.Connection, steps: Sequence[Step], application: int) -> None:
    """A step and the record of it are one transaction; of two processes that open a file, the second waits."""
    while True:
        with transaction(connection):
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version >= len(steps):
                return
            for statement in steps[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {application}")
            connection.execute(f"PRAGMA user_version = {version + 1}")


def _refusal(path: Path, error: sqlite3.Error) -> UserError:
    if isinstance(error, sqlite3.OperationalError):  # a full or read-only disk, a file that another program has locked
        return ResourceError(f"{path}: cannot be opened or written ({error}): make room, give access, or name another")
    return ConfigError(f"{path}: no database of cpuft's ({error}): give the path of one, or of a new file")
