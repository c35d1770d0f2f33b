"""Answers that were kept are found again, and only by the question that they answer."""

import hashlib
import json
import sqlite3
from dataclasses import asdict, replace
from pathlib import Path

from cpuft.backends.generator import Sampling
from cpuft.backends.remembered import Remembered
from cpuft.chat.message import Message
from tests.synth.answering import Scripted

QUESTION: list[Message] = [{"role": "user", "content": "Why?"}]


def test_answers_from_before_there_were_grammars_are_found(tmp_path: Path) -> None:
    """A question without a grammar has the key that it had when no question had one; with one it is another."""
    sampling, path = Sampling(max_tokens=7), tmp_path / "answers.sqlite"
    how = {name: value for name, value in asdict(sampling).items() if name != "grammar"}
    key = hashlib.sha256(json.dumps(["m", QUESTION, how], sort_keys=True).encode()).hexdigest()
    kept = {"text": "kept", "tokens": 1, "seconds": 1.0, "prompt_tokens": 1, "finished": True}
    model = Scripted(lambda *_: "asked")
    with Remembered(model, path, "m") as remembered:
        with sqlite3.connect(path) as file:
            file.execute("INSERT INTO answers VALUES (?, ?)", (key, json.dumps(kept)))
        assert remembered.generate(QUESTION, sampling).text == "kept"
        held = replace(sampling, grammar='root ::= "a"')
        assert remembered.generate(QUESTION, held).text == "asked"
        assert remembered.generate(QUESTION, replace(held, grammar='root ::= "b"')).text == "asked"
    assert len(model.heard) == 2
