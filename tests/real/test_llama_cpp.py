"""llama.cpp, reading a real base with our adapter or the merged file, gives the loss that the engine gives it."""

import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cpuft.adapters.adapter import read_adapter, write_adapter
from cpuft.data.dataset import formatter_of
from cpuft.data.records import Chat
from cpuft.engine import Engine
from cpuft.gguf.reader import read_gguf
from cpuft.release.fidelity import adapted_engine
from cpuft.release.merge import merge
from cpuft.toolchain import use_llama_cpp
from tests.engine.comparison import batch
from tests.engine.golden import Example
from tests.real.conftest import Shipped, Tuned
from tests.real.models import threads

# Relative, of a loss. llama.cpp rounds what it multiplies a quantized matrix with to 8 bits; the engine in float32 does
# not. Where the matrices are float32 neither rounds, but llama.cpp looks Gemma's GELU up in a table of float16.
ROUNDED, EXACT = 0.01, 5e-4
CHANGE = 0.05  # of B, so that the adapter changes the loss by far more than rounding does
PROSE = (
    """The lighthouse keeper wrote down the weather every morning: wind from the north-west, 12 knots, clouds at 900 m.
In 1907 a storm broke two of the windows, and the repairs took until the spring of the following year.""",
    "def area(width: float, height: float) -> float:\n    return width * height\n\nprint(area(3, 4.5))\n",
)


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> None:
    """llama_cpp, once it is imported, finds the toolchain's libraries."""
    use_llama_cpp()


def whole(tokens: Sequence[int]) -> Example:
    """An example of which every token counts: a tuned model's answers alone have next to no loss."""
    return Example(np.asarray(tokens, np.int32), np.ones(len(tokens), np.uint8))


def test_the_tuned_coder(tuned: Tuned, shipped: Shipped) -> None:
    """Of held-out appointments: the base, base + adapter as trained, and the merged file."""
    from tests.engine.llama_cpp_loss import loss

    with adapted_engine(tuned.model, read_adapter(tuned.adapter), threads()) as engine:
        formatter = formatter_of(read_gguf(tuned.model), engine, datetime.date(2026, 1, 31))
        chats = [Chat([dict(message) for message in chat]) for chat in tuned.held_out[:3]]
        taught = [formatter.examples(chat, "f:1")[0] for chat in chats]
        answers = [Example(example.tokens, example.supervised) for example in taught]
        examples = [whole(example.tokens.tolist()) for example in taught]
        (adapted, _), (learned, _) = engine.forward(batch(examples)), engine.forward(batch(answers))
        engine.parameters[...] = 0
        (untuned, _), (unlearned, _) = engine.forward(batch(examples)), engine.forward(batch(answers))
    with Engine(shipped.file, threads=threads(), precision="f32") as engine:
        merged, _ = engine.forward(batch(examples))
    assert learned < 0.5 * unlearned  # the tuning did something
    assert loss(tuned.model, tuned.adapter, examples, threads()) == pytest.approx(adapted, rel=ROUNDED)
    assert loss(tuned.model, None, examples, threads()) == pytest.approx(untuned, rel=ROUNDED)
    assert loss(shipped.file, None, examples, threads()) == pytest.approx(merged, rel=ROUNDED)


def test_gemma(gemma: Path, tmp_path: Path) -> None:
    """Of prose and code: the base, base + an adapter that changes it, and both merged in float32."""
    from tests.engine.llama_cpp_loss import loss

    with Engine(gemma, threads=threads(), precision="f32") as engine:
        examples = [whole(engine.tokenize(text, add_special=True)) for text in PROSE]
        untuned, _ = engine.forward(batch(examples))
        engine.adapter_init(rank=4, alpha=8.0, seed=1)
        rng = np.random.default_rng(1)
        for tensor in engine.adapter_tensors:
            if tensor.name.endswith("lora_b"):
                tensor.view(engine.parameters)[:] = rng.standard_normal(tensor.shape) * CHANGE
        adapted, _ = engine.forward(batch(examples))
        tensors = {tensor.name: tensor.view(engine.parameters) for tensor in engine.adapter_tensors}
        write_adapter(tmp_path / "a.gguf", tensors, alpha=8.0, architecture=engine.facts["architecture"])
    merge(gemma, tmp_path / "merged.gguf", adapter_path=tmp_path / "a.gguf", file_type="f32")
    assert abs(adapted / untuned - 1) > 5 * ROUNDED
    assert loss(gemma, tmp_path / "a.gguf", examples, threads()) == pytest.approx(adapted, rel=ROUNDED)
    assert loss(gemma, None, examples, threads()) == pytest.approx(untuned, rel=ROUNDED)
    assert loss(tmp_path / "merged.gguf", None, examples, threads()) == pytest.approx(adapted, rel=EXACT)
