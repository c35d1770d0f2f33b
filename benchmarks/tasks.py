"""The tasks that precisions are compared on: something to learn, the data, and how a user would train on it.

demo:    the bundled base model and the demo's examples, by configs/demo.yaml.
teacher: what a random adapter, the teacher, does to a random base model is to be learned by a student with a fresh
         adapter on the same base, by the default configuration. The data are sequences sampled from the teacher, so no
         student can come below the teacher's own loss, and one without an adapter has as far to go as the teacher's
         reaches. Base weights are quantized as llama-quantize would; no text is involved, only a vocabulary's size.
real:    a real model and the demo's examples, by the default configuration but for one example a step and no dropout,
         so that a comparison in float32 ends within minutes. What was learned answers the demo's test concepts, too.
"""

import datetime
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fresh_process import ROOT
from benchmarks.shapes import DEMO_VOCABULARY, Shape, write_model
from cpuft import demo
from cpuft.adapters.adapter import write_adapter
from cpuft.backends.llama_server import LlamaServer
from cpuft.config.file import load_config
from cpuft.config.keys import Config
from cpuft.data.batches import passes
from cpuft.data.dataset import formatter_of, load_dataset
from cpuft.data.examples import Example
from cpuft.engine import Engine, FloatArray
from cpuft.evaluate.benchmark import read_cases, run_benchmark
from cpuft.gguf.reader import read_gguf
from cpuft.gguf.writer import TensorInfo
from cpuft.machine.files import atomic_write
from cpuft.roles import DEFAULT, find_role

Tokens = npt.NDArray[np.int32]

# Rows of whole K-quant blocks, grouped heads, and layers enough for roundings to add up.
SHAPE = Shape("llama", DEMO_VOCABULARY, 2048, 3, 512, 1024, 8, 2, 64, 1024, 1e4, 1e-5, False)
# Logits that a call of the engine may store while sampling: 16 MiB. With eight times as many, sampling took
# 1.5 times as long: what a pass of so many tokens writes falls out of the caches.
MOST_LOGITS = 1 << 22


@dataclass(frozen=True)
class Task:
    """Something to learn.

    floor: the validation loss of what the data were drawn from, nats a token, where it is known.
    score: of the answers that the model gives with an adapter, 0 to 1, where there is something to answer.
    """

    model: Path
    training: list[Example]
    validation: list[Example]
    config: Config
    floor: float | None = None
    score: Callable[[Engine], float] | None = None


def mean_loss(engine: Engine, examples: Sequence[Example], tokens_per_pass: int) -> float:
    """Of all supervised tokens, in nats, without dropout."""
    batches = passes(examples, np.arange(len(examples)), tokens_per_pass)
    sums, counts = zip(*map(engine.forward, batches), strict=True)
    return float(sum(sums) / sum(counts))


def demo_task() -> Task:
    """The demo's training."""
    config, _ = load_config(ROOT / "configs" / "demo.yaml")
    training, validation = _demo_examples(demo.BASE_MODEL, config)
    return Task(demo.BASE_MODEL, training, validation, config)


def real_task(model: Path, n_answers: int) -> Task:
    """The demo's examples for another model, which answers the first so many of its test's concepts."""
    config = Config()
    training = replace(config.training, batch_size=1, gradient_accumulation_steps=1)
    config = replace(config, training=training, lora=replace(config.lora, dropout=0.0))
    examples, validation = _demo_examples(model, config)
    return Task(
        model, examples, validation, config, score=partial(_score, model, config, n_answers) if n_answers else None
    )


def _demo_examples(model: Path, config: Config) -> tuple[list[Example], list[Example]]:
    """The demo's examples, for training and validation, as a model's tokens."""
    with Engine(model, threads=1) as engine:
        formatter = formatter_of(read_gguf(model), engine, datetime.date(2026, 1, 1))
        training, validation = (
            load_dataset(
                path,
                formatter,
                max_length=config.training.max_seq_length,
                limit="training.max_seq_length",
                truncate=config.training.truncate,
            ).examples
            for path in (demo.TRAIN, demo.VALIDATION)
        )
    return training, validation


def _score(model: Path, config: Config, n_answers: int, engine: Engine) -> float:
    """The mean score of the answers that llama.cpp gives with the engine's adapter, at temperature 0."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.gguf"
        tensors = {tensor.name: tensor.view(engine.parameters) for tensor in engine.adapter_tensors}
        write_adapter(path, tensors, alpha=config.lora.alpha, architecture=engine.facts["architecture"])
        with LlamaServer(model, adapter=path) as server:
            role = find_role(DEFAULT)
            return run_benchmark(server, read_cases(demo.TEST, role)[:n_answers], role.metric).average_score


@dataclass(frozen=True)
class Teacher:
    """What is drawn; equal teachers give equal files.

    The deviations are those of random networks that pass a signal on: a linear layer keeps the size of its input, and
    what it adds to the residual stream is as large as the embedding that the stream begins with. In models that learned
    something, hidden states of all tokens point to a side. Without that the adapter acts on every token in another way,
    and a student learns next to nothing in some hundred steps (0.03 of 2.5 nats in 100).
    """

    shape: Shape = SHAPE
    file_type: str = "q4_k_m"
    logits: float = 2.5  # their standard deviation: sharp enough that what comes next matters
    common: float = 0.75  # share of the embeddings' variance that all tokens have in common
    rank: int = 8
    strength: float = 0.5  # size of what the adapter adds to a linear layer's output, relative to that output
    n_train: int = 400  # sequences
    n_validation: int = 64
    length: int = 32  # tokens of a sequence
    seed: int = 0

    @property
    def digest(self) -> str:
        """Names the files."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]


def teacher_task(folder: Path, teacher: Teacher, threads: int) -> Task:
    """The task of a teacher, with its files in this folder: written now unless they are there."""
    config = Config()
    model, data = (folder / f"teacher-{teacher.digest}{suffix}" for suffix in (".gguf", ".npz"))
    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_model(model, teacher.shape, teacher.file_type, lambda info, rng: weights(teacher, info, rng))
    if not data.exists():
        with Engine(model, threads=threads, precision="f32") as engine:
            attach(engine, teacher)
            tokens = sample(engine, teacher)
            floor = mean_loss(
                engine, [_example(row) for row in tokens[teacher.n_train :]], config.training.tokens_per_pass
            )
        with atomic_write(data) as temporary, temporary.open("wb") as stream:
            np.savez(stream, tokens=tokens, floor=floor)
    with np.load(data) as stored:
        examples = [_example(row) for row in stored["tokens"]]
        training, validation = examples[: teacher.n_train], examples[teacher.n_train :]
        return Task(model, training, validation, config, float(stored["floor"]))


def weights(teacher: Teacher, info: TensorInfo, rng: np.random.Generator) -> FloatArray:
    """The values of a matrix of the base model (rows, cols)."""
    rows, cols = info.shape
    values = rng.standard_normal((rows, cols))
    if info.name == "token_embd.weight":
        values = (1.0 - teacher.common) ** 0.5 * values + teacher.common**0.5 * rng.standard_normal(cols)
    else:
        values *= (teacher.logits if info.name == "output.weight" else 1.0) / cols**0.5
    return np.asarray(values, np.float32)


def attach(engine: Engine, teacher: Teacher) -> None:
    """Gives the engine the teacher's adapter."""
    engine.adapter_init(rank=teacher.rank, alpha=teacher.rank, seed=teacher.seed)
    rng = np.random.default_rng(teacher.seed)
    for tensor in engine.adapter_tensors:
        # An input of size 1 gives A x of size sqrt(1/3) for the A that is drawn, and B A x of sqrt(rank / 3) |B|.
        if tensor.name.endswith("lora_b"):
            deviation = teacher.strength / (teacher.rank / 3.0) ** 0.5
            tensor.view(engine.parameters)[:] = deviation * rng.standard_normal(tensor.shape)


def sample(engine: Engine, teacher: Teacher) -> Tokens:
    """[n_train + n_validation, length]: the first token of a sequence uniform, the others from the engine's model."""
    rng = np.random.default_rng((teacher.seed, 1))
    n, n_vocab = teacher.n_train + teacher.n_validation, teacher.shape.n_vocab
    tokens = np.empty((n, teacher.length), np.int32)
    tokens[:, 0] = rng.integers(0, n_vocab, n)
    for t in range(1, teacher.length):
        group = max(1, MOST_LOGITS // (t * n_vocab))
        for first in range(0, n, group):
            known = tokens[first : first + group, :t]
            lengths = np.full(len(known), t, np.int64)
            logits = engine.logits(np.ascontiguousarray(known).reshape(-1), lengths)[t - 1 :: t]
            # The largest of logits plus Gumbel noise is a draw from their softmax.
            tokens[first : first + group, t] = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    return tokens


def _example(tokens: Tokens) -> Example:
    supervised = np.ones(tokens.size, np.uint8)
    supervised[0] = 0
    return Example(np.ascontiguousarray(tokens), supervised, "sampled from the teacher")
