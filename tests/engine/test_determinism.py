"""The same input gives the same bytes: run after run, with any number of threads."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from .comparison import ISAS, batch, open_case, step
from .golden import CASES, Case
from .random_model import ModelSpec

ModelOf = Callable[[ModelSpec], Path]


def three_steps(
    path: Path,
    threads: int,
    isa: str,
    precision: str = "f32",
    moments: Literal["f32", "8bit"] = "f32",
    case: Case = CASES["llama-mistral"],
) -> bytes:
    """Losses, norms, parameters and moments after three steps with dropout."""
    seen = []
    with open_case(path, case, threads=threads, isa=isa, precision=precision, dropout=0.1, moments=moments) as engine:
        for number in (1, 2, 3):
            examples = case.step_examples(number)
            loss, _ = engine.forward_backward(batch(examples, range(number, number + len(examples))))
            seen += [loss, step(engine, number, case.optimizer)]
        state = engine.parameters.tobytes() + engine.optimizer_state.tobytes()
    return np.array(seen).tobytes() + state


@pytest.mark.parametrize("isa", ISAS)
def test_threads_do_not_change_a_bit(isa: str, model_of: ModelOf) -> None:
    path = model_of(CASES["llama-mistral"].model)
    one = three_steps(path, 1, isa)
    assert three_steps(path, 1, isa) == one
    for threads in (2, 3, 7):
        assert three_steps(path, threads, isa) == one, threads


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "phi3-long"])
def test_threads_do_not_change_a_bit_of_other_architectures(name: str, model_of: ModelOf) -> None:
    case = CASES[name]
    path = model_of(case.model)
    one = three_steps(path, 1, ISAS[-1], case=case)
    assert three_steps(path, 3, ISAS[-1], case=case) == one


def test_threads_do_not_change_a_bit_of_8bit_moments(model_of: ModelOf) -> None:
    path = model_of(CASES["llama-mistral"].model)
    one = three_steps(path, 1, ISAS[-1], moments="8bit")
    assert one != three_steps(path, 1, ISAS[-1])
    for threads in (2, 3, 7):
        assert three_steps(path, threads, ISAS[-1], moments="8bit") == one, threads


@pytest.mark.skipif(ISAS[-1] != "avx512bf16", reason="this CPU multiplies no bfloat16")
def test_threads_do_not_change_a_bit_in_bf16(model_of: ModelOf) -> None:
    path = model_of(CASES["llama-mistral"].model)
    assert three_steps(path, 1, ISAS[-1], "bf16") == three_steps(path, 2, ISAS[-1], "bf16")


def test_another_process_gives_the_same_bytes(model_of: ModelOf) -> None:
    path = model_of(CASES["llama-mistral"].model)
    program = (
        "import sys, hashlib, pathlib; from tests.engine.test_determinism import three_steps; "
        "print(hashlib.sha256(three_steps(pathlib.Path(sys.argv[1]), 2, sys.argv[2])).hexdigest())"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", program, str(path), ISAS[-1]]
    digests = {subprocess.run(command, cwd=root, check=True, capture_output=True).stdout for _ in range(2)}
    assert len(digests) == 1


def test_the_seed_chooses_the_adapter(model_of: ModelOf) -> None:
    case = CASES["qwen2"]
    drawn: dict[int, bytes] = {}
    for seed in (1, 2, 1):
        with open_case(model_of(case.model), case) as engine:
            engine.adapter_init(rank=case.rank, alpha=case.alpha, seed=seed)
            values = engine.parameters.copy()
            for tensor in engine.adapter_tensors:
                part = tensor.view(engine.parameters)
                if tensor.name.endswith(".lora_b"):
                    assert not part.any(), tensor.name
                else:  # U(-1/sqrt(n_in), 1/sqrt(n_in)), whose variance is 1 / (3 n_in)
                    bound = part.shape[1] ** -0.5
                    assert np.abs(part).max() <= bound
                    assert part.std() == pytest.approx(bound / 3**0.5, rel=5 / (2 * part.size) ** 0.5)
                    assert abs(part.mean()) < 5 * bound / (3 * part.size) ** 0.5
            assert seed not in drawn or drawn[seed] == values.tobytes()
            drawn[seed] = values.tobytes()
    assert drawn[1] != drawn[2]
