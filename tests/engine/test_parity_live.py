"""Parity on models and examples drawn anew at each run, where torch, transformers and peft are there."""

import importlib.util
import secrets
from pathlib import Path

import numpy as np
import pytest

from .comparison import batch, cosine, distance, gradients, open_case
from .golden import Case
from .random_model import ModelSpec, RopeScaling, write_model

MISSING = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"this Python lacks {', '.join(MISSING)}, the peers to compare with"),
    pytest.mark.filterwarnings("default"),  # the peers' own deprecations are not ours to mend
]


def draw_case(seed: int) -> Case:
    """A random shape: grouped heads, an even head size, widths of any remainder."""
    rng = np.random.default_rng(seed)
    n_head_kv = int(rng.integers(1, 4))
    n_head = n_head_kv * int(rng.integers(1, 5))
    architecture = str(rng.choice(["llama", "qwen2"]))
    model = ModelSpec(
        architecture,
        n_layer=int(rng.integers(1, 4)),
        n_embd=n_head * int(rng.integers(40, 120) // n_head + 1),  # transformers wants a multiple of the heads
        n_ff=int(rng.integers(60, 260)),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_size=2 * int(rng.integers(4, 40)),
        tied=bool(rng.integers(2)),
        biases=architecture == "qwen2",
        rope_base=float(rng.choice([1e4, 5e5, 1e6])),
        rope_scaling=RopeScaling() if architecture == "llama" and rng.integers(2) else None,
        seed=seed,
    )
    lengths = tuple(int(n) for n in rng.integers(1, 200, size=4))
    return Case(model, rank=int(rng.integers(1, 20)), alpha=16.0, lengths=lengths, seed=seed, n_steps=1)


@pytest.mark.parametrize("_", range(4))
def test_random_case(_: int, tmp_path: Path) -> None:
    from .torch_oracle import expect

    case = draw_case(secrets.randbits(31))
    expected = expect(case)
    with open_case(write_model(tmp_path / "model.gguf", case.model), case) as engine:
        loss, n_supervised = engine.forward_backward(batch(case.examples()))
        got = gradients(engine)
    assert n_supervised == expected.n_supervised, case
    assert loss == pytest.approx(expected.loss, rel=1e-5), case
    for name, wanted in expected.gradients.items():
        assert distance(got[name], wanted) < 1e-3, (name, case)
        assert cosine(got[name], wanted) > 0.99999, (name, case)
