"""Puts an adapter file onto an engine to ask it for answers: any adapter, not only one that this engine could train.

The engine's own adapter has one rank and one scale for all its weights. A file's pairs may differ in both, so each pair
is padded with zeros to the largest rank and carries its scale in B: the product is the same.
"""

import re

import numpy as np

from cpuft.adapters.adapter import SUFFIX_A, SUFFIX_B, Adapter
from cpuft.engine import Engine
from cpuft.errors import AdapterError

LAYER_WEIGHT = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
TENSORS = {"ffn_gate_up": "ffn_up"}  # of the targets whose tensor has another name


def attach_for_inference(engine: Engine, adapter: Adapter) -> None:
    """Replaces the engine's adapter by one that adds what `adapter` adds, weight by weight.

    Raises AdapterError where it changes a weight that the engine cannot adapt.
    """
    places = {weight: LAYER_WEIGHT.fullmatch(weight) for weight in adapter.weights}
    targets = {TENSORS.get(target, target): target for target in engine.facts["targets"]}
    foreign = [weight for weight, place in places.items() if place is None or place[2] not in targets]
    if foreign:
        raise AdapterError(
            f"the adapter changes {foreign[0]}, which cpuft cannot compute with: it knows {', '.join(targets)}"
        )
    found = [place for place in places.values() if place is not None]
    engine.adapter_init(
        rank=adapter.rank,
        alpha=adapter.rank,  # a scale of 1
        targets=[target for tensor, target in targets.items() if any(place[2] == tensor for place in found)],
        first_layer=min(int(place[1]) for place in found),
    )
    engine.parameters[...] = 0
    views = {tensor.name: tensor.view(engine.parameters) for tensor in engine.adapter_tensors}
    for weight in adapter.weights:
        a, b = adapter.pair(weight)
        views[weight + SUFFIX_A][: len(a)] = a
        views[weight + SUFFIX_B][:, : len(a)] = np.float32(adapter.scale(weight)) * b
