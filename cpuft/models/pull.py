"""Fetches models: through a running Ollama, or from the Hugging Face Hub."""

from cpuft.errors import ConfigError, ModelError, ResourceError, UserError
from cpuft.models import hub
from cpuft.models.checkpoint_folder import Progress
from cpuft.models.ollama_store import OllamaName, parse_name
from cpuft.models.source import HUB, OLLAMA, Source, from_hub, resolve


def is_here(reference: str) -> bool:
    """Whether `ollama:` or `hf:` names something that is on this machine already, perhaps in an older version."""
    try:
        if reference.startswith(HUB):
            return hub.cached_path(hub.parse_file(reference.removeprefix(HUB))) is not None
        return resolve(reference).path.is_file()
    except ModelError:
        return False


def pull(reference: str, progress: Progress, alias: str = "") -> Source:
    """Fetches the newest version of what `ollama:` or `hf:` names.

    alias: a second name for a model of Ollama's, which it gets unless Ollama has a model of that name.
    progress: called with a layer of Ollama's, its bytes so far and all of them; huggingface_hub shows its own bar.
    Raises ModelError (unknown, refused, unreachable), ConfigError (nothing that can be pulled), ResourceError.
    """
    if reference.startswith(HUB):
        file = hub.parse_file(reference.removeprefix(HUB))
        return from_hub(file, hub.download(file))
    if reference.startswith(OLLAMA):
        _pull_from_ollama(parse_name(reference.removeprefix(OLLAMA)), progress, parse_name(alias) if alias else None)
        return _found(reference)
    raise ConfigError(f"{reference}: cannot be pulled, expected ollama:NAME[:TAG] or hf:ORG/REPO/FILE.gguf")


def _pull_from_ollama(name: OllamaName, progress: Progress, alias: OllamaName | None) -> None:
    """Lets the Ollama at OLLAMA_HOST pull a model into its store; an interrupted pull goes on where it stopped."""
    import httpx  # these two take long to import, and `cpuft models show` and `list` do without them
    import ollama

    try:
        with ollama.Client() as client:
            for state in client.pull(str(name), insecure=name.plain_http, stream=True):
                if state.total:
                    progress((state.digest or "")[7:19], state.completed or 0, state.total)
            if alias is not None and str(alias) not in {entry.model for entry in client.list().models}:
                client.copy(str(name), str(alias))
    except httpx.ConnectError as error:
        raise _unreachable(name) from error
    except httpx.TransportError as error:
        raise ModelError(f"ollama:{name}: the connection to Ollama broke off ({error}): run it again") from error
    except ollama.ResponseError as error:
        raise _refused(name, error.error) from error


def _unreachable(name: OllamaName) -> UserError:
    return ModelError(
        f"ollama:{name}: no Ollama answers: start it with `ollama serve`, or name its address with OLLAMA_HOST "
        "(without Ollama, take the model as hf:ORG/REPO/FILE.gguf)"
    )


def _refused(name: OllamaName, cause: str) -> UserError:
    if "no space left" in cause:
        return ResourceError(f"ollama:{name}: the disk of Ollama's store is full: free some space and pull again")
    advice = "check the name at https://ollama.com/search" if "does not exist" in cause else "try again later"
    return ModelError(f"ollama:{name}: Ollama could not pull it ({cause}): {advice}")


def _found(reference: str) -> Source:
    """The source of what was just pulled: it lies in a store of this machine only if the server runs here."""
    try:
        return resolve(reference)
    except ModelError as error:
        raise ModelError(
            f"{reference}: Ollama has pulled it, but not into a store that cpuft can read ({error}): set OLLAMA_MODELS "
            "to the store of that server"
        ) from error
