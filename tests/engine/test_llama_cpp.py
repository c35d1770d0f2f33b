"""llama.cpp, reading the base with our adapter file or the merged file, gives the engine's held-out loss."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from cpuft.adapters.adapter import write_adapter
from cpuft.engine import Engine
from cpuft.release.merge import merge
from cpuft.toolchain import Toolchain

from . import golden
from .comparison import batch, depth, open_case, step
from .golden import CASES, Case, Example
from .random_model import ModelSpec, write_model

ModelOf = Callable[[ModelSpec], Path]
DEMO = Path(__file__).resolve().parents[2] / "cpuft" / "demo"
# Those that llama.cpp can load: it takes no qwen2 whose heads are not exactly as wide as the model.
LOADABLE = [name for name in CASES if name != "qwen2-untied"]


pytestmark = pytest.mark.usefixtures("libraries")


@pytest.fixture(scope="module")
def libraries(built: Toolchain) -> None:
    """llama_cpp, once it is imported, finds the toolchain's libraries."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(built.lib_dir)


def tolerance(case: Case) -> float:
    """Relative, of a loss. llama.cpp looks Gemma's GELU up in a table of float16, which adds up over the layers."""
    return 1e-4 * depth(case) if case.model.architecture.startswith("gemma") else 1e-5


@pytest.mark.parametrize("name", LOADABLE)
def test_golden_losses(name: str, model_of: ModelOf, tmp_path: Path) -> None:
    """What transformers and PEFT computed: so the fixture and the file mean the same model."""
    from .llama_cpp_loss import loss

    case, expected = CASES[name], golden.load(name)
    write_adapter(tmp_path / "a.gguf", case.adapter(), alpha=case.alpha, architecture=case.model.architecture)
    got = loss(model_of(case.model), tmp_path / "a.gguf", case.examples())
    assert got == pytest.approx(expected.loss, rel=tolerance(case))


REAL = gguf.GGUFValueType.FLOAT32
# Metadata that llama.cpp reads for some architectures, or by an older name, or takes for none.
METADATA = {
    "cap-of-no-scores": ("gemma3", "attn_logit_softcapping", 1.5, False),
    "cap-of-logits": ("gemma3", "final_logit_softcapping", 2.0, True),
    "cap-of-no-logits": ("qwen3", "final_logit_softcapping", 2.0, False),
    "window-of-llama": ("llama-tied", "attention.sliding_window", 8, False),
    "positions-by-their-older-key": ("llama-tied", "rope.scale_linear", 4.0, True),
    "positions-by-0": ("llama-tied", "rope.scaling.factor", 0.0, False),
    "positions-of-windows": ("gemma2", "rope.scaling.factor", 4.0, True),
    "base-of-windows": ("gemma2", "rope.freq_base_swa", 100.0, True),
    "magnitude": ("gemma3", "rope.scaling.attn_factor", 1.5, True),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_mean_the_same(name: str, model_of: ModelOf, tmp_path: Path) -> None:
    from .llama_cpp_loss import loss

    case_name, key, value, matters = METADATA[name]
    case = CASES[case_name]
    kind = REAL if isinstance(value, float) else gguf.GGUFValueType.UINT32
    metadata = {f"{case.model.architecture}.{key}": gguf.GGUFValue(value, kind)}
    path, examples = write_model(tmp_path / "model.gguf", case.model, metadata=metadata), case.examples()
    losses = []
    for model in (path, model_of(case.model)):
        with Engine(model, precision="f32") as engine:
            losses.append(engine.forward(batch(examples))[0])
    assert losses[0] == pytest.approx(loss(path, None, examples), rel=tolerance(case))
    assert (losses[0] != losses[1]) == matters


def trained(path: Path, case: Case, folder: Path) -> tuple[Path, float]:
    """Three steps of training on all examples but the first; (adapter file, the engine's loss on the first)."""
    held_out, *rest = case.examples()
    with open_case(path, case) as engine:
        for number in (1, 2, 3):
            engine.forward_backward(batch(rest))
            step(engine, number, case.optimizer)
        save(engine, case.alpha, folder / "adapter.gguf")
        return folder / "adapter.gguf", engine.forward(batch([held_out]))[0]


def save(engine: Engine, alpha: float, path: Path) -> None:
    """The engine's adapter as llama.cpp reads it."""
    tensors = {tensor.name: tensor.view(engine.parameters) for tensor in engine.adapter_tensors}
    write_adapter(path, tensors, alpha=alpha, architecture=engine.facts["architecture"])


@pytest.mark.parametrize("name", LOADABLE)
def test_random_models(name: str, model_of: ModelOf, tmp_path: Path) -> None:
    from .llama_cpp_loss import loss

    case = CASES[name]
    path, held_out = model_of(case.model), case.examples()[:1]
    adapter, wanted = trained(path, case, tmp_path)
    assert loss(path, adapter, held_out) == pytest.approx(wanted, rel=tolerance(case))
    assert loss(path, None, held_out) != pytest.approx(wanted, rel=1e-3), "the adapter must matter"


@pytest.mark.parametrize("file_type", ["keep", "q8_0"])
def test_merged_random_model(file_type: str, model_of: ModelOf, tmp_path: Path) -> None:
    from .llama_cpp_loss import loss

    case = Case(
        ModelSpec("llama", n_embd=96, n_ff=160, n_head=3, n_head_kv=1, head_size=32, seed=51), 4, 16.0, (60, 50)
    )
    path, held_out = model_of(case.model), case.examples()[:1]
    adapter, wanted = trained(path, case, tmp_path)
    merge(path, tmp_path / "merged.gguf", adapter_path=adapter, file_type=file_type)
    got = loss(tmp_path / "merged.gguf", None, held_out)
    assert got == pytest.approx(wanted, rel=1e-5 if file_type == "keep" else 1e-2)


@pytest.fixture(scope="module")
def demo_base() -> Path:
    """The bundled base model."""
    path = DEMO / "base-q8_0.gguf"
    if not path.exists():
        pytest.skip("the bundled base model is not there")
    return path


def test_demo_model(demo_base: Path, tmp_path: Path) -> None:
    """Q8_0 base + adapter, and the merged Q8_0 file, within 1 % of the engine's held-out loss."""
    from .llama_cpp_loss import loss, tokenize

    texts = [
        json.loads(line)["messages"][-1]["content"] for line in (DEMO / "train.jsonl").read_text().splitlines()[:9]
    ]
    adapter, merged = tmp_path / "adapter.gguf", tmp_path / "merged.gguf"
    with Engine(demo_base, threads=0) as engine:
        examples = []
        for text in texts:
            tokens = engine.tokenize(text, add_special=True)
            assert tokens == tokenize(demo_base, text, add_special=True, parse_special=True)
            examples.append(Example(np.array(tokens, np.int32), np.ones(len(tokens), np.uint8)))
        engine.adapter_init(rank=8, alpha=16.0, seed=1)
        before = engine.forward(batch(examples[:1]))[0]
        for number in range(1, 7):
            engine.forward_backward(batch(examples[1:]))
            step(engine, number, CASES["qwen2"].optimizer)
        wanted = engine.forward(batch(examples[:1]))[0]
        save(engine, 16.0, adapter)
    assert wanted < 0.9 * before, "the held-out loss must have moved far more than the tolerance"
    assert loss(demo_base, adapter, examples[:1]) == pytest.approx(wanted, rel=1e-2)
    merge(demo_base, merged, adapter_path=adapter, file_type="q8_0")
    assert loss(merged, None, examples[:1]) == pytest.approx(wanted, rel=1e-2)


TEXTS = [
    "",
    "to be or not to be",
    "  leading and trailing  ",
    "line\n\n\tbreaks\r\n",
    "ünïcödé ∑ 🙂 中文",
    "1234567890 3.14 don't",
    "<s>special</s> <|im_start|>user\n<|im_end|>",
]


@pytest.mark.parametrize("name", ["llama-tied", "qwen2", "gemma2"])
@pytest.mark.parametrize("parse_special", [False, True])
@pytest.mark.parametrize("add_special", [False, True])
def test_tokens(name: str, add_special: bool, parse_special: bool, model_of: ModelOf) -> None:
    from .llama_cpp_loss import tokenize

    path = model_of(CASES[name].model)
    with Engine(path, threads=1) as engine:
        for text in TEXTS:
            got = engine.tokenize(text, add_special=add_special, parse_special=parse_special)
            assert got == tokenize(path, text, add_special=add_special, parse_special=parse_special), text
