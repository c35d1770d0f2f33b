"""What real models have and random weights lack: keys with a large common part, and a first token that outshines all.

Qwen2.5's key biases are of some hundreds, and the residual stream of a first token grows to thousands of times the
others' (Sun et al. 2024, arXiv:2402.17762). Whatever the backward pass makes again must then be what the forward pass
had: a key of 300 rounded to bfloat16 is off by up to 1, and so is a score; a single value of 3000 times the others'
size leaves these none of a byte's steps.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from .comparison import INT8_ISAS, ISAS, batch, cosine, gradients, open_case
from .golden import CASES, Case
from .random_model import FloatArray, weights, write_model

KEY_BIAS = 300.0
RESIDUAL = 3000.0
FIRST_TOKEN = 7
# By what multiplies: the cosine of the whole gradient, the least of a tensor's, the loss. Real models are held to
# 0.9999, 0.999 and 0.99 (tests/real); in rows as short as these less of a rounding averages out.
FLOAT_PRODUCTS, BF16_PRODUCTS, INT8_PRODUCTS = (0.9996, 0.998, 2e-3), (0.998, 0.995, 2e-3), (0.99, 0.98, 5e-3)

ARMS = [("bf16", isa) for isa in ISAS] + [("int8", isa) for isa in INT8_ISAS]


@pytest.fixture(scope="module")
def massive(tmp_path_factory: pytest.TempPathFactory, shallow_case_name: str) -> Path:
    """A case's model with both."""
    case = CASES[shallow_case_name]
    return write_model(tmp_path_factory.mktemp("massive") / "model.gguf", case.model, dict(_massive_weights(case)))


def _massive_weights(case: Case) -> Iterator[tuple[str, FloatArray]]:
    spec = case.model
    for name, values in weights(spec):
        if name == "token_embd.weight":
            if spec.tied:  # a head of its own, whose logits the large row does not drown
                yield "output.weight", values.copy()
            values[FIRST_TOKEN, :: spec.n_embd // 3] *= RESIDUAL  # a few channels, as in real models
        if name.endswith("attn_k.bias"):
            # On the three slowest rotary pairs, which hardly tell the positions of a short sequence apart: on the
            # others such biases would leave one key of all.
            heads = values.reshape(spec.n_head_kv, 2, spec.head_size // 2)
            heads[:, :, -3:] += KEY_BIAS
        yield name, values


@pytest.mark.parametrize(("precision", "isa"), ARMS)
def test_gradient_is_float32s(massive: Path, shallow_case_name: str, precision: str, isa: str) -> None:
    case = CASES[shallow_case_name]
    examples = case.examples()
    for example in examples:
        example.tokens[0] = FIRST_TOKEN
    losses, found = [], []
    for arm in ("f32", precision):
        with open_case(massive, case, isa=isa, precision=arm) as engine:
            loss, _ = engine.forward_backward(batch(examples))
            losses.append(loss)
            found.append(gradients(engine))
    wanted, got = found
    multiplies_bf16 = isa == "avx512bf16"
    bars = INT8_PRODUCTS if precision == "int8" else BF16_PRODUCTS if multiplies_bf16 else FLOAT_PRODUCTS
    of_whole, of_tensor, of_loss = bars
    flat = [np.concatenate([values.ravel() for values in tensors.values()]) for tensors in (got, wanted)]
    assert losses[1] == pytest.approx(losses[0], rel=of_loss)
    assert cosine(*flat) > of_whole
    largest = max(float(np.linalg.norm(values)) for values in wanted.values())
    for name, values in wanted.items():
        if np.linalg.norm(values) >= 1e-3 * largest:
            assert cosine(got[name], values) > of_tensor, name
