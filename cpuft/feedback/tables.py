"""The tables in which is kept what people say, in the order in which they came to be."""

import sqlite3
from pathlib import Path

from cpuft.feedback.migrations import Step, open_database

NAME = "feedback.sqlite"  # of the file, where the user names none
APPLICATION = 0x63706662  # "cpfb"

STEPS: tuple[Step, ...] = (
    (
        """CREATE TABLE pair (
            id INTEGER PRIMARY KEY,
            base TEXT NOT NULL, base_key TEXT NOT NULL, tuned TEXT NOT NULL, tuned_key TEXT NOT NULL,
            UNIQUE (base, base_key, tuned, tuned_key)
        ) STRICT""",
        """CREATE TABLE verdict (
            pair INTEGER NOT NULL REFERENCES pair, sample TEXT NOT NULL, reviewer TEXT NOT NULL,
            picked TEXT CHECK (picked IN ('base', 'tuned', 'tie')),
            base_rating INTEGER CHECK (base_rating BETWEEN 1 AND 5),
            tuned_rating INTEGER CHECK (tuned_rating BETWEEN 1 AND 5),
            note TEXT NOT NULL, blind INTEGER NOT NULL CHECK (blind IN (0, 1)), at TEXT NOT NULL,
            PRIMARY KEY (pair, sample, reviewer)
        ) STRICT, WITHOUT ROWID""",
    ),
)


def open_feedback(path: Path) -> sqlite3.Connection:
    """Opens the file, or makes it. Raises as `open_database`."""
    return open_database(path, STEPS, APPLICATION)
