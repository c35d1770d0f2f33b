"""How well two models predict text that has nothing to do with what one of them was tuned for."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cpuft.adapters.adapter import check_base, read_adapter
from cpuft.adapters.attachment import attach_for_inference
from cpuft.engine import Batch, Engine
from cpuft.errors import DatasetError, ModelError
from cpuft.evaluate.comparison import Mean, difference
from cpuft.gguf.reader import read_gguf
from cpuft.machine.progress import Progress, silent

NEUTRAL = Path(__file__).parent / "neutral.txt"
# The engine's own choice: on Qwen2.5-Coder 0.5B it is twice as fast as float32, and its perplexity is 0.2 % higher, of
# base and tuned model alike.
PRECISION = None


@dataclass(frozen=True)
class TextLoss:
    """A model's losses on passages of text.

    losses: of each passage, the sum of -log p over its tokens, in nats, [n]. tokens: what these are, a tuple each.
    """

    losses: tuple[float, ...]
    tokens: tuple[tuple[int, ...], ...]

    @property
    def n_tokens(self) -> int:
        """How many tokens are predicted: all of a passage but its first."""
        return sum(len(passage) - 1 for passage in self.tokens)

    @property
    def mean(self) -> float:
        """The mean loss over all predicted tokens, in nats."""
        return sum(self.losses) / self.n_tokens

    @property
    def perplexity(self) -> float:
        """exp of the mean loss."""
        return math.exp(self.mean)


@dataclass(frozen=True)
class TextChange:
    """How base and tuned model predict the same passages."""

    base: TextLoss
    tuned: TextLoss

    @property
    def nats(self) -> Mean:
        """How much more the tuned model loses, nats a token, paired by passage.

        The mean over passages of d_i = (L_i' - L_i) n / N, where L are a passage's losses, n the passages and N all
        tokens, is the difference of the mean losses over tokens. Models that lose alike to the last bit on every
        passage compute the same, so there is nothing that other passages could show.
        """
        if self.base.losses == self.tuned.losses:
            return Mean(0.0, 0.0, 0.0)
        share = len(self.base.losses) / self.base.n_tokens
        before, after = ([loss * share for loss in one.losses] for one in (self.base, self.tuned))
        most = max(*before, *after)
        return difference(before, after, (-most, most)).mean

    def facts(self) -> dict[str, Any]:
        """Ready for JSON. perplexity_growth: 0.1 where the tuned model's perplexity is 10 % above the base's."""
        nats = self.nats
        growth = {name: round(math.expm1(getattr(nats, name)), 5) for name in ("value", "low", "high")}
        return {
            "n_passages": len(self.base.losses),
            "n_tokens": self.base.n_tokens,
            "base": round(self.base.perplexity, 4),
            "tuned": round(self.tuned.perplexity, 4),
            "perplexity_growth": growth,
        }


def read_passages(path: Path = NEUTRAL) -> list[str]:
    """The passages of a text file, between which an empty line stands. Raises DatasetError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file, expected a text with empty lines between its passages") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as text ({error})") from error
    passages = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]
    if not passages:
        raise DatasetError(f"{path}: it holds no text, expected passages with empty lines between them")
    return passages


def text_loss(
    model: Path,
    adapter: Path | None,
    passages: Sequence[str],
    *,
    threads: int = 0,
    progress: Progress = silent,
) -> TextLoss:
    """A model's losses, each passage by itself behind the token that begins a text, where the model has one.

    A passage longer than the model's context is read in pieces. Raises ModelError, AdapterError or ResourceError.
    """
    lora = None if adapter is None else read_adapter(adapter)
    if lora is not None and adapter is not None:
        check_base(lora, read_gguf(model), adapter)
    with Engine(model, threads=threads, precision=PRECISION) as engine:
        if lora is not None:
            attach_for_inference(engine, lora)
        most = int(engine.facts["n_ctx_train"])
        pieces = [piece for passage in passages for piece in _pieces(engine.tokenize(passage, add_special=True), most)]
        losses = []
        for i, piece in enumerate(pieces):
            losses.append(_loss(engine, piece))
            progress("neutral text", i + 1, len(pieces), "example")
    if not np.isfinite(losses).all():
        raise ModelError(f"{model}: the model predicts values that are not finite")
    return TextLoss(tuple(losses), tuple(map(tuple, pieces)))


def compare_text(base: TextLoss, tuned: TextLoss, about: str) -> TextChange:
    """Both losses together. Raises ModelError where the two models read other tokens: no perplexities to compare."""
    if base.tokens != tuned.tokens:
        raise ModelError(
            f"{about}: it reads other tokens than the base does, and perplexities of two vocabularies cannot be "
            "compared: give the base that it was tuned from"
        )
    return TextChange(base, tuned)


def _pieces(tokens: Sequence[int], most: int) -> Iterator[list[int]]:
    """Pieces of at least two tokens, no longer than the context; one token predicts nothing."""
    for first in range(0, len(tokens), most):
        piece = list(tokens[first : first + most])
        if len(piece) > 1:
            yield piece


def _loss(engine: Engine, piece: Sequence[int]) -> float:
    """The sum of -log p over all tokens of a piece but its first."""
    supervised = np.ones(len(piece), np.uint8)
    supervised[0] = 0
    return engine.forward(Batch(np.asarray(piece, np.int32), supervised, np.array([len(piece)], np.int64)))[0]
