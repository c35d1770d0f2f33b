"""The importance matrix that a user names: a file of llama-imatrix, or training data that one is computed from.

The model reads the training text as its chat template writes it, with the adapter on it, because the merged model is
what will be quantized. What was computed is kept and found again by everything that it depends on:

CACHE/imatrix/KEY.gguf    KEY: digest of model, adapter, text, context and build of llama.cpp
"""

import hashlib
import tempfile
from pathlib import Path

from cpuft import toolchain
from cpuft.chat.template import ANY_DAY
from cpuft.data.batches import epoch_order
from cpuft.data.dataset import formatter_of, load_dataset
from cpuft.data.examples import Formatter
from cpuft.data.records import read_records
from cpuft.engine import Engine
from cpuft.errors import DatasetError, ExampleError
from cpuft.gguf.reader import read_gguf
from cpuft.machine.cache import cache_dir
from cpuft.machine.disk import disk_errors
from cpuft.machine.progress import Progress, silent
from cpuft.release.importance import ImportanceMatrix, compute_imatrix, is_imatrix, read_imatrix

CONTEXT = 512  # tokens that are read at a time, llama-imatrix's own default
# More text changes the means by less than one sees in the result, and a model of 3B reads it in minutes on a CPU.
MAX_TOKENS = 100_000
MIN_CONTEXT = 16  # llama-imatrix passes over products with fewer tokens


def importance_matrix(
    source: Path, model: Path, *, adapter: Path | None = None, threads: int = 0, progress: Progress = silent
) -> ImportanceMatrix:
    """Reads `source` where it is an importance matrix; computes one for model + adapter where it is a data set.

    Raises ModelError or DatasetError.
    """
    return read_imatrix(source if is_imatrix(source) else _computed(source, model, adapter, threads, progress))


def calibration_text(engine: Engine, formatter: Formatter, data: Path, max_tokens: int = MAX_TOKENS) -> str:
    """What is trained on, example after example in an order that mixes them, up to about so many tokens.

    Raises DatasetError, which lists the faults of all examples by file:line.
    """
    most = int(engine.facts["n_ctx_train"])
    load_dataset(data, formatter, max_length=most, limit="the model's context length", truncate=False)
    records = [record for _, record in read_records(data) if not isinstance(record, ExampleError)]
    texts = [text for record in records for text in formatter.texts(record)]
    parts, n_tokens = [], 0
    for i in epoch_order(len(texts), seed=0, epoch=0):
        length = len(engine.tokenize(texts[i]))
        if n_tokens > 0 and n_tokens + length > max_tokens:
            break
        parts.append(texts[i])
        n_tokens += length
    return "".join(parts)


def _computed(data: Path, model: Path, adapter: Path | None, threads: int, progress: Progress) -> Path:
    """The file in the cache, computed where it is not there yet."""
    with Engine(model, threads=threads) as engine:
        text = calibration_text(engine, formatter_of(read_gguf(model), engine, ANY_DAY), data)
        n_tokens = len(engine.tokenize(text, add_special=True))
        context = min(CONTEXT, int(engine.facts["n_ctx_train"]), n_tokens // 2)
    if context < MIN_CONTEXT:
        raise DatasetError(
            f"{data}: {n_tokens} tokens, expected at least {2 * MIN_CONTEXT} to compute an importance matrix from"
        )
    file = cache_dir() / "imatrix" / f"{_key(model, adapter, text, context)}.gguf"
    if file.exists():
        return file
    with disk_errors(file), tempfile.TemporaryDirectory(prefix="cpuft-text-") as folder:
        file.parent.mkdir(parents=True, exist_ok=True)
        written = Path(folder) / data.name  # the matrix takes down this name
        with disk_errors(written):
            written.write_text(text, encoding="utf-8")
        compute_imatrix(
            model,
            written,
            file,
            context=context,
            adapter=adapter,
            threads=threads,
            progress=progress,
            n_chunks=n_tokens // context,
        )
    return file


def _key(model: Path, adapter: Path | None, text: str, context: int) -> str:
    parts = [toolchain.locate().root.name, str(context), hashlib.sha256(text.encode()).hexdigest()]
    for path in (model, adapter):
        if path is not None:
            with path.open("rb") as stream:
                parts.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
