"""Fetches models: through a running Ollama, or from the Hugging Face Hub."""

from cpuft.errors import ConfigError, ModelError, OllamaError
from cpuft.machine.progress import Progress
from cpuft.ollama.names import parse_name
from cpuft.sources import hub
from cpuft.sources.source import HUB, OLLAMA, Source, from_hub, resolve


def is_here(reference: str) -> bool:
    """Whether `ollama:` or `hf:` names something that is on this machine already, perhaps in an older version."""
    try:
        if reference.startswith(HUB):
            return hub.cached_path(hub.parse_file(reference.removeprefix(HUB))) is not None
        return resolve(reference).path.is_file()
    except (ModelError, OllamaError):
        return False


def pull(reference: str, progress: Progress, alias: str = "") -> Source:
    """Fetches the newest version of what `ollama:` or `hf:` names.

    alias: a second name for a model of Ollama's, which it gets unless Ollama has a model of that name.
    progress: called with a layer of Ollama's, its bytes so far and all of them; huggingface_hub shows its own bar.
    Raises OllamaError or ModelError (unknown, refused, unreachable), ConfigError (nothing that can be pulled) or
    ResourceError.
    """
    if reference.startswith(HUB):
        file = hub.parse_file(reference.removeprefix(HUB))
        return from_hub(file, hub.download(file))
    if reference.startswith(OLLAMA):
        from cpuft.ollama.server import connection  # it takes long to import, and `cpuft models show` does without it

        name = parse_name(reference.removeprefix(OLLAMA))
        with connection(progress=progress, about=reference) as server:
            server.fetch(name, parse_name(alias) if alias else None)
        return _found(reference)
    raise ConfigError(f"{reference}: cannot be pulled, expected ollama:NAME[:TAG] or hf:ORG/REPO/FILE.gguf")


def _found(reference: str) -> Source:
    """The source of what was just pulled: it lies in a store of this machine only if the server runs here."""
    try:
        return resolve(reference)
    except ModelError as error:
        raise ModelError(
            f"{reference}: Ollama has pulled it, but not into a store that cpuft can read ({error}): set OLLAMA_MODELS "
            "to the store of that server"
        ) from error
