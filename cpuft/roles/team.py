"""The roles that cpuft brings along: where their folders are, and in which order they work."""

from pathlib import Path

FOLDER = Path(__file__).parent
NAMES = ("ba", "po", "architect", "dev", "qa")  # in a chain, each may be asked what an earlier one has answered
