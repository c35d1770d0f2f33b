"""A gradient on a real model, in a process of its own. One JSON line; the gradient goes to a file.

Usage: python real_side.py '{"model": "model.gguf", "texts": "texts.jsonl", ...}'    (the fields of Settings)
"""

import datetime
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fresh_process import figures_of
from benchmarks.peak_rss import own_peak_rss_mb
from cpuft import demo
from cpuft.data.batches import passes
from cpuft.data.dataset import formatter_of
from cpuft.data.examples import Example, Formatter
from cpuft.data.records import Chat, Record, Text, read_records
from cpuft.engine import Engine, FloatArray
from cpuft.errors import CpuftError
from cpuft.gguf.reader import read_gguf

RANK, ALPHA = 16, 32.0
DEVIATION = 0.005  # of B's values: about what 25 steps at a rate of 2e-4 move one by, if they all agree
RATE = 2e-4  # of the training before the gradient
PASS_TOKENS = 1024
PARAMETERS, GRADIENT, TOKENS = "parameters.npy", "gradient.npy", "tokens.npz"


Tensor = tuple[str, int, tuple[int, int]]  # name, offset and shape in the flat arrays


@dataclass(frozen=True)
class Settings:
    """What is computed: the gradient of the texts' mean loss over an adapter of all linear layers.

    folder: where `gradient.npy` goes, float32, in the engine's order, and the adapter lies as `parameters.npy`.
    trained: the steps, each on one of the demo's training examples and in this precision, after which the adapter is
        written there; 0: its B is random. None: it is read.
    """

    model: str
    texts: str
    folder: str
    isa: str | None = None
    precision: str | None = None
    trained: int | None = None
    repeats: int = 0  # passes that are timed, after this one
    threads: int = 0


def run(settings: Settings) -> dict[str, Any]:
    """Computes in a fresh process: isa, precision, loss (the mean), tokens, seconds of each repeat, peak_rss_mb.

    Raises UserError where the engine refuses the settings.
    """
    return figures_of([sys.executable, str(Path(__file__).resolve()), json.dumps(asdict(settings))])


def texts_of(path: Path, formatter: Formatter, has_template: bool, most: int | None = None) -> list[Example]:
    """The (first) conversations of a file as a model's tokens; where that has no chat template, what they say."""
    examples: list[Example] = []
    for number, record in islice(read_records(path), most):
        assert isinstance(record, Chat), f"{path}:{number}"
        examples += formatter.examples(record if has_template else _plain(record), f"{path.name}:{number}")
    return examples


def _plain(chat: Chat) -> Record:
    return Text("\n\n".join(str(message["content"]) for message in chat.messages))


def random_parameters(engine: Engine) -> FloatArray:
    """The engine's fresh adapter with B drawn at random instead of zero, the same on every machine."""
    parameters = engine.parameters.copy()
    for index, tensor in enumerate(engine.adapter_tensors):
        if tensor.name.endswith("lora_b"):
            generator = np.random.Generator(np.random.PCG64([7, index]))
            tensor.view(parameters)[:] = DEVIATION * generator.standard_normal(tensor.shape, np.float32)
    return parameters


def _arrays(examples: Sequence[Example]) -> dict[str, npt.NDArray[Any]]:
    """The examples for a peer: tokens_0, supervised_0, tokens_1, ..."""
    tokens = {f"tokens_{i}": example.tokens for i, example in enumerate(examples)}
    return tokens | {f"supervised_{i}": example.supervised for i, example in enumerate(examples)}


def measure(settings: Settings) -> dict[str, Any]:
    """What that process does."""
    model = read_gguf(Path(settings.model))
    with Engine(model.path, threads=settings.threads, isa=settings.isa, precision=settings.precision) as engine:
        engine.adapter_init(rank=RANK, alpha=ALPHA)
        formatter = formatter_of(model, engine, datetime.date(2026, 11, 27))
        has_template = model.get("tokenizer.chat_template") is not None
        examples = texts_of(Path(settings.texts), formatter, has_template)
        lessons = texts_of(demo.TRAIN, formatter, has_template, settings.trained or 0)
        batches = passes(examples, np.arange(len(examples)), PASS_TOKENS)
        losses = []
        parameters = Path(settings.folder) / PARAMETERS
        for step, lesson in enumerate(lessons, 1):
            (batch,) = passes([lesson], np.array([0]), PASS_TOKENS)
            total, count = engine.forward_backward(batch)
            losses.append(total / count)
            engine.step(step=step, learning_rate=RATE, max_grad_norm=1.0)
        if settings.trained is None:
            engine.parameters[:] = np.load(parameters)
        else:
            if settings.trained == 0:
                engine.parameters[:] = random_parameters(engine)
            np.save(parameters, engine.parameters)
            np.savez(parameters.with_name(TOKENS), allow_pickle=False, **_arrays(examples))
        sums, counts = zip(*map(engine.forward_backward, batches), strict=True)
        np.save(parameters.with_name(GRADIENT), engine.gradients / np.float32(sum(counts)))
        seconds = []
        for _ in range(settings.repeats):
            start = time.perf_counter()
            for batch in batches:
                engine.forward_backward(batch)
            seconds.append(time.perf_counter() - start)
        tokens = sum(len(batch.tokens) for batch in batches)
        return {
            **{name: engine.facts[name] for name in ("isa", "precision", "n_threads")},
            "loss": sum(sums) / sum(counts),
            "tokens": tokens,
            "supervised": sum(counts),
            "tok_s": round(tokens / statistics.median(seconds), 1) if seconds else None,
            "peak_rss_mb": own_peak_rss_mb(),
            "tensors": [(tensor.name, tensor.offset, tensor.shape) for tensor in engine.adapter_tensors],
            "losses": [round(loss, 4) for loss in losses],
        }


def main() -> int:
    """Prints the figures, or {"error": sentence}."""
    try:
        print(json.dumps(measure(Settings(**json.loads(sys.argv[1])))))
    except CpuftError as error:
        print(json.dumps({"error": str(error)}))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
