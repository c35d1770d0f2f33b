"""The profile divides the time of passes and steps among their parts, and counts no moment twice."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from .comparison import batch, open_case, step
from .golden import CASES
from .random_model import ModelSpec

ModelOf = Callable[[ModelSpec], Path]

CASE = CASES["llama-mistral"]
HEADER = Path(__file__).resolve().parents[2] / "cpuft" / "native" / "cpuft.h"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("policy", ["keep", "recompute"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_parts_divide_the_time_of_the_calls(
    dropout: float, policy: Literal["keep", "recompute"], threads: int, model_of: ModelOf
) -> None:
    with open_case(model_of(CASE.model), CASE, threads=threads, dropout=dropout) as engine:
        engine.set_activations(policy)
        examples = CASE.step_examples(1)
        for number in (1, 2):
            start = time.perf_counter()
            engine.forward_backward(batch(examples, range(len(examples))))
            step(engine, number, CASE.optimizer)
            elapsed = time.perf_counter() - start
            parts = engine.profile()
            assert min(parts.values()) > 0, parts
            # The engine's clock is not Python's on every system; the two run alike to a thousandth.
            assert sum(parts.values()) <= elapsed * 1.001


def test_a_profile_starts_where_the_last_one_ended(model_of: ModelOf) -> None:
    with open_case(model_of(CASE.model), CASE) as engine:
        assert set(engine.profile().values()) == {0}
        engine.forward(batch(CASE.step_examples(1)))
        parts = engine.profile()
        assert parts["base_products"] > 0
        assert parts["optimizer"] == 0
        assert set(engine.profile().values()) == {0}


def test_the_header_names_every_part(model_of: ModelOf) -> None:
    section = HEADER.read_text().partition("/* ---- Profile")[2].partition("CPUFT_API")[0]
    with open_case(model_of(CASE.model), CASE) as engine:
        assert set(engine.profile()) <= set(re.findall(r"\w+", section))
