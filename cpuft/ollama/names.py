"""How Ollama names models: [HOST/][NAMESPACE/]MODEL[:TAG], the grammar of types/model/name.go in its source."""

import re
from dataclasses import dataclass
from pathlib import Path

from cpuft.errors import OllamaError

DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"

_WORD = r"[A-Za-z0-9_]"
_PARTS = {
    "host": re.compile(rf"{_WORD}[A-Za-z0-9_.:-]{{0,349}}"),
    "namespace": re.compile(rf"{_WORD}[A-Za-z0-9_-]{{0,79}}"),
    "model": re.compile(rf"{_WORD}[A-Za-z0-9_.-]{{0,79}}"),
    "tag": re.compile(rf"{_WORD}[A-Za-z0-9_.-]{{0,79}}"),
}


@dataclass(frozen=True)
class OllamaName:
    """A model's full name. `plain_http` is set where it was written http://HOST/…, for a registry without TLS."""

    host: str
    namespace: str
    model: str
    tag: str
    plain_http: bool = False

    @property
    def path(self) -> Path:
        """The manifest's place below manifests/ in a store."""
        return Path(self.host, self.namespace, self.model, self.tag)

    @property
    def faults(self) -> list[str]:
        """The parts that the grammar does not allow."""
        return [part for part, pattern in _PARTS.items() if not pattern.fullmatch(getattr(self, part))]

    def is_same(self, other: "OllamaName") -> bool:
        """Whether both are one model to Ollama, which knows no upper case."""
        return str(self.path).casefold() == str(other.path).casefold()

    def __str__(self) -> str:
        """The shortest name that Ollama understands, with the tag."""
        if self.host != DEFAULT_HOST:
            return f"{'http://' if self.plain_http else ''}{self.host}/{self.namespace}/{self.model}:{self.tag}"
        namespace = "" if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}/"
        return f"{namespace}{self.model}:{self.tag}"


def parse_name(text: str) -> OllamaName:
    """The full name of NAME, NAMESPACE/NAME or HOST/NAMESPACE/NAME, each with or without :TAG. Raises OllamaError."""
    address = text.removeprefix("http://").removeprefix("https://")
    *front, last = address.split("/")
    host = front[-2] if len(front) > 1 else DEFAULT_HOST
    namespace = front[-1] if front else DEFAULT_NAMESPACE
    model, colon, tag = last.partition(":")
    name = OllamaName(host, namespace, model, tag if colon else DEFAULT_TAG, plain_http=text.startswith("http://"))
    if name.faults or len(front) > 2:
        what = f"its {name.faults[0]} is empty or not allowed" if name.faults else "it has too many parts"
        raise OllamaError(
            f"{text!r} is no name for a model in Ollama: {what}, expected [HOST/][NAMESPACE/]MODEL[:TAG], such as "
            "qwen25-ba-finetuned:v1"
        )
    return name
