"""How well a model predicts text that it has not seen: losses of held-out examples, by the engine."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpuft.adapters.adapter import check_base, read_adapter
from cpuft.adapters.attachment import attach_for_inference
from cpuft.chat.template import ANY_DAY
from cpuft.data.batches import passes
from cpuft.data.dataset import formatter_of, load_dataset
from cpuft.engine import Engine
from cpuft.gguf.reader import read_gguf
from cpuft.machine.progress import Progress, silent

PRECISION = "f32"  # what is measured is the model, not the engine's rounding


@dataclass(frozen=True)
class HeldOut:
    """A model's losses on held-out data.

    losses: of each example, the sum over its supervised tokens of -log p, in nats. tokens: how many these are.
    """

    losses: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def loss(self) -> float:
        """Mean over all supervised tokens, in nats."""
        return sum(self.losses) / sum(self.tokens)

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss)

    @property
    def means(self) -> list[float]:
        """Mean of each example, in nats a token."""
        return [loss / n for loss, n in zip(self.losses, self.tokens, strict=True)]

    def facts(self) -> dict[str, float]:
        """Ready for JSON, by the names that a result has."""
        return {"val_loss": round(self.loss, 5), "perplexity": round(self.perplexity, 4)}


def held_out(
    model: Path, adapter: Path | None, data: Path, *, limit: int | None = None, threads: int = 0,
    progress: Progress = silent,
) -> HeldOut:  # fmt: skip
    """The losses of a data set's first `limit` examples: conversations by the chat template, on any day, or texts.

    Raises ModelError, AdapterError, DatasetError or ResourceError.
    """
    base = read_gguf(model)
    lora = None if adapter is None else read_adapter(adapter)
    if lora is not None and adapter is not None:
        check_base(lora, base, adapter)
    with Engine(model, threads=threads, precision=PRECISION) as engine:
        if lora is not None:
            attach_for_inference(engine, lora)
        most = int(engine.facts["n_ctx_train"])
        formatter = formatter_of(base, engine, ANY_DAY)
        found = load_dataset(data, formatter, max_length=most, limit="the model's context length", truncate=False)
        examples = found.examples[:limit]
        results = []
        for i, example in enumerate(examples):
            (batch,) = passes([example], np.arange(1), most)
            results.append(engine.forward(batch))
            progress(f"losses of {model.name}", i + 1, len(examples), "example")
    losses, tokens = zip(*results, strict=True)
    return HeldOut(losses, tokens)
