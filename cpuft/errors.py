"""Every failure that cpuft names, and the exit code that goes with it.

CpuftError                 exit 1: our own fault
├── EngineError            the native engine failed
├── BackendError           what should answer a conversation did not
│   └── ServerError        exit 2, a UserError too: one that the user runs or named, and not cpuft
└── UserError              exit 2: a mistake in what the user gave, or in the machine's set-up
    ├── ConfigError        a configuration file or option
    ├── DatasetError       a JSONL file or one of its examples
    ├── ModelError         a GGUF model
    │   └── TooLongError   a conversation is longer than its context
    ├── AdapterError       a LoRA adapter
    ├── OllamaError        Ollama is not there, refuses, or renders prompts otherwise
    ├── ResourceError      memory, disk or time that is not there
    └── ToolchainError     compiler, download, checksum, a tool that is not built

The message is one sentence that names the thing, what was found, what was expected, and what to do.

Exit codes that are no failures: 3 (VERDICT), 130 (INTERRUPTED) and 141 (UNHEARD).

ExampleError               a ValueError on the way: what is wrong with one example, for whoever knows its file and line
"""

from collections.abc import Sequence

VERDICT = 3  # the command worked, and what it judged is not good enough
INTERRUPTED = 130  # the shell's exit code for a program ended by Ctrl-C
UNHEARD = 141  # the shell's exit code for a program whose output nobody reads any more, as before `| head -1`


class CpuftError(Exception):
    """Base of all errors that cpuft raises on purpose."""

    exit_code = 1


class EngineError(CpuftError):
    """The native engine failed for a reason that the user did not cause."""


class BackendError(CpuftError):
    """What should answer a conversation did not, or sent no answer.

    may_pass: the same request may succeed later. wait: seconds that the server asked for before that; 0: none.
    """

    def __init__(self, sentence: str, *, may_pass: bool = False, wait: float = 0.0) -> None:
        super().__init__(sentence)
        self.may_pass, self.wait = may_pass, wait


class UserError(CpuftError):
    """A mistake that the user can mend."""

    exit_code = 2


class ServerError(BackendError, UserError):
    """A server that the user runs or named did not answer, or sent no answer."""


class ConfigError(UserError):
    """A configuration key or value is unknown or impossible."""


class DatasetError(UserError):
    """A dataset file or an example in it cannot be used."""


class ModelError(UserError):
    """A model file is missing, damaged or of an unknown architecture."""


class TooLongError(ModelError):
    """A conversation is longer than the model's context."""


class AdapterError(UserError):
    """An adapter file is missing, damaged or made for another base model."""


class OllamaError(UserError):
    """Ollama does not answer, refuses, or would ask a model in another way than it was trained."""


class ResourceError(UserError):
    """The run does not fit into memory or onto the disk."""


class ToolchainError(UserError):
    """The toolchain cannot be fetched or built, or a part of it is missing."""


class ExampleError(ValueError):
    """What is wrong with one example, without its place."""


def list_faults(faults: Sequence[str], most: int = 8) -> str:
    """The first of many faults, and how many more there are, safe to print whatever names a file has."""
    more = len(faults) - most
    return "; ".join(map(excerpt, faults[:most])) + (f"; and {more} more" if more > 0 else "")


def list_all_faults(faults: Sequence[str]) -> str:
    """All faults of a file that a person wrote, a line each where there are several."""
    return faults[0] if len(faults) == 1 else "\n  ".join([f"{len(faults)} faults:", *faults])


def excerpt(text: str, most: int = 240) -> str:
    """The beginning of a text that comes from a file, fit for a sentence: on one line, and safe to print."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:most])
    return shown if len(text) <= most else shown + "…"
