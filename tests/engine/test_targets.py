"""An adapter on some of the linear layers, or on the upper layers only, has exactly those layers' gradients."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest

from cpuft.engine import Engine
from cpuft.errors import ModelError

from .comparison import batch, distance, gradients, open_case, set_adapter
from .golden import CASES, Case
from .random_model import LINEARS, ModelSpec, adapter

ModelOf = Callable[[ModelSpec], Path]
Policy = Literal["keep", "recompute"]
SUBSETS = [
    *[(linear,) for linear in LINEARS],
    ("attn_q", "attn_v"),
    ("attn_q", "attn_k", "attn_v", "attn_output"),
    ("ffn_down", "ffn_gate", "ffn_up"),
    tuple(reversed(LINEARS)),
]


@pytest.mark.parametrize("activations", ["keep", "recompute"])
@pytest.mark.parametrize("first_layer", [0, 1, 2])
@pytest.mark.parametrize("targets", SUBSETS, ids="+".join)
def test_subset(targets: Sequence[str], first_layer: int, activations: Policy, model_of: ModelOf) -> None:
    check_subset(CASES["llama-mistral"], targets, first_layer, activations, model_of)


def check_subset(case: Case, targets: Sequence[str], first_layer: int, activations: Policy, model_of: ModelOf) -> None:
    """The absent pairs are pairs whose B is zero: then they change nothing, and the others' gradients are the same."""
    fused = {"ffn_up": "ffn_gate_up"} if case.model.architecture == "phi3" else {}
    tensors = adapter(case.model, case.rank, case.seed)

    def present(name: str) -> bool:
        _, layer, linear, *_ = name.split(".")
        return int(layer) >= first_layer and (linear in targets or fused.get(linear) in targets)

    with open_case(model_of(case.model), case) as engine:
        set_adapter(engine, {name: v if present(name) or name.endswith("_a") else 0 * v for name, v in tensors.items()})
        whole_loss, _ = engine.forward_backward(batch(case.examples()))
        whole = gradients(engine)
        engine.adapter_init(rank=case.rank, alpha=case.alpha, targets=targets, first_layer=first_layer)
        engine.set_activations(activations)
        set_adapter(engine, tensors)
        loss, _ = engine.forward_backward(batch(case.examples()))
        part = gradients(engine)
    assert set(part) == {name for name in tensors if present(name)}
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    for name, gradient in part.items():
        assert distance(gradient, whole[name]) < 2e-5, name


FUSED_SUBSETS = [("attn_qkv",), ("ffn_gate_up",), ("ffn_down", "attn_qkv"), ("attn_output", "ffn_gate_up")]


@pytest.mark.parametrize("activations", ["keep", "recompute"])
@pytest.mark.parametrize("first_layer", [0, 1])
@pytest.mark.parametrize("targets", FUSED_SUBSETS, ids="+".join)
def test_subset_of_fused_tensors(
    targets: Sequence[str], first_layer: int, activations: Policy, model_of: ModelOf
) -> None:
    case = CASES["phi3"]
    check_subset(case, targets, first_layer, activations, model_of)


def test_absent_targets_are_refused(model_of: ModelOf) -> None:
    for name, absent, present in (("phi3", "attn_q", "attn_qkv"), ("qwen2", "ffn_gate_up", "ffn_gate")):
        message = f"no linear layers {absent} .*it has .*{present}"
        with Engine(model_of(CASES[name].model)) as engine, pytest.raises(ModelError, match=message):
            engine.adapter_init(rank=2, alpha=4.0, targets=["attn_output", absent])


def test_tensors_tile_the_flat_views(model_of: ModelOf) -> None:
    case = CASES["qwen2"]
    with open_case(model_of(case.model), case) as engine:
        wanted = {name: values.shape for name, values in case.adapter().items()}
        assert {tensor.name: tuple(tensor.shape) for tensor in engine.adapter_tensors} == wanted
        taken = sorted((tensor.offset, tensor.shape[0] * tensor.shape[1]) for tensor in engine.adapter_tensors)
        for (offset, size), (following, _) in itertools.pairwise(taken):
            assert offset + size <= following
        assert taken[-1][0] + taken[-1][1] <= len(engine.parameters) == len(engine.gradients)


@pytest.mark.parametrize("rank", [1, 2, 3, 16, 33, 64])
def test_ranks(rank: int, model_of: ModelOf) -> None:
    """A pair of rank r is the sum of r pairs of rank 1: the first r - 1 columns zero leave the pair of rank 1."""
    case = CASES["llama-tied"]
    tensors = adapter(case.model, rank, 3)
    single = {}
    for name, values in tensors.items():
        only_last = values.copy()
        (only_last[:-1] if name.endswith("_a") else only_last[:, :-1])[...] = 0.0
        tensors[name], single[name] = only_last, values[-1:] if name.endswith("_a") else values[:, -1:]
    with open_case(model_of(case.model), case) as engine:
        engine.adapter_init(rank=rank, alpha=2.0 * rank)
        set_adapter(engine, tensors)
        loss, _ = engine.forward_backward(batch(case.examples()))
        got = gradients(engine)
        engine.adapter_init(rank=1, alpha=2.0)
        set_adapter(engine, single)
        wanted_loss, _ = engine.forward_backward(batch(case.examples()))
        wanted = gradients(engine)
    assert loss == pytest.approx(wanted_loss, rel=1e-6)
    for name, gradient in wanted.items():
        last = got[name][-1:] if name.endswith("_a") else got[name][:, -1:]
        assert distance(last, gradient) < 2e-5, name
