"""Examples of a role in files of JSON lines: what was asked, what was answered, and what is known about it.

    {"concept": "…", "requirements": {"title": "…", …}, "score": 0.93, "domain": "fintech"}    what cpuft writes
    {"concept": "…", "requirements_yaml": "title: …"}                                          the answer as its YAML
    {"input": "…", "output": "title: …"}                                                       as other tools name them
    {"messages": [{"role": "system", …}, {"role": "user", …}, {"role": "assistant", …}]}       a conversation

Inputs and answer have the names that the role gives them; all other keys are kept as they are.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpuft.errors import DatasetError, list_faults
from cpuft.machine.disk import disk_errors
from cpuft.machine.files import atomic_write, write_text
from cpuft.roles import Role
from cpuft.roles.answer import read_answer, write_answer

FIRST_INPUT = ("input", "question", "prompt")  # other names of a role's first input, in files of others
ANSWER = ("answer", "output", "completion")  # and of its answer


@dataclass(frozen=True)
class RoleRecord:
    """One example.

    inputs: what was asked, by the role's names. answer: as the text that a model gives, YAML.
    facts:  what else its line holds, such as score, domain, group, seed, model.
    place:  where it was read, "file:line".
    """

    inputs: Mapping[str, str]
    answer: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""

    @property
    def asked(self) -> str:
        """All inputs as one text, by which records are compared."""
        return "\n".join(self.inputs.values())


def read_records(path: Path, role: Role) -> list[RoleRecord]:
    """The examples of a file. Raises DatasetError, which names the first bad lines."""
    records, faults = [], []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            records.append(record_of(json.loads(line), role, f"{path}:{number}"))
        except (ValueError, RecursionError) as error:
            faults.append(f"{path}:{number}: {str(error) or 'nested too deeply'}")
    if faults:
        raise DatasetError(list_faults(faults))
    if not records:
        raise DatasetError(f"{path}: the file holds no examples, expected one JSON object a line")
    return records


def seed_records(role: Role) -> list[RoleRecord]:
    """The role's own examples."""
    return [RoleRecord(seed.inputs, write_answer(seed.answer), {"source": "seed"}) for seed in role.seeds]


def write_records(path: Path, records: Iterable[RoleRecord], role: Role) -> None:
    """Writes examples whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text("".join(line_of(record, role) for record in records), encoding="utf-8")


class Appender:
    """Adds examples to a file one by one, each on the disk before the next: a killed process loses none.

    A last line that a killed process left unfinished is cut off when the file is opened.
    """

    def __init__(self, path: Path, role: Role) -> None:
        self._path, self._role = path, role
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a+b")
            self._stream.truncate(self._whole())

    def add(self, record: RoleRecord) -> None:
        """Writes an example and waits until it is on the disk."""
        with disk_errors(self._path):
            self._stream.write(line_of(record, self._role).encode())
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Ends it."""
        self._stream.close()

    def _whole(self) -> int:
        """The bytes of whole lines."""
        self._stream.seek(0)
        return self._stream.read().rfind(b"\n") + 1


def line_of(record: RoleRecord, role: Role) -> str:
    """A record's line. An answer that is no mapping stays text, under the last of the role's keys."""
    document = read_answer(record.answer)
    answer = {role.answer_keys[-1]: record.answer} if document is None else {role.answer_keys[0]: document}
    return json.dumps({**record.inputs, **answer, **record.facts}, ensure_ascii=False, default=str) + "\n"


def chat_of(record: RoleRecord, role: Role) -> dict[str, Any]:
    """A record as a conversation to train on, with the short prompt that a tuned model is asked with."""
    return {"messages": [*role.messages(record.inputs), {"role": "assistant", "content": record.answer}]}


def write_chat(source: Path, output: Path, role: Role) -> int:
    """Writes a file's examples as conversations, whole or not at all; returns how many. Raises DatasetError."""
    records = read_records(source, role)
    write_text(output, "".join(json.dumps(chat_of(one, role), ensure_ascii=False) + "\n" for one in records))
    return len(records)


def record_of(value: Any, role: Role, place: str = "") -> RoleRecord:
    """The example in an object of JSON. Raises ValueError, which says what it lacks."""
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}, expected an object with {' and '.join(role.sources)}")
    if "messages" in value:
        return _of_chat(value, role, place)
    facts = {key: entry for key, entry in value.items() if entry is not None}
    names = list(role.sources)
    inputs = {name: _text(facts, (name, *FIRST_INPUT) if name == names[0] else (name,), name) for name in names}
    answer = _answer(facts, (*role.answer_keys, *ANSWER))
    return RoleRecord(inputs, answer, facts, place)


def _of_chat(value: Mapping[str, Any], role: Role, place: str) -> RoleRecord:
    messages = value["messages"]
    try:
        user = next(message["content"] for message in messages if message["role"] == "user")
        said = next(message["content"] for message in reversed(messages) if message["role"] == "assistant")
    except (StopIteration, KeyError, TypeError):
        raise ValueError("messages: expected a conversation in which a user asks and the assistant answers") from None
    facts = {key: entry for key, entry in value.items() if key != "messages"}
    return RoleRecord(role.inputs_of(str(user)), str(said), facts, place)


def _text(facts: dict[str, Any], keys: Iterable[str], name: str) -> str:
    for key in keys:
        if key in facts:
            text = facts.pop(key)
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{key}: found {str(text)[:40]!r}, expected a text")
            return text.strip()
    raise ValueError(f"{name}: no such key, expected what is asked of the role")


def _answer(facts: dict[str, Any], keys: tuple[str, ...]) -> str:
    for key in keys:
        if key in facts:
            answer = facts.pop(key)
            if isinstance(answer, Mapping):
                return write_answer(answer)
            if isinstance(answer, str) and answer.strip():
                return answer
            raise ValueError(f"{key}: found {str(answer)[:40]!r}, expected the answer, an object or its YAML")
    raise ValueError(f"no answer, expected it under {' or '.join(keys)}")


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            yield from stream
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file, expected examples as JSON lines") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
