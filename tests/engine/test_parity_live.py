"""Parity on models and examples drawn anew at each run, where torch, transformers and peft are there."""

import importlib.util
import secrets
from pathlib import Path

import numpy as np
import pytest

from benchmarks.architectures import ARCHITECTURES, HEAD_SIZE_KEYS

from .comparison import batch, cosine, distance, gradients, open_case
from .golden import Case
from .random_model import LinearScaling, LongRope, ModelSpec, RopeScaling, write_model

MISSING = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"this Python lacks {', '.join(MISSING)}, the peers to compare with"),
    pytest.mark.filterwarnings("default"),  # the peers' own deprecations are not ours to mend
]


def draw_case(architecture: str, seed: int) -> Case:
    """A random shape: grouped heads, an even head size, widths of any remainder, windows shorter than most examples."""
    rng = np.random.default_rng(seed)
    facts = ARCHITECTURES[architecture]
    n_head_kv = int(rng.integers(1, 4))
    n_head = n_head_kv * int(rng.integers(1, 5))
    head_size = 2 * int(rng.integers(4, 40))
    lengths = tuple(int(n) for n in rng.integers(1, 200, size=4))
    model = ModelSpec(
        architecture,
        n_layer=int(rng.integers(1, 4)) + max(facts.window_period, facts.no_rope_period),
        # transformers wants a multiple of the heads; some files have no other head size than the width's share
        n_embd=n_head
        * (head_size if HEAD_SIZE_KEYS[0] in facts.unwritten else int(rng.integers(40, 120) // n_head + 1)),
        n_ff=int(rng.integers(60, 260)),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_size=head_size,
        tied=facts.shifted_norms or bool(rng.integers(2)),  # Gemma has no other head
        biases=architecture == "qwen2",
        rope_base=1e4 if architecture == "gemma2" else float(rng.choice([1e4, 5e5, 1e6])),
        rope_scaling=draw_rope_scaling(architecture, rng),
        window=int(rng.integers(1, 100)) if facts.window_period or facts.fused else 0,
        score_cap=2.0 if architecture == "gemma2" else 0.0,
        logit_cap=5.0 if architecture == "gemma2" else 0.0,
        seed=seed,
    )
    return Case(model, rank=int(rng.integers(1, 20)), alpha=16.0, lengths=lengths, seed=seed, n_steps=1)


def draw_rope_scaling(architecture: str, rng: np.random.Generator) -> RopeScaling | LinearScaling | LongRope | None:
    """The architecture's kind, or none. The original context lies on one side of every example, as llama.cpp has it."""
    kinds: dict[str, RopeScaling | LinearScaling | LongRope] = {
        "llama": RopeScaling(),
        "gemma3": LinearScaling(),
        "phi3": LongRope(256),
    }
    return kinds.get(architecture) if rng.integers(2) else None


@pytest.mark.parametrize("architecture", [*ARCHITECTURES])
def test_random_case(architecture: str, tmp_path: Path) -> None:
    from .torch_oracle import expect

    case = draw_case(architecture, secrets.randbits(31))
    expected = expect(case)
    with open_case(write_model(tmp_path / "model.gguf", case.model), case) as engine:
        loss, n_supervised = engine.forward_backward(batch(case.examples()))
        got = gradients(engine)
    assert n_supervised == expected.n_supervised, case
    assert loss == pytest.approx(expected.loss, rel=1e-5), case
    for name, wanted in expected.gradients.items():
        assert distance(got[name], wanted) < 1e-3, (name, case)
        assert cosine(got[name], wanted) > 0.99999, (name, case)
