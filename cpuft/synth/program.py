"""How a model is asked as a role: what it is told first, and the examples that it is shown before the question."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpuft.chat.message import Message
from cpuft.errors import ConfigError
from cpuft.roles import Inputs, Role
from cpuft.roles.answer import read_answer
from cpuft.synth.records import RoleRecord, record_of


@dataclass(frozen=True)
class Program:
    """A prompt and examples.

    prompt: the system's turn. demos: questions and answers that stand before the one that is asked.
    """

    prompt: str
    demos: tuple[RoleRecord, ...] = ()

    def messages(self, role: Role, inputs: Inputs, *, as_json: bool = False) -> list[Message]:
        """The conversation that asks a model.

        as_json: for a model that is held to JSON: it is shown answers in the form that it must give.
        """
        turns: list[Message] = [{"role": "system", "content": self.prompt}]
        for demo in self.demos:
            answer = _as_json(demo.answer) if as_json else demo.answer
            turns += [role.messages(demo.inputs)[-1], {"role": "assistant", "content": answer}]
        return [*turns, role.messages(inputs)[-1]]

    @property
    def digest(self) -> str:
        """What tells one program from another, 16 hexadecimal digits."""
        said = [self.prompt, *(f"{demo.asked}\n{demo.answer}" for demo in self.demos)]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


def read_program(path: Path, role: Role) -> Program:
    """The program in a file that DSPy saved as JSON: that of `cpuft data optimize-prompt`, or one's own.

    Raises ConfigError where it is none, or one of several predictors.
    """
    if path.suffix in (".pkl", ".pickle"):
        raise ConfigError(
            f"{path}: a pickle can run any code, expected the JSON that DSPy's program.save('x.json') writes"
        )
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file, expected a program of `cpuft data optimize-prompt`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: no program of DSPy as JSON ({error})") from error
    entries = [entry for entry in state.values() if _is_predictor(entry)] if isinstance(state, Mapping) else []
    if len(entries) != 1:
        raise ConfigError(f"{path}: found {len(entries)} predictors, expected a program of DSPy with one")
    try:
        demos = tuple(record_of(demo, role, f"{path}, demo {i}") for i, demo in enumerate(entries[0]["demos"], 1))
    except ValueError as error:
        raise ConfigError(f"{path}: a demo does not fit the role {role.name}: {error}") from error
    return Program(entries[0]["signature"]["instructions"], demos)


def _is_predictor(entry: Any) -> bool:
    signature = entry.get("signature") if isinstance(entry, Mapping) else None
    has_words = isinstance(signature, Mapping) and isinstance(signature.get("instructions"), str)
    return has_words and isinstance(entry.get("demos"), list)


def _as_json(answer: str) -> str:
    document = read_answer(answer)
    return answer if document is None else json.dumps(document, ensure_ascii=False, default=str)
