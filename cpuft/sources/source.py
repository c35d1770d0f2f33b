"""Where a model comes from: a reference, as a user writes it, turned into the path of a GGUF file.

model.gguf                  a file
ollama:NAME[:TAG]           what Ollama has pulled, in its own store
hf:ORG/REPO/FILE.gguf       a file of the Hugging Face Hub: from huggingface_hub's cache, else downloaded into it
base/                       a folder that `cpuft prepare` made
checkpoint/                 a Hugging Face checkpoint folder, converted once
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpuft.errors import ModelError
from cpuft.machine.progress import Progress, silent
from cpuft.ollama import store
from cpuft.ollama.store import ADAPTER, LICENSE, PROJECTOR, TEMPLATE, OllamaModel
from cpuft.sources import checkpoint, hub

OLLAMA, HUB = "ollama:", "hf:"
FORMS = "a GGUF file, ollama:NAME[:TAG], hf:ORG/REPO/FILE.gguf, a checkpoint folder or one of `cpuft prepare`"
PREPARED = "model.gguf"  # the model in a folder of `cpuft prepare`


@dataclass(frozen=True)
class Source:
    """A model that was found.

    reference: as it was written.
    path: the GGUF file.
    facts: what its origin says about it, ready for JSON.
    notes: what the user should know before using it, a sentence each.
    """

    reference: str
    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def named(name: str) -> str:
    """A reference for a model that is named as the specification does: what is no path and no reference is Ollama's."""
    return name if name.startswith((OLLAMA, HUB)) or Path(name).exists() else f"{OLLAMA}{name}"


def resolve(reference: str, progress: Progress = silent) -> Source:
    """The source of a reference; downloads and converts where that is still to be done.

    progress: called while a checkpoint is converted; huggingface_hub shows its own bar.
    Raises ModelError and ToolchainError, which say what to do, and ResourceError where the disk is full.
    """
    if reference.startswith(OLLAMA):
        return from_ollama(reference, store.find_model(reference.removeprefix(OLLAMA)))
    if reference.startswith(HUB):
        file = hub.parse_file(reference.removeprefix(HUB))
        return from_hub(file, hub.cached_path(file) or hub.download(file))
    path = Path(reference)
    if (path / PREPARED).is_file() and not checkpoint.is_checkpoint(path):
        return Source(reference, path / PREPARED, {"kind": "file"})
    if path.is_dir():
        return Source(reference, checkpoint.convert(path, progress), {"kind": "checkpoint"})
    if not path.exists():
        raise ModelError(f"{reference}: no such file, expected {FORMS}")
    if not path.is_file():
        raise ModelError(f"{reference}: not a regular file, expected {FORMS}")
    return Source(reference, path, {"kind": "file"})


def from_ollama(reference: str, model: OllamaModel) -> Source:
    """The source that a model in Ollama's store is. Raises ModelError where it has no whole GGUF file."""
    adapters = [str(layer.path) for layer in model.of_kind(ADAPTER)]
    projectors = [str(layer.path) for layer in model.of_kind(PROJECTOR)]
    notes = []
    if adapters:
        notes.append(
            f"{reference}: Ollama applies {len(adapters)} adapter(s) on top of this model ({', '.join(adapters)}); "
            "cpuft uses the model alone"
        )
    facts = {
        "kind": "ollama",
        "name": str(model.name),
        "store": str(model.store),
        "adapters": adapters,
        "projectors": projectors,
        "template": "\n".join(layer.text() for layer in model.of_kind(TEMPLATE)) or None,
        "licence": "\n".join(layer.text() for layer in model.of_kind(LICENSE)) or None,
    }
    return Source(reference, model.gguf, facts, tuple(notes))


def from_hub(file: hub.HubFile, path: Path) -> Source:
    """The source that a file in huggingface_hub's cache is."""
    return Source(str(file), path, {"kind": "hf", "repo": file.repo, "revision": file.revision, "file": file.file})
