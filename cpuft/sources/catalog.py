"""The models that this machine already has: in Ollama's store, in huggingface_hub's cache, and what cpuft made."""

from collections.abc import Iterator
from pathlib import Path

from cpuft.errors import ModelError
from cpuft.gguf.reader import read_gguf
from cpuft.ollama import store
from cpuft.sources import hub
from cpuft.sources.checkpoint import converted_folder
from cpuft.sources.source import OLLAMA, Source, from_hub, from_ollama

# Where, below the working directory, cpuft's commands put what they make unless told otherwise.
ARTIFACTS = Path("artifacts")


def local_sources() -> Iterator[Source]:
    """Every model that a reference reaches without a download. Files that are no models are left out."""
    for model in store.all_models():
        try:
            yield from_ollama(f"{OLLAMA}{model.name}", model)
        except ModelError:
            continue  # it has no GGUF file, or not all of it yet
    for file, path in hub.cached_models():
        yield from_hub(file, path)
    for folder in (converted_folder(), ARTIFACTS):
        for path in sorted(folder.rglob("*.gguf")):
            if _is_model(path):
                yield Source(str(path), path, {"kind": "artifact"})


def _is_model(path: Path) -> bool:
    """Whether a GGUF file is no adapter, importance matrix or projector; a damaged one counts, so that it is seen."""
    try:
        return bool(read_gguf(path).get("general.type", "model") == "model")
    except ModelError:
        return True
