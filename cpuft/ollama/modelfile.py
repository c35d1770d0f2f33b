"""The Modelfile of a tuned model: what `ollama create` reads, and what cpuft gives Ollama through its API."""

import datetime
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cpuft.chat.template import chat_template_of
from cpuft.errors import ConfigError, ModelError
from cpuft.gguf.reader import Gguf, read_gguf
from cpuft.machine.files import require_place, write_text
from cpuft.ollama.derivation import derived_family
from cpuft.ollama.families import default_system, family_of

QUOTES = '"""'
# What Ollama's parser keeps of the characters that are not printable; it drops the others without a word.
KEPT = "\n\r\t"


@dataclass(frozen=True)
class Parameters:
    """How Ollama samples where a request does not say. num_ctx: tokens of context, None for Ollama's own choice."""

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 40
    num_ctx: int | None = None


@dataclass(frozen=True)
class Modelfile:
    """A model's settings in Ollama.

    family:   the name of its chat format; None where cpuft neither knows nor can derive it.
    template: a Go template; None lets Ollama render with the Jinja template in the model's file.
    system:   said where a conversation has no system prompt.
    stop:     texts at which an answer ends.
    """

    model: Path
    family: str | None
    template: str | None
    system: str | None
    stop: tuple[str, ...]
    parameters: Parameters

    @property
    def options(self) -> dict[str, Any]:
        """The parameters by Ollama's names, `stop` first."""
        given = {name: value for name, value in asdict(self.parameters).items() if value is not None}
        return {"stop": list(self.stop), **given} if self.stop else given

    def text(self) -> str:
        """The file's content. Raises ConfigError where a text cannot stand in a Modelfile."""
        lines = [f"FROM {_path(self.model)}", ""]
        if self.template is not None:
            lines += [f"TEMPLATE {_quoted(self.template, 'the template')}", ""]
        if self.system is not None:
            lines += [f"SYSTEM {_quoted(self.system, 'the system prompt')}", ""]
        for name, value in self.options.items():
            values = [_stop(text) for text in value] if name == "stop" else [value]
            lines += [f"PARAMETER {name} {one}" for one in values]
        return "\n".join(lines) + "\n"


def modelfile_of(model: Gguf, *, system: str | None, parameters: Parameters) -> Modelfile:
    """The settings by which Ollama asks this model as it was trained.

    system: None takes what the model's own template says by default, where Ollama's Go template would not.
    Raises ModelError.
    """
    family, template = family_of(model) or derived_family(model), chat_template_of(model, datetime.date.today())
    if family is None or template is None:
        return Modelfile(model.path, None, None, system, (), parameters)
    default = default_system(template)
    if system is None and not family.has_default_system:
        system = default
    return Modelfile(model.path, family.name, family.go_template(default), system, family.stop, parameters)


def write_modelfile(path: Path, model: Path, *, system: str | None, parameters: Parameters) -> Modelfile:
    """Writes a model's Modelfile, whole or not at all. Raises ConfigError, ModelError or ResourceError."""
    modelfile = modelfile_of(read_model(model), system=system, parameters=parameters)
    require_place(path, "the Modelfile")
    if path.exists() and path.samefile(model):
        raise ConfigError(f"{path}: that is the model itself: give another path for the Modelfile")
    write_text(path, modelfile.text())
    return modelfile


def read_model(path: Path) -> Gguf:
    """The model that is to be imported. Raises ModelError, also for an adapter, which Ollama takes no more."""
    model = read_gguf(path)
    if (kind := model.get("general.type", "model")) != "model":
        hint = ": merge it into its base with `cpuft merge`, and import that file" if kind == "adapter" else ""
        raise ModelError(f"{path}: the file says that it is of the type {kind!r}, expected a model{hint}")
    return model


def read_system(path: Path) -> str:
    """A system prompt from a text file, without the white space around it. Raises ConfigError."""
    try:
        system = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the system prompt, expected a file of UTF-8 text: {error}") from error
    if not system:
        raise ConfigError(f"{path}: the file is empty, expected a system prompt")
    return system


def _quoted(text: str, what: str) -> str:
    if QUOTES in text:
        raise ConfigError(f"{what} holds {QUOTES}, which ends a text in a Modelfile: import without --modelfile-only")
    _refuse_lost(text, what, KEPT)
    return QUOTES + text + QUOTES


def _stop(text: str) -> str:
    """A stop text in the quotes that the specification has, unless it holds some itself."""
    return _quoted(text, "a stop text") if '"' in text else f'"{text}"'


def _path(model: Path) -> str:
    path = str(model.absolute())
    if path != path.strip():
        raise ConfigError(f"{path!r}: Ollama drops the spaces at the end of a path from a Modelfile: rename the model")
    _refuse_lost(path, "the model's path")
    return path


def _refuse_lost(text: str, what: str, kept: str = "") -> None:
    lost = next((letter for letter in text if not letter.isprintable() and letter not in kept), None)
    if lost is not None:
        name = f"U+{ord(lost):04X}"
        raise ConfigError(f"{what} holds {name}, which Ollama drops from a Modelfile: import without --modelfile-only")
