"""llama.cpp, reading a real base with our adapter or the merged file, gives the loss that the engine gives it."""

import datetime
from collections.abc import Sequence
from pathlib import Path

import pytest

from cpuft.data.dataset import formatter_of
from cpuft.data.examples import Example
from cpuft.data.records import Chat, Record
from cpuft.engine import Engine
from cpuft.evaluate.fidelity import adapted_engine
from cpuft.models.adapter import read_adapter
from cpuft.models.gguf import read_gguf
from cpuft.models.merge import merge
from cpuft.toolchain import use_llama_cpp
from tests.engine.comparison import batch
from tests.real.conftest import Tuned

# llama.cpp rounds what it multiplies a quantized matrix with to 8 bits, the engine in float32 does not.
ROUNDED = 0.01


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """llama_cpp, once it is imported, finds the toolchain's libraries."""
    use_llama_cpp()


def examples_of(path: Path, engine: Engine, records: Sequence[Record]) -> list[Example]:
    formatter = formatter_of(read_gguf(path), engine, datetime.date(2026, 1, 31))
    return [example for record in records for example in formatter.examples(record, "f:1")]


def test_the_tuned_coder(tuned: Tuned, tmp_path: Path) -> None:
    """Of held-out appointments: base + adapter as trained, and merged into Q8_0."""
    from tests.engine.llama_cpp_loss import loss

    records = [Chat(list(chat)) for chat in tuned.held_out[:6]]
    with adapted_engine(tuned.model, read_adapter(tuned.adapter), threads=0) as engine:
        examples = examples_of(tuned.model, engine, records)
        wanted, _ = engine.forward(batch(examples))
        engine.parameters[...] = 0
        untuned, _ = engine.forward(batch(examples))
    print("engine", wanted, untuned)
    print("llama adapter", loss(tuned.model, tuned.adapter, examples, threads=0))
    print("llama base", loss(tuned.model, None, examples, threads=0))
    merge(tuned.model, tmp_path / "merged.gguf", adapter_path=tuned.adapter, file_type="q8_0")
    print("llama merged", loss(tmp_path / "merged.gguf", None, examples, threads=0))
    with Engine(tmp_path / "merged.gguf", precision="f32") as engine:
        print("engine merged", engine.forward(batch(examples)))
    raise AssertionError
