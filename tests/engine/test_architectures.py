"""What sets architectures apart beyond the golden cases: what their files may say, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from cpuft.engine import PASS_SIZE, Engine
from cpuft.errors import ModelError

from .comparison import batch, distance, open_case, run, set_adapter
from .golden import CASES, Case
from .random_model import LongRope, ModelSpec, weights, write_model

ModelOf = Callable[[ModelSpec], Path]
Value = gguf.GGUFValue
TYPES = gguf.GGUFValueType
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
# Sequences of fewer tokens than the original context, of as many, and of more.
MIXED = Case(replace(CASES["phi3-long"].model, rope_scaling=LongRope(60)), 4, 16.0, (40, 61, 60, 90))


def test_longrope_goes_by_the_length_of_each_sequence(model_of: ModelOf, tmp_path: Path) -> None:
    """Each has the loss of a model with its factors alone, whatever lies beside it."""
    tensors = dict(weights(MIXED.model))
    alone = {
        name: write_model(tmp_path / f"{name}.gguf", MIXED.model, tensors | {LONG: tensors[name], SHORT: tensors[name]})
        for name in (LONG, SHORT)
    }
    examples = MIXED.examples()
    with open_case(model_of(MIXED.model), MIXED) as engine:
        losses = [run(engine, [example]) for example in examples]
        together = run(engine, examples)
    assert together[0] == pytest.approx(sum(loss for loss, _ in losses), rel=1e-6)
    assert distance(together[1], np.sum([gradient.astype(np.float64) for _, gradient in losses], axis=0)) < 2e-5
    for example, (loss, _) in zip(examples, losses, strict=True):
        is_long = len(example.tokens) > 60
        for name, path in alone.items():
            with open_case(path, MIXED) as engine:
                assert (engine.forward(batch([example]))[0] == loss) == (is_long == (name == LONG))


def test_short_and_long_sequences_share_no_beginning(model_of: ModelOf) -> None:
    """Their factors differ, and so does what they make of it; what a pass is said to compute is what it computes."""
    case = replace(MIXED, model=replace(MIXED.model, rope_scaling=LongRope(80)), lengths=(75, 120))
    short, long = case.examples()
    long.tokens[: len(short.tokens)] = short.tokens
    for example in (short, long):
        example.supervised[:70] = 0
    examples = [short, replace(short), long]
    needed = [np.flatnonzero(example.supervised)[-1] for example in examples]  # tokens, without what predicts nothing
    with open_case(model_of(case.model), case) as engine:
        size = dict(zip(PASS_SIZE, engine.pass_size(batch(examples), training=True).tolist(), strict=True))
        together = run(engine, examples)
        assert size["tokens"] == engine.pass_tokens == sum(needed) - 64
        assert size["pairs"] == sum(n * (n + 1) // 2 for n in needed) - 64 * 65 // 2
        losses = [run(engine, [example])[0] for example in examples]
    assert together[0] == pytest.approx(sum(losses), rel=1e-6)


def logits(path: Path, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Of one sequence."""
    with Engine(path, precision="f32") as engine:
        return engine.logits(tokens, np.array([len(tokens)], np.int64))


def test_the_file_says_which_layers_have_a_window(tmp_path: Path) -> None:
    spec = replace(CASES["gemma3"].model, n_layer=4)
    key = "gemma3.attention.sliding_window_pattern"
    patterns = {
        "every-second": Value(2, TYPES.UINT32),
        "listed": Value([True, False, True, False], TYPES.ARRAY),
        "listed-as-numbers": Value([1, 0, 1, 0], TYPES.ARRAY),
        "all": Value(0, TYPES.UINT32),
        "none": Value(1, TYPES.UINT32),
    }
    tokens = CASES["gemma3"].examples()[0].tokens
    got = {
        name: logits(write_model(tmp_path / f"{name}.gguf", spec, metadata={key: value}), tokens).tobytes()
        for name, value in patterns.items()
    }
    assert got["listed"] == got["every-second"] == got["listed-as-numbers"]
    assert len(set(got.values())) == 3


@pytest.mark.parametrize("name", ["gemma3", "phi3", "smollm3"])
def test_frozen_layers(name: str, model_of: ModelOf) -> None:
    """Their output, given back, is as good as computed, byte for byte."""
    case = CASES[name]
    examples = case.examples()
    with open_case(model_of(case.model), case) as engine:
        engine.adapter_init(rank=case.rank, alpha=case.alpha, first_layer=1)
        set_adapter(engine, case.adapter())
        frozen = engine.forward_frozen(batch(examples).tokens, batch(examples).lengths)
        results = []
        for given in (None, frozen):
            results.append((engine.forward_backward(batch(examples), given), engine.gradients.tobytes()))
            engine.zero_gradients()
    assert results[0] == results[1]


REFUSED: dict[str, tuple[str, dict[str, Value | None], str]] = {
    "pattern-short": (
        "gemma3",
        {"gemma3.attention.sliding_window_pattern": Value([True, False], TYPES.ARRAY)},
        "2 entries, but the model 7 layers",
    ),
    "pattern-text": (
        "gemma3",
        {"gemma3.attention.sliding_window_pattern": Value(["a"] * 7, TYPES.ARRAY)},
        "no list of integers",
    ),
    "window-negative": ("gemma2", {"gemma2.attention.sliding_window": Value(-1, TYPES.INT32)}, "sliding_window is -1"),
    "cap-negative": ("gemma2", {"gemma2.attn_logit_softcapping": Value(-5.0, TYPES.FLOAT32)}, "softcapping is -5"),
    "cap-nan": ("gemma2", {"gemma2.final_logit_softcapping": Value(float("nan"), TYPES.FLOAT32)}, "is nan"),
    "experts": ("phi3", {"phi3.expert_count": Value(16, TYPES.UINT32)}, "mixture of experts"),
    "factors-missing": ("phi3", {"phi3.rope.scaling.type": Value("longrope", TYPES.STRING)}, "lacks the tensor rope_f"),
    "magnitude": ("phi3-long", {"phi3.rope.scaling.attn_factor": Value(0.0, TYPES.FLOAT32)}, "attn_factor is 0"),
    "epsilon-missing": (
        "gemma2",
        {"gemma2.attention.layer_norm_rms_epsilon": None},
        "lacks the metadata key gemma2",
    ),
    "epsilon-huge": ("qwen3", {"qwen3.attention.layer_norm_rms_epsilon": Value(1e300, TYPES.FLOAT64)}, "is 1e\\+300"),
    "rope-older-key": ("llama-tied", {"llama.rope.scale_linear": Value(-2.0, TYPES.FLOAT32)}, "scale_linear is -2"),
    "further-tokens": ("qwen3", {"qwen3.nextn_predict_layers": Value(1, TYPES.UINT32)}, "tokens behind the next one"),
    "both-ways": ("llama-tied", {"llama.attention.causal": Value(False, TYPES.BOOL)}, "see those behind them"),
    "window-heads": ("gemma3", {"gemma3.attention.key_length_swa": Value(8, TYPES.UINT32)}, "key_length_swa"),
    "window-values": ("gemma3", {"gemma3.attention.value_length_swa": Value(8, TYPES.UINT32)}, "value_length_swa"),
    "window-turns": ("gemma2", {"gemma2.rope.dimension_count_swa": Value(8, TYPES.UINT32)}, "dimension_count_swa"),
    "projector": ("gemma3", {"general.architecture": Value("clip", TYPES.STRING)}, "projector; give the file with its"),
    "of-experts": ("qwen3", {"general.architecture": Value("qwen3moe", TYPES.STRING)}, '"qwen3moe", which is not'),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_impossible_metadata(fault: str, tmp_path: Path) -> None:
    name, metadata, message = REFUSED[fault]
    path = write_model(tmp_path / "model.gguf", CASES[name].model, metadata=metadata)
    with pytest.raises(ModelError, match=message):
        Engine(path)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("qwen3", "blk.1.attn_k_norm.weight"),
        ("gemma2", "blk.0.post_ffw_norm.weight"),
        ("gemma3", "blk.2.post_attention_norm.weight"),
        ("phi3", "blk.1.attn_qkv.weight"),
        ("phi3-long", LONG),
        ("phi3-long", SHORT),
    ],
)
def test_missing_tensors(name: str, tensor: str, tmp_path: Path) -> None:
    tensors = dict(weights(CASES[name].model))
    del tensors[tensor]
    with pytest.raises(ModelError, match=f"lacks the tensor {tensor}"):
        Engine(write_model(tmp_path / "model.gguf", CASES[name].model, tensors))


def test_biases_of_a_fused_tensor(tmp_path: Path) -> None:
    """Each part has its own rows: the logits are those of the parts as tensors of their own."""
    spec = ModelSpec("qwen2", biases=True)
    tensors = dict(weights(spec))
    for layer in range(spec.n_layer):
        for kind in ("weight", "bias"):
            parts = [tensors.pop(f"blk.{layer}.attn_{part}.{kind}") for part in "qkv"]
            tensors[f"blk.{layer}.attn_qkv.{kind}"] = np.concatenate(parts)
    tokens = CASES["qwen2"].examples()[0].tokens
    single = logits(write_model(tmp_path / "single.gguf", spec), tokens)
    assert distance(logits(write_model(tmp_path / "fused.gguf", spec, tensors), tokens), single) < 1e-6


def test_a_gate_without_its_other_half(tmp_path: Path) -> None:
    spec = CASES["phi3"].model
    tensors = dict(weights(spec))
    tensors["blk.0.ffn_up.weight"] = np.ascontiguousarray(tensors["blk.0.ffn_up.weight"][: spec.n_ff])
    with pytest.raises(ModelError, match=rf"ffn_up\.weight has shape \({spec.n_ff}, .*ask for \({2 * spec.n_ff},"):
        Engine(write_model(tmp_path / "model.gguf", spec, tensors))
