"""The models that Ollama has on this machine, read from its store without a server.

A store holds manifests/HOST/NAMESPACE/MODEL/TAG, a JSON list of layers, and blobs/sha256-DIGEST, their contents. One
layer is the GGUF model.
"""

import difflib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cpuft.errors import ModelError
from cpuft.ollama.names import OllamaName, parse_name

# Where the service that Ollama's installer sets up on Linux keeps its models.
SERVICE_STORE = Path("/usr/share/ollama/.ollama/models")
MODEL, ADAPTER, PROJECTOR, TEMPLATE, LICENSE = "model", "adapter", "projector", "template", "license"
MEDIA_TYPE = "application/vnd.ollama.image."
MAX_MANIFEST_BYTES = 1 << 20  # real ones have about a thousand
MAX_TEXT_BYTES = 1 << 20

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class NotPulledError(ModelError):
    """What `ollama pull` would mend: the store has no such model, or not all of it."""


@dataclass(frozen=True)
class Layer:
    """A part of a model: what it is ("model", "template", "license", …), where it lies, its size by the manifest."""

    kind: str
    path: Path
    size: int

    def text(self) -> str:
        """The content of a small text layer; empty where it cannot be read."""
        try:
            with self.path.open("rb") as stream:
                return stream.read(MAX_TEXT_BYTES).decode(errors="replace")
        except OSError:
            return ""


@dataclass(frozen=True)
class OllamaModel:
    """A model in a store."""

    name: OllamaName
    store: Path
    layers: tuple[Layer, ...]

    def of_kind(self, kind: str) -> list[Layer]:
        """The layers of one kind, in the manifest's order."""
        return [layer for layer in self.layers if layer.kind == kind]

    @property
    def gguf(self) -> Path:
        """The GGUF file. Raises ModelError where there is none or several, NotPulledError where not all is there."""
        models = self.of_kind(MODEL)
        if not models:
            kinds = ", ".join(sorted({layer.kind for layer in self.layers})) or "no layers"
            raise ModelError(
                f"ollama:{self.name}: the model has no GGUF file (its layers are: {kinds}): choose one that Ollama "
                "runs from GGUF"
            )
        if len(models) > 1:
            raise ModelError(
                f"ollama:{self.name}: the model is split into {len(models)} GGUF files, expected one: take another tag"
            )
        found = _size(models[0].path)
        if found != models[0].size:
            state = "is missing" if found is None else f"has {found} of {models[0].size} bytes"
            raise NotPulledError(
                f"ollama:{self.name}: the file {models[0].path} {state}: fetch it again with `ollama pull {self.name}`"
            )
        return models[0].path


def stores() -> list[Path]:
    """The stores to look in: what OLLAMA_MODELS names, else the user's own and the system service's, where they exist.

    Raises ModelError where OLLAMA_MODELS names nothing.
    """
    explicit = os.environ.get("OLLAMA_MODELS", "").strip()
    if explicit:
        store = Path(explicit).expanduser()
        if not store.is_dir():
            raise ModelError(f"{store}: no such folder, but OLLAMA_MODELS names it as Ollama's store: mend or unset it")
        return [store]
    return [store for store in (Path.home() / ".ollama" / "models", SERVICE_STORE) if _is_folder(store)]


def find_model(text: str) -> OllamaModel:
    """The model of a name, from the first store that has it. Raises ModelError; NotPulledError says how to fetch it."""
    name = parse_name(text)
    places = stores()
    for store in places:
        if (manifest := _read_manifest(store / "manifests" / name.path)) is not None:
            return OllamaModel(name, store, tuple(_layers(manifest, store)))
    for model in all_models():  # Ollama, too, takes a name in other letter cases
        if model.name.is_same(name):
            return model
    fetch = f"fetch it with `cpuft models pull ollama:{name}`, or name the store with OLLAMA_MODELS"
    if not places:
        raise NotPulledError(f"ollama:{name}: Ollama has no store on this machine: {fetch}")
    raise NotPulledError(
        f"ollama:{name}: not in Ollama's store ({', '.join(map(str, places))}){_alternatives(name)}: {fetch}"
    )


def all_models() -> Iterator[OllamaModel]:
    """Every model of every store; manifests that cannot be read are left out, as Ollama does."""
    for store in stores():
        root = store / "manifests"
        for path in sorted(_glob(root)):
            try:
                host, namespace, model, tag = path.relative_to(root).parts
                name = OllamaName(host, namespace, model, tag)
                manifest = _read_manifest(path)
            except ModelError:
                continue
            if manifest is not None and not name.faults:
                yield OllamaModel(name, store, tuple(_layers(manifest, store)))


def _alternatives(name: OllamaName) -> str:
    """What the stores have instead: the same model under other tags, else names that look alike."""
    names = [replace(model.name, plain_http=False) for model in all_models()]
    same = [str(other) for other in names if other.path.parts[:3] == name.path.parts[:3]]
    near = same or difflib.get_close_matches(str(name), [str(other) for other in names], 3, 0.5)
    return f", which has {', '.join(near)}" if near else ""


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """A manifest; None where there is none."""
    try:
        with path.open("rb") as stream:
            manifest = json.loads(stream.read(MAX_MANIFEST_BYTES))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise ModelError(
            f"{path}: cannot read Ollama's manifest: {error.strerror}: ask for read access to the store"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: Ollama's manifest is damaged: pull the model again") from error
    if not isinstance(manifest, dict):
        raise ModelError(f"{path}: Ollama's manifest is damaged: pull the model again")
    return manifest


def _layers(manifest: dict[str, Any], store: Path) -> Iterator[Layer]:
    """The well-formed layers of a manifest."""
    layers = manifest.get("layers")
    for layer in layers if isinstance(layers, list) else []:
        fields = layer if isinstance(layer, dict) else {}
        digest = _DIGEST.fullmatch(str(fields.get("digest")))
        size = fields.get("size")
        if digest is not None and isinstance(size, int):
            kind = str(fields.get("mediaType", "")).removeprefix(MEDIA_TYPE)
            yield Layer(kind, store / "blobs" / f"sha256-{digest[1]}", size)


def _glob(root: Path) -> list[Path]:
    try:
        return [path for path in root.glob("*/*/*/*") if path.is_file()]
    except OSError:
        return []


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return True  # it is there, and reading from it will say why it cannot be read


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
