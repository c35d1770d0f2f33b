"""Golden cases: what transformers + PEFT computed in float32 for a random model, and how to read it back.

A fixture is NAME.json (seeds, shapes, losses) beside NAME.npz (each LoRA gradient, in llama.cpp's names and layout).
The weights are drawn again from their seeds; a digest in the fixture tells whether they came out the same.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .random_model import FloatArray, LinearScaling, LongRope, ModelSpec, RopeScaling, adapter, digest, weights

FOLDER = Path(__file__).resolve().parent.parent / "golden"


@dataclass(frozen=True)
class Example:
    """One sequence: tokens int32 [T], supervised uint8 [T]."""

    tokens: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.uint8]

    @property
    def n_supervised(self) -> int:
        """Targets that count: a sequence's first token has nothing before it."""
        return int(self.supervised[1:].sum())


@dataclass(frozen=True)
class OptimizerSpec:
    """torch.optim.AdamW on the mean loss over a step's supervised tokens, after clipping."""

    learning_rate: float = 3e-3
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class Case:
    """A model, an adapter and examples. Step k of training sees every example but number k modulo their count."""

    model: ModelSpec
    rank: int
    alpha: float
    lengths: tuple[int, ...]
    seed: int = 1
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    n_steps: int = 10

    def adapter(self) -> dict[str, FloatArray]:
        """Random non-zero A and B for every linear layer."""
        return adapter(self.model, self.rank, self.seed)

    def examples(self) -> list[Example]:
        """Random tokens; the first example is supervised whole, the others in spans."""
        examples = []
        for index, length in enumerate(self.lengths):
            raw = np.random.PCG64([self.seed, index]).random_raw(2 * length)
            tokens = (raw[:length] % np.uint64(self.model.n_vocab)).astype(np.int32)
            in_span = np.sin(np.arange(length) * 0.37 + index) > -0.2
            supervised = np.ones(length, bool) if index == 0 else in_span
            examples.append(Example(tokens, supervised.astype(np.uint8)))
        return examples

    def step_examples(self, step: int) -> list[Example]:
        """The examples of step 1, 2, ..."""
        examples = self.examples()
        return [example for index, example in enumerate(examples) if index != step % len(examples)]

    def digest(self) -> str:
        """Of everything that is drawn: weights and adapter."""
        return digest(dict(weights(self.model)) | self.adapter())


@dataclass(frozen=True)
class Expectation:
    """loss: sum over the n_supervised tokens, in nats. step_losses: the mean before each optimizer step."""

    loss: float
    n_supervised: int
    gradients: dict[str, FloatArray]
    step_losses: list[float]


CASES = {
    # Llama 3.1 and 3.2: frequency factors, untied head.
    "llama-rope-freqs": Case(
        ModelSpec("llama", n_embd=90, n_ff=150, rope_scaling=RopeScaling(), seed=11), 5, 16.0, (70, 33, 7, 18)
    ),
    # Mistral: grouped heads, wider than the model.
    "llama-mistral": Case(
        ModelSpec("llama", n_layer=3, n_embd=102, n_ff=148, head_size=24, rope_base=1e6, seed=12),
        8,
        16.0,
        (141, 3, 40),
    ),
    # SmolLM2 and the small Llama 3.2: tied head; one key-value head for all.
    "llama-tied": Case(
        ModelSpec("llama", n_embd=75, n_ff=202, n_head=5, n_head_kv=1, head_size=16, tied=True, seed=13),
        4,
        16.0,
        (29, 64, 2),
    ),
    "qwen2": Case(
        ModelSpec("qwen2", n_embd=120, n_ff=170, tied=True, biases=True, rope_base=1e6, rms_epsilon=1e-6, seed=14),
        8,
        16.0,
        (50, 9, 27, 65),
    ),
    # The larger Qwen2.5: untied head; here with a head size that only the file tells.
    "qwen2-untied": Case(
        ModelSpec("qwen2", n_embd=100, n_ff=134, head_size=14, biases=True, rope_base=1e6, rms_epsilon=1e-6, seed=15),
        6,
        16.0,
        (31, 77),
    ),
    # Qwen3 up to 4B: heads that are normed, and wider together than the model.
    "qwen3": Case(
        ModelSpec("qwen3", n_embd=84, n_ff=122, n_head_kv=3, head_size=26, tied=True, rope_base=1e6, seed=16),
        6,
        16.0,
        (58, 21, 83),
    ),
    # Five layers, the fourth of which turns nothing.
    "smollm3": Case(
        ModelSpec("smollm3", n_layer=5, n_embd=72, n_ff=94, n_head=4, head_size=18, tied=True, rope_base=2e6, seed=17),
        5,
        16.0,
        (66, 37),
    ),
    # Phi-3 mini 4k: as many heads of keys as of queries, and a window that llama.cpp reads and does not use.
    "phi3": Case(
        ModelSpec("phi3", n_embd=88, n_ff=130, n_head=4, n_head_kv=4, head_size=22, window=19, seed=18),
        6,
        16.0,
        (45, 71, 12),
    ),
    # Phi-3 medium 128k and Phi-3.5: every sequence, and llama.cpp's context, within the original context ...
    "phi3-short": Case(
        ModelSpec("phi3", n_embd=96, n_ff=110, head_size=16, rope_scaling=LongRope(256), n_context=4096, seed=19),
        4,
        16.0,
        (39, 80),
    ),
    # ... and every one beyond it.
    "phi3-long": Case(
        ModelSpec("phi3", n_embd=90, n_ff=118, n_head=5, n_head_kv=1, head_size=18, rope_scaling=LongRope(16), seed=20),
        4,
        16.0,
        (77, 34, 52),
    ),
    # Gemma 2, with caps far below what the scores and logits reach.
    "gemma2": Case(
        ModelSpec(
            "gemma2",
            n_layer=3,
            n_embd=84,
            n_ff=130,
            head_size=18,
            tied=True,
            rms_epsilon=1e-6,
            window=13,
            score_cap=1.5,
            logit_cap=4.0,
            seed=21,
        ),
        6,
        16.0,
        (47, 13, 90),
        optimizer=OptimizerSpec(learning_rate=8e-3),  # a capped loss falls more slowly
    ),
    # The 27B model's number of layers, from which llama.cpp infers how it scales its scores. So many random layers are
    # badly conditioned: in float32, with base weights off by 2e-3 of themselves, the worst tensor's gradient has a
    # cosine of 0.89 to this one, with 4e-3 of 0.65; so what rounding to bfloat16 (0.94) or bytes (0.12) leaves says
    # nothing about these precisions (`python benchmarks/parity.py gemma2-27b`). Real models of 18 to 28 layers are
    # within tests/real's bars.
    "gemma2-27b": Case(
        ModelSpec(
            "gemma2",
            n_layer=46,
            n_embd=32,
            n_ff=24,
            n_head=2,
            n_head_kv=1,
            head_size=8,
            tied=True,
            rms_epsilon=1e-6,
            window=9,
            score_cap=2.0,
            logit_cap=5.0,
            seed=22,
        ),
        1,
        16.0,
        (30, 22),
        optimizer=OptimizerSpec(learning_rate=5e-4),  # so deep a model makes much of a rounding error
        n_steps=24,
    ),
    # Gemma 3 1B: five layers with a window and one rotary base, then one without a window and another base.
    "gemma3": Case(
        ModelSpec(
            "gemma3",
            n_layer=7,
            n_embd=60,
            n_ff=82,
            n_head=4,
            n_head_kv=1,
            head_size=20,
            tied=True,
            rope_base=1e6,
            rms_epsilon=1e-6,
            window=11,
            seed=23,
        ),
        4,
        16.0,
        (64, 25),
    ),
    # Gemma 3 4B and more: positions of the layers without a window are scaled; here the file tells the other base.
    "gemma3-scaled": Case(
        ModelSpec(
            "gemma3",
            n_layer=6,
            n_embd=72,
            n_ff=68,
            n_head=6,
            head_size=14,
            tied=True,
            rope_base=1e6,
            rope_scaling=LinearScaling(),
            rms_epsilon=1e-6,
            window=16,
            window_rope_base=2e4,
            seed=24,
        ),
        3,
        16.0,
        (51, 40, 16),
    ),
}


def save(name: str, case: Case, expected: Expectation) -> None:
    """Writes the two files of a fixture."""
    facts = {
        "case": asdict(case),
        "digest": case.digest(),
        "loss": expected.loss,
        "n_supervised": expected.n_supervised,
        "step_losses": expected.step_losses,
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    np.savez_compressed(FOLDER / f"{name}.npz", allow_pickle=False, **expected.gradients)


def load(name: str) -> Expectation:
    """Reads a fixture; AssertionError where it was made from another case than CASES[name]."""
    facts: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    case = CASES[name]
    assert facts["case"] == json.loads(json.dumps(asdict(case))), f"{name}: run scripts/make_golden.py again"
    assert facts["digest"] == case.digest(), f"{name}: this numpy draws other weights than the fixture's"
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        gradients = {tensor: arrays[tensor] for tensor in arrays.files}
    return Expectation(facts["loss"], facts["n_supervised"], gradients, facts["step_losses"])
