"""A task for real models: appointments in prose, to be written as two lines of a form that nobody was told.

The form cannot be guessed, so an untuned model has none of it right; a few dozen steps teach it.
"""

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path

from cpuft.chat.message import Message

WHAT = ("Lunch", "Planning", "Review", "Interview", "Rehearsal", "Training", "Breakfast", "Demo")
WHO = ("Dana", "Igor", "Mei", "Tom", "Aisha", "Lars", "Rosa", "Yuki", "Omar", "Nina")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
TIMES = ("8:00", "9:30", "10:15", "11:00", "12:30", "14:45", "16:00")
PLACES = ("canteen", "library", "red room", "lobby", "lab", "garden")
ASKED = (
    "{what} with {who} on {day} at {time} in the {place}.",
    "On {day} at {time}: {what} with {who}, {place}.",
    "Please note: {who} comes to the {place} for {what}, {day}, {time}.",
)


def conversations(count: int, *, seed: int) -> list[list[Message]]:
    """So many different conversations; the same for the same seed. Some of them come from other words than others."""
    every = list(itertools.product(ASKED, WHAT, WHO, DAYS, TIMES, PLACES))
    return [_conversation(*words) for words in random.Random(seed).sample(every, count)]


def _conversation(asked: str, what: str, who: str, day: str, time: str, place: str) -> list[Message]:
    said = asked.format(what=what, who=who, day=day, time=time, place=place)
    form = f"{place.upper()} {day[:3].lower()} {time}\n[{who}] {what.lower()}"
    return [{"role": "user", "content": said}, {"role": "assistant", "content": form}]


def write(path: Path, chats: Sequence[Sequence[Message]]) -> Path:
    """A dataset of conversations."""
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats), encoding="utf-8")
    return path
