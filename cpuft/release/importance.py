"""Importance matrices: how much each column of a weight matters to the model's answers, as llama-imatrix measures it.

A column's importance is the mean square of the input that it is multiplied with, over the tokens of a text. A quantizer
that knows it spends its precision where that input is large. Files come in two formats: GGUF, and the older binary one.
"""

import io
import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cpuft import toolchain
from cpuft.errors import ModelError, ResourceError
from cpuft.gguf import writer
from cpuft.gguf.reader import MAGIC, Field, Gguf, Tensor, read_gguf
from cpuft.machine.child_process import bound
from cpuft.machine.disk import free_bytes
from cpuft.machine.files import atomic_write
from cpuft.machine.progress import Progress, silent

FloatArray = npt.NDArray[np.float32]
SUMS, COUNTS = ".in_sum2", ".counts"
EMBEDDING = (
    "token_embd.weight"  # rows are looked up, not multiplied: what a file says of it is ignored where it misfits
)
CHUNK_DONE = re.compile(rb"\[(\d+)\]")  # "[1]23.5790,[2]17.1267,": the perplexity after each chunk


@dataclass(frozen=True)
class ImportanceMatrix:
    """A checked file: all values are finite and none is negative.

    dataset: the name of the text that it was computed from, "" where the file does not say.
    values:  weight name -> the importance of its columns, those of one expert after those of another.
    """

    path: Path
    dataset: str
    n_chunks: int
    values: dict[str, FloatArray]

    def of(self, tensor: Tensor) -> FloatArray | None:
        """[matrices, columns] of a weight, of which an expert layer has several; None where nothing is known of it.

        Raises ModelError where the file was computed from a model of other shapes.
        """
        values = self.values.get(tensor.name)
        n_matrices = int(np.prod(tensor.shape[:-2], dtype=np.int64))
        if values is not None and values.size == n_matrices * tensor.columns:
            return values.reshape(n_matrices, tensor.columns)
        if values is None or tensor.name == EMBEDDING:
            return None
        raise ModelError(
            f"{self.path}: the importance of {tensor.name} has {values.size} values, expected "
            f"{n_matrices * tensor.columns}: the matrix was computed from another model"
        )

    def notes(self) -> list[Field]:
        """The metadata by which llama-quantize says what it used, with names of files and not their folders."""
        notes = [writer.text("quantize.imatrix.file", self.path.name)]
        if self.dataset:
            notes.append(writer.text("quantize.imatrix.dataset", self.dataset))
        notes.append(writer.u32("quantize.imatrix.entries_count", len(self.values)))
        if self.n_chunks > 0:
            notes.append(writer.u32("quantize.imatrix.chunks_count", self.n_chunks))
        return notes


def is_imatrix(path: Path) -> bool:
    """Whether a file is a matrix in either format rather than text, by its first bytes."""
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise ModelError(f"{path}: cannot read the importance matrix: {error.strerror}") from error
    return head[:4] == MAGIC or b"\0" in head


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Reads what llama-imatrix wrote, as llama-quantize reads it. Raises ModelError."""
    if not is_imatrix(path):
        raise ModelError(f"{path}: not an importance matrix, expected a file that llama-imatrix wrote")
    with path.open("rb") as stream:
        matrix = _from_gguf(read_gguf(path)) if stream.read(4) == MAGIC else _from_binary(path)
    for name, values in matrix.values.items():
        if not np.isfinite(values).all() or (values < 0).any():
            raise ModelError(f"{path}: the importance of {name} holds values that no mean square can have")
    if not matrix.values:
        raise ModelError(f"{path}: the importance matrix is empty: compute it again")
    return matrix


def compute_imatrix(
    model: Path,
    text: Path,
    output: Path,
    *,
    context: int,
    adapter: Path | None = None,
    threads: int = 0,
    progress: Progress = silent,
    n_chunks: int = 0,
) -> None:
    """Runs llama-imatrix on a model, with an adapter on top of it, and writes the file whole or not at all.

    text:     what the model shall read, at least 2 * context tokens; control tokens in it count as tokens. The file
              takes down the name of the text.
    context:  tokens that are read at a time.
    progress: hears of such chunks, of which there are n_chunks where that is known.
    Raises ModelError with llama-imatrix's own words.
    """
    with tempfile.TemporaryDirectory(prefix="cpuft-imatrix-") as folder, atomic_write(output) as result:
        command = [str(toolchain.locate().tool("llama-imatrix")), "--model", str(model.absolute()), "--file", text.name]
        command += ["--ctx-size", str(context), "--batch-size", str(context), "--ubatch-size", str(context)]
        command += ["--parse-special", "--output-format", "gguf", "--output-file", str(result.absolute())]
        command += ["--threads", str(threads)] if threads else []
        if adapter is not None:
            link = Path(folder) / "adapter.gguf"  # --lora splits what it is given at commas
            link.symlink_to(adapter.absolute())
            command += ["--lora", str(link)]
        log = Path(folder) / "log"
        with log.open("wb") as errors:
            status = _run(command, text.parent, errors.fileno(), progress, n_chunks)
        if status != 0:
            raise ModelError(f"{model}: llama-imatrix cannot read it: {_first_error(log, status)}")
        _require_whole(result, output)


def _run(command: list[str], folder: Path, errors: int, progress: Progress, n_chunks: int) -> int:
    environment = toolchain.tool_environment()
    with subprocess.Popen(
        bound(command), cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
    ) as process:
        printed_to = process.stdout
        assert isinstance(printed_to, io.BufferedReader)
        try:
            for printed in iter(printed_to.read1, b""):
                done = CHUNK_DONE.findall(printed)
                if done:
                    progress("importance matrix", int(done[-1]), n_chunks, "chunk")
        except BaseException:
            process.kill()
            raise
    return process.returncode


def _require_whole(result: Path, output: Path) -> None:
    """Raises ResourceError unless llama-imatrix could write all of it: on a full disk it ends with status 0, too."""
    try:
        read_gguf(result)
    except ModelError as error:
        raise ResourceError(
            f"{output}: llama-imatrix wrote no whole file ({free_bytes(output) / 1e6:,.1f} MB are "
            "free on that disk): free some space and run the command again"
        ) from error


def _first_error(log: Path, status: int) -> str:
    """The first error that llama.cpp logged ("0.00.023.766 E compute_imatrix: …"): the later ones are consequences."""
    found = re.search(r"^\S+ E (.*)$", log.read_text(errors="replace"), re.MULTILINE)
    return found[1].strip() if found else f"exit status {status}"


def _from_gguf(file: Gguf) -> ImportanceMatrix:
    datasets = file.get("imatrix.datasets")
    if not isinstance(datasets, list) or file.integer("imatrix.chunk_size", 0) < 1:
        raise ModelError(f"{file.path}: not an importance matrix, expected a file that llama-imatrix wrote")
    values = {}
    with file.path.open("rb") as stream:

        def floats(name: str) -> FloatArray:
            tensor = file.tensors.get(name)
            if tensor is None or tensor.type.name != "f32":
                raise ModelError(f"{file.path}: {name} is missing or not F32, so the importance matrix is damaged")
            return file.read_rows(stream, tensor, 0, tensor.rows).view(np.float32)

        for name in [name.removesuffix(SUMS) for name in file.tensors if name.endswith(SUMS)]:
            sums, counts = floats(name + SUMS), np.rint(floats(name + COUNTS))
            if sums.size % counts.size:
                raise ModelError(f"{file.path}: {name} has {sums.size} sums for {counts.size} counts: it is damaged")
            with np.errstate(all="ignore"):  # what is not finite then is refused
                means = np.divide(sums.reshape(counts.size, -1), counts[:, None], dtype=np.float32)
            means[counts <= 0] = 1  # an expert that the text never reached
            values[name] = means.reshape(-1)
    dataset = Path(str(datasets[0])).name if datasets else ""
    return ImportanceMatrix(file.path, dataset, file.integer("imatrix.chunk_count", 0), values)


def _from_binary(path: Path) -> ImportanceMatrix:
    """The format before GGUF: name, calls, and sums over calls of each entry; then the chunks and the text's name."""
    data = path.read_bytes()
    position, values = 4, {}

    def number() -> int:
        nonlocal position
        position += 4
        return int(struct.unpack_from("<i", data, position - 4)[0])

    def text() -> str:
        nonlocal position
        start = position + 4
        position = start + max(0, number())
        return data[start:position].decode(errors="replace")

    try:
        for _ in range(struct.unpack_from("<i", data)[0]):
            name, n_calls, n_values = text(), number(), number()
            sums: FloatArray = np.frombuffer(data, np.float32, max(0, n_values), position)
            position += sums.nbytes
            values[name] = np.divide(sums, max(1, n_calls), dtype=np.float32)
        n_chunks, dataset = (number(), Path(text()).name) if position < len(data) else (0, "")
    except (struct.error, ValueError):
        raise ModelError(f"{path}: not an importance matrix, or a damaged one: compute it again") from None
    return ImportanceMatrix(path, dataset, n_chunks, values)
