"""GGUF files of the Hugging Face Hub, through huggingface_hub: its cache, its token, its endpoint and its progress bar.

A file that is in the cache is used without asking the hub. A download that was broken off, by the network, Ctrl-C or
kill -9, is taken up where it stopped: huggingface_hub itself throws away what an ended process has fetched.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cpuft.errors import ModelError
from cpuft.machine.disk import disk_errors
from cpuft.machine.files import sync

MAIN = "main"
SUFFIX = ".gguf"
# "NAME-00001-of-00003.gguf": how llama-gguf-split names the parts of a model.
SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
MAX_LISTED = 12

_SHA256 = re.compile(r"[0-9a-f]{64}")

_REFERENCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+?))?(?:/(?P<file>.+\.gguf))?", re.ASCII)


@dataclass(frozen=True)
class HubFile:
    """A file of a model repository, as `ORG/REPO[@REVISION]/FILE.gguf` names it."""

    repo: str
    file: str
    revision: str = MAIN

    def __str__(self) -> str:
        """The reference that names it."""
        return f"hf:{self._repository}/{self.file}"

    @property
    def _repository(self) -> str:
        return self.repo if self.revision == MAIN else f"{self.repo}@{self.revision}"

    def sibling(self, file: str) -> "HubFile":
        """Another file of the same repository and revision."""
        return HubFile(self.repo, file, self.revision)


def parse_file(text: str) -> HubFile:
    """The file of a reference without its `hf:`. Raises ModelError for another form and for a part of a split model."""
    found = _REFERENCE.fullmatch(text.removeprefix("//"))
    if found is None or ".." in text or found["repo"].endswith(SUFFIX):
        raise ModelError(f"hf:{text}: expected hf:ORG/REPO/FILE.gguf, or hf:ORG/REPO@REVISION/FILE.gguf")
    file = HubFile(found["repo"], found["file"] or "", found["revision"] or MAIN)
    if not file.file:
        raise ModelError(f"hf:{text}: names a repository, expected one of its GGUF files{_choice(file)}")
    if parts := SPLIT.search(file.file):
        raise ModelError(
            f"{file}: one part of a model that is split into {int(parts[1])} files, expected a model in one file: take "
            "a smaller quantization, or join the parts with llama-gguf-split --merge and give the path"
        )
    return file


def cached_path(file: HubFile) -> Path | None:
    """Where the file lies in huggingface_hub's cache; None where it does not."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(file.repo, file.file, revision=file.revision)
    return Path(found) if isinstance(found, str) else None


def download(file: HubFile) -> Path:
    """The file's path in the cache, brought up to date from the hub. Raises ModelError, ResourceError (a full disk)."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    with disk_errors(Path(constants.HF_HUB_CACHE)), _naming_faults(file):
        url = hf_hub_url(file.repo, file.file, revision=file.revision)
        # Asked first, because hf_hub_download tries for half a minute before it says that there is no network.
        metadata = get_hf_file_metadata(url)
        if metadata.etag and _SHA256.fullmatch(metadata.etag) and metadata.size:  # every file of a model's size
            _fetch_blob(file, url, metadata.etag, metadata.size)
        return Path(hf_hub_download(file.repo, file.file, revision=file.revision))


def _fetch_blob(file: HubFile, url: str, sha256: str, size: int) -> None:
    """Puts the content of `url` where hf_hub_download looks for it, going on with what an ended process has left."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

    cache, folder = Path(constants.HF_HUB_CACHE), repo_folder_name(repo_id=file.repo, repo_type="model")
    blob, lock = cache / folder / "blobs" / sha256, cache / ".locks" / folder / f"{sha256}.lock"
    partial = blob.with_name(f"{sha256}.cpuft.incomplete")
    for place in (blob, lock):
        place.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):  # huggingface_hub's own: one process at a time fetches a file
        if blob.exists():
            return
        if partial.exists() and partial.stat().st_size > size:
            partial.unlink()
        with partial.open("ab") as stream:
            http_get(url, stream, resume_size=stream.tell(), headers=build_hf_headers(), expected_size=size)
        with partial.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256:
            partial.unlink()
            raise ModelError(f"{file}: what was fetched is damaged (its SHA-256 is {found}): run the command again")
        sync(partial)
        partial.replace(blob)


def cached_models() -> Iterator[tuple[HubFile, Path]]:
    """Every GGUF file in huggingface_hub's cache, parts of split models left out."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        for revision in repo.revisions:
            name = MAIN if not revision.refs or MAIN in revision.refs else min(revision.refs)
            for cached in sorted(revision.files, key=lambda cached: cached.file_path):
                file = cached.file_path.relative_to(revision.snapshot_path).as_posix()
                if repo.repo_type == "model" and file.endswith(SUFFIX) and not SPLIT.search(file):
                    yield HubFile(repo.repo_id, file, name), cached.file_path


@contextmanager
def _naming_faults(file: HubFile) -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence that says what to do."""
    import httpx2
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{file.repo}"
    hub, instead = constants.ENDPOINT, "or give the path of a GGUF file that is here"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{file}: the repository is gated: accept its licence at {page}, then set HF_TOKEN to a token of your "
            "account or run `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{file}: the repository has no revision {file.revision}: see {page}") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{file}: no such repository, or a private one: check the name; for a private one set HF_TOKEN or run "
            "`hf auth login`"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise ModelError(f"{file}: the repository has no such file{_choice(file)}") from error
    except (httpx2.ConnectError, httpx2.ConnectTimeout, errors.LocalEntryNotFoundError) as error:
        raise ModelError(f"{file}: {hub} cannot be reached: connect to the network, {instead}") from error
    except errors.OfflineModeIsEnabled as error:
        raise ModelError(f"{file}: not fetched because HF_HUB_OFFLINE is set: unset it, {instead}") from error
    except errors.FileMetadataError as error:
        raise ModelError(
            f"{file}: {hub} does not answer like a Hugging Face Hub: check HF_ENDPOINT, proxy and firewall"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = "check HF_TOKEN and what it may read" if status in (401, 403) else "try again later"
        raise ModelError(f"{file}: {hub} refused it with status {status}: {advice}") from error
    except errors.HFValidationError as error:
        raise ModelError(f"{file}: {' '.join(str(error).split())}") from error
    except (httpx2.HTTPError, ConnectionError) as error:
        raise ModelError(f"{file}: the download broke off ({error}): run the command again") from error
    except OSError as error:
        if "Consistency check failed" not in str(error):
            raise
        raise ModelError(f"{file}: the download is not complete: run the command again") from error


def _choice(file: HubFile) -> str:
    """The GGUF files of the repository, as the end of a sentence; empty where the hub cannot be asked."""
    import httpx2
    from huggingface_hub import errors, model_info

    try:
        files = [entry.rfilename for entry in model_info(file.repo, revision=file.revision).siblings or []]
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.HFValidationError, httpx2.HTTPError, OSError):
        return ""
    models = sorted(name for name in files if name.endswith(SUFFIX) and not SPLIT.search(name))
    if not models:
        return f"; {file.repo} has no GGUF file in one piece: look for a repository whose name ends in GGUF"
    more = f" and {len(models) - MAX_LISTED} more" if len(models) > MAX_LISTED else ""
    return f"; it has {', '.join(str(file.sibling(name)) for name in models[:MAX_LISTED])}{more}"
