"""Brings a GGUF model into Ollama and proves that Ollama asks it as it was trained.

After the import Ollama is asked for the prompts that it would send, and these must be the training text to the last
space. It may render with the Go template it was given, with the Jinja template of the file, or with a Go template of
its own that it found similar; which one depends on its release and on the model, so only the prompts tell.
"""

import dataclasses
import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cpuft.chat.alignment import common_prefix
from cpuft.chat.message import Message
from cpuft.chat.template import ChatTemplate, chat_template_of
from cpuft.errors import ExampleError, OllamaError
from cpuft.gguf.reader import Gguf
from cpuft.machine.progress import Progress, silent
from cpuft.ollama.families import adds_bos
from cpuft.ollama.modelfile import Modelfile, Parameters, modelfile_of, read_model
from cpuft.ollama.names import parse_name
from cpuft.ollama.server import Server, connection

QUESTION = (
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "Two:\n\n- 1 + 1 = 2 ✓"},
    {"role": "user", "content": 'Say it in "Español".'},
    {"role": "assistant", "content": "Dos."},
    {"role": "user", "content": "Why?"},
)
SYSTEM = {"role": "system", "content": "Be terse.\nBe <kind>."}
# With a system prompt and without, one turn and three.
CONVERSATIONS: tuple[tuple[Message, ...], ...] = (QUESTION[:1], (SYSTEM, *QUESTION[:1]), QUESTION, (SYSTEM, *QUESTION))


@dataclass(frozen=True)
class ImportJob:
    """What to import.

    system:  the system prompt of conversations that have none; None keeps the model's own default.
    host:    where Ollama listens; None takes OLLAMA_HOST, or Ollama's default.
    replace: whether a model of this name may be replaced.
    """

    model: Path
    name: str
    system: str | None = None
    parameters: Parameters = field(default_factory=Parameters)
    host: str | None = None
    replace: bool = False


@dataclass(frozen=True)
class Imported:
    """An import that succeeded.

    family:    the chat format; None for one that cpuft neither knows nor could derive.
    template:  whether Ollama was given a Go template.
    n_prompts: how many prompts of Ollama's were compared with the training text, and equal to it; 0: see `note`.
    """

    name: str
    family: str | None
    template: bool
    n_bytes: int
    n_prompts: int
    note: str | None = None


def import_model(job: ImportJob, progress: Progress = silent) -> Imported:
    """Imports a model and compares Ollama's prompts with the training text.

    Raises OllamaError where Ollama is not there or refuses, or where its prompts differ (the model stays imported);
    ModelError where the file cannot be used.
    """
    name = parse_name(job.name)
    model = read_model(job.model)
    modelfile = modelfile_of(model, system=job.system, parameters=job.parameters)
    with connection(job.host, progress) as server:
        if server.has(name) and not job.replace:
            raise OllamaError(
                f"Ollama already has a model {job.name}: choose another name, or replace it with --replace"
            )
        progress("reading", 0, 0)
        digest = server.create_blob(job.model)
        fault = ""
        for attempt in _attempts(modelfile):
            files = {attempt.model.name: digest}
            server.make(job.name, files, attempt.template, attempt.system, attempt.options)
            fault, n_prompts, note = _compare(server, job.name, attempt, model)
            if not fault:
                with_template = attempt.template is not None
                return Imported(job.name, attempt.family, with_template, model.file_size, n_prompts, note)
    raise OllamaError(f"{job.name} is imported, but Ollama asks it in other words than it was trained on: {fault}")


def _attempts(modelfile: Modelfile) -> Iterator[Modelfile]:
    """The settings to try in turn: with the family's Go template, then with what Ollama makes of the file's own."""
    yield modelfile
    if modelfile.template is not None:
        yield dataclasses.replace(modelfile, template=None)


# ---- The comparison -------------------------------------------------------------------------------------------------


def _compare(server: Server, name: str, modelfile: Modelfile, model: Gguf) -> tuple[str, int, str | None]:
    """Ollama's prompts beside the training text: what differs ("" for nothing), how many were compared, and a note."""
    template = chat_template_of(model, datetime.date.today())
    if template is None:
        return "", 0, "the file has no chat template, so there is no training text to compare with Ollama's prompts"
    n_prompts = 0
    for n, messages in enumerate(CONVERSATIONS):
        server.progress(f"comparing prompts ({n + 1} of {len(CONVERSATIONS)})", 0, 0)
        asked = messages if modelfile.system is None or messages[0] is SYSTEM else _with_system(modelfile, messages)
        try:
            expected = template.render(asked, answer=True)
        except ExampleError:
            continue  # then it refuses such a conversation in training, too
        rendered = server.rendered(name, messages)
        if rendered is None:
            return "", 0, "this release of Ollama does not show its prompts, so they were not compared"
        if rendered not in _tokenized_alike(model, template, expected):
            return _difference(expected, rendered), n_prompts, None
        n_prompts += 1
    return "", n_prompts, None if n_prompts else "the chat template refuses plain conversations, so none was compared"


def _with_system(modelfile: Modelfile, messages: Sequence[Message]) -> Sequence[Message]:
    return [{"role": "system", "content": modelfile.system}, *messages]


def _tokenized_alike(model: Gguf, template: ChatTemplate, text: str) -> set[str]:
    """The texts that become the same tokens: where llama.cpp adds the BOS itself, the prompt must not begin with it."""
    bare = text.removeprefix(template.bos_token)
    adds = adds_bos(model)
    return {text, bare} if adds is None else {bare if adds else text}


def _difference(expected: str, rendered: str) -> str:
    """Where two texts part, in a few words."""
    start = max(0, common_prefix(expected, rendered) - 10)
    return f"it says {rendered[start : start + 60]!r} where the training text has {expected[start : start + 60]!r}"
