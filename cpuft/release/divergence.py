"""How far a model's predictions are from another's at the supervised tokens of a data set.

Logits of a whole data set may take many gigabytes. So the reference's are written to a temporary file, example by
example, and read back beside those of each model that is compared: one model is open and no more than LOGITS of its
logits are in memory at a time.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from cpuft.data.examples import Example
from cpuft.engine import Engine, FloatArray
from cpuft.errors import ModelError
from cpuft.machine.disk import disk_errors, require_space
from cpuft.machine.progress import Progress, silent

Float64Array = npt.NDArray[np.float64]
LOGITS = 1 << 24  # that are computed at a time: the whole head is read for every 110 rows of Qwen2.5's vocabulary
BLOCK_VALUES = 1 << 21  # logits that are turned into float64 at a time


@dataclass(frozen=True)
class Divergence:
    """How a model does on the supervised tokens, all means over them in nats.

    loss:     -log p(token).
    kl:       KL(reference || model) = sum over the vocabulary of p_reference (log p_reference - log p_model).
    same_top: the share of tokens at which both find the same token the most likely one.
    """

    n_tokens: int
    loss: float
    kl: float
    same_top: float

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return float(np.exp(self.loss))


class ReferenceLogits:
    """What a model predicts at every supervised token, on disk. Use it as a context manager.

    The file has no name, so nothing of it is left behind, even by a killed process.
    Raises ResourceError where the disk cannot hold it.
    """

    def __init__(self, engine: Engine, examples: Sequence[Example], progress: Progress = silent) -> None:
        self._examples, self._width, self._progress = examples, int(engine.facts["n_vocab"]), progress
        self.n_bytes = sum(example.n_supervised for example in examples) * self._width * np.dtype(np.float32).itemsize
        folder = Path(tempfile.gettempdir())
        mend = "give --limit for fewer examples, or set TMPDIR to another disk"
        require_space(folder, self.n_bytes, "keeping the logits of the validation data", mend)
        self._file = tempfile.TemporaryFile(prefix="cpuft-logits-")  # noqa: SIM115 - closed by close()
        losses = []
        for targets, logits in self._predictions(engine, "base + adapter"):
            with disk_errors(folder, full=mend):
                self._file.write(logits.data)
            for rows in _slices(len(targets), BLOCK_VALUES // self._width):
                labels = targets[rows]
                losses.append(-_log_softmax(logits[rows])[np.arange(labels.size), labels])
        loss = float(np.concatenate(losses).mean())
        self.own = Divergence(sum(map(len, losses)), loss, kl=0.0, same_top=1.0)

    def compare(self, engine: Engine, name: str) -> Divergence:
        """How far an engine's model is from the reference. `name` is shown while it computes.

        Raises ModelError where the model has another vocabulary or gives values that are not finite.
        """
        if int(engine.facts["n_vocab"]) != self._width:
            raise ModelError(
                f"{name}: the vocabulary has {engine.facts['n_vocab']} tokens, expected {self._width} as in the base"
            )
        self._file.seek(0)
        n_tokens, loss, divergence, n_same = 0, 0.0, 0.0, 0
        for targets, logits in self._predictions(engine, name):
            stored = np.fromfile(self._file, np.float32, logits.size).reshape(logits.shape)
            for rows in _slices(len(targets), BLOCK_VALUES // self._width):
                labels, mine, theirs = targets[rows], logits[rows], stored[rows]
                model, reference = _log_softmax(mine), _log_softmax(theirs)
                n_tokens += labels.size
                loss -= float(model[np.arange(labels.size), labels].sum())
                divergence += float((np.exp(reference) * (reference - model)).sum())
                n_same += int((mine.argmax(axis=1) == theirs.argmax(axis=1)).sum())
        if not np.isfinite(loss + divergence):
            raise ModelError(f"{name}: the model predicts values that are not finite")
        return Divergence(n_tokens, loss / n_tokens, max(0.0, divergence / n_tokens), n_same / n_tokens)

    def close(self) -> None:
        """Frees the disk."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _predictions(self, engine: Engine, name: str) -> Iterator[tuple[npt.NDArray[np.int32], FloatArray]]:
        """All supervised tokens, some at a time (n), with the logits (n, V) that predict them."""
        total = sum(example.tokens.size for example in self._examples)
        done = 0
        for example in self._examples:
            positions = np.flatnonzero(example.supervised)
            read = example.tokens[: positions[-1]]  # what is behind predicts nothing that counts
            hidden = engine.forward_hidden(read, np.array([read.size], np.int64))[positions - 1]
            targets = example.tokens[positions]
            for rows in _slices(len(targets), LOGITS // self._width):
                yield targets[rows], engine.logits_of(hidden[rows])
            done += example.tokens.size
            self._progress(name, done, total, "token")


def _slices(n: int, step: int) -> Iterator[slice]:
    """[0, n) in steps."""
    step = max(1, step)
    for first in range(0, n, step):
        yield slice(first, first + step)


def _log_softmax(logits: FloatArray) -> Float64Array:
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values
