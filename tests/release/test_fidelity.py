"""Proves that divergence is what numpy computes from llama.cpp's logits, and that reports warn of what they should."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from cpuft.adapters.adapter import read_adapter, write_adapter
from cpuft.cli.main import cli
from cpuft.engine import Engine
from cpuft.gguf.reader import read_gguf
from cpuft.release.divergence import ReferenceLogits
from cpuft.release.fidelity import adapted_engine, measure_fidelity, validation_examples
from cpuft.release.importance import compute_imatrix, read_imatrix
from cpuft.release.merge import merge
from tests.gguf.tiny import FloatArray, random_adapter, write_tiny_model
from tests.release.importance_text import write_text
from tests.release.llama_cpp_logits import logits as llama_cpp_logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter that changes it visibly, one that hardly does, and three conversations."""
    folder = tmp_path_factory.mktemp("fidelity")
    base = write_tiny_model(folder / "base.gguf")
    tensors = random_adapter(base, rank=4)
    write_adapter(folder / "adapter.gguf", tensors, alpha=8, architecture="llama")
    faint = {name: v * np.float32(0.02) if name.endswith("lora_b") else v for name, v in tensors.items()}
    write_adapter(folder / "faint.gguf", faint, alpha=8, architecture="llama")
    chats = [("hi", "good day"), ("what is it", "a test"), ("and now", "all is said")]
    messages = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in chats]
    (folder / "val.jsonl").write_text("\n".join(json.dumps({"messages": m}) for m in messages))
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def log_probabilities(logits: FloatArray) -> npt.NDArray[np.float64]:
    values = logits.astype(np.float64)
    normalizer: float = np.log(np.exp(values).sum())
    return values - normalizer


def test_divergence_by_hand(folder: Path) -> None:
    """Against llama.cpp's logits of base + adapter and of the base, token by token."""
    base, adapter = folder / "base.gguf", folder / "adapter.gguf"
    kl, nll, own_nll, same = [], [], [], []
    with adapted_engine(base, read_adapter(adapter), threads=1) as engine:
        examples = validation_examples(read_gguf(base), engine, folder / "val.jsonl", limit=2)
        assert len(examples) == 2
        with ReferenceLogits(engine, examples) as reference, Engine(base, threads=1, precision="f32") as plain:
            own, found = reference.own, reference.compare(plain, "base")
    for example in examples:
        tokens = example.tokens.tolist()
        for i in np.flatnonzero(example.supervised):
            p, q = (log_probabilities(llama_cpp_logits(base, tokens[:i], lora)) for lora in (adapter, None))
            kl.append((np.exp(p) * (p - q)).sum())
            nll.append(-q[tokens[i]])
            own_nll.append(-p[tokens[i]])
            same.append(p.argmax() == q.argmax())
    assert found.n_tokens == len(kl) > 10
    assert found.kl == pytest.approx(np.mean(kl), rel=1e-3)
    assert found.loss == pytest.approx(np.mean(nll), rel=1e-4)
    assert own.loss == pytest.approx(np.mean(own_nll), rel=1e-4)
    assert found.same_top == pytest.approx(np.mean(same))
    assert (own.kl, own.same_top) == (0, 1)


def test_a_model_is_at_no_distance_from_itself(folder: Path) -> None:
    base = folder / "base.gguf"
    with Engine(base, threads=1, precision="f32") as engine:
        examples = validation_examples(read_gguf(base), engine, folder / "val.jsonl", None)
        with ReferenceLogits(engine, examples) as reference:
            itself = reference.compare(engine, "itself")
    assert (itself.kl, itself.same_top) == (0, 1)
    assert itself.loss == pytest.approx(reference.own.loss, rel=1e-12)


def test_blocks_of_rows_change_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, merged = folder / "base.gguf", folder / "m.gguf"
    merge(base, merged, adapter_path=folder / "adapter.gguf", file_type="q4_0")
    whole = measure_fidelity(base, folder / "adapter.gguf", merged, folder / "val.jsonl", threads=1)
    monkeypatch.setattr("cpuft.release.divergence.BLOCK_VALUES", 1000)  # three rows
    split = measure_fidelity(base, folder / "adapter.gguf", merged, folder / "val.jsonl", threads=1)
    assert split.merged.kl == pytest.approx(whole.merged.kl, rel=1e-12)
    assert split.merged.loss == pytest.approx(whole.merged.loss, rel=1e-12)


def test_float_merges_are_faithful_and_rounded_ones_are_warned_of(folder: Path, tmp_path: Path) -> None:
    val = folder / "val.jsonl"
    merged = merge(folder / "base.gguf", tmp_path / "f32.gguf", adapter_path=folder / "adapter.gguf").output
    good = measure_fidelity(folder / "base.gguf", folder / "adapter.gguf", merged, val, threads=1)
    assert good.merged.kl < 1e-9 < 1e-3 < good.base.kl
    assert not good.warnings
    base = merge(folder / "base.gguf", tmp_path / "q4.gguf", file_type="q4_0").output
    merged = merge(base, tmp_path / "merged.gguf", adapter_path=folder / "faint.gguf").output
    bad = measure_fidelity(base, folder / "faint.gguf", merged, val, threads=1)
    assert bad.survived.survived < 0.9
    assert any("as far from base + adapter as the base's own" in warning for warning in bad.warnings)
    assert any("of the learned change is left in the weights (limit 90%)" in warning for warning in bad.warnings)
    assert "try a type with more bits (--type q8_0) or an importance matrix (--imatrix)" in bad.warnings[-1]


def test_advice_names_no_importance_matrix_where_there_was_one(folder: Path, tmp_path: Path) -> None:
    base = merge(folder / "base.gguf", tmp_path / "q4.gguf", file_type="q4_0").output
    compute_imatrix(base, write_text(tmp_path / "text.txt"), tmp_path / "imatrix.gguf", context=64, threads=1)
    merged = merge(
        base, tmp_path / "m.gguf", adapter_path=folder / "faint.gguf", imatrix=read_imatrix(tmp_path / "imatrix.gguf")
    ).output
    report = measure_fidelity(base, folder / "faint.gguf", merged, folder / "val.jsonl", threads=1)
    assert report.warnings[-1].startswith("try a type with more bits (--type q8_0), or keep the adapter")


def test_commands(folder: Path, tmp_path: Path) -> None:
    files = ("--model", folder / "base.gguf", "--adapter", folder / "adapter.gguf", "--val", folder / "val.jsonl")
    merged = run("merge", *files, "--type", "q8_0", "--output", tmp_path / "m.gguf", "--threads", "1", "--json")
    assert merged.exit_code == 0, merged.output
    report = json.loads(merged.output)
    assert report["types"]["q8_0"] == 16
    alone = run("fidelity", *files, "--merged", tmp_path / "m.gguf", "--threads", "1", "--json")
    assert json.loads(alone.output) == report["fidelity"]
    assert report["fidelity"]["merged"]["kl"] < 0.1 * report["fidelity"]["base"]["kl"]
    table = run("fidelity", *files, "--merged", tmp_path / "m.gguf", "--threads", "1", "--tensors").output
    assert "base + adapter" in table
    assert table.count(".weight") == 14


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"--adapter": "foreign.gguf"}, "made for another base model"),
        ({"--adapter": "faint.gguf"}, "another adapter than"),
        ({"--merged": "other.gguf"}, "give a file that was merged from this base"),
        ({"--val": "empty.jsonl"}, "the assistant says nothing"),
        ({"--val": "none.jsonl"}, "no such file"),
    ],
)
def test_mistakes(changed: dict[str, str], sentence: str, folder: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other.gguf", n_embd=32)
    write_adapter(tmp_path / "foreign.gguf", random_adapter(other, rank=4), alpha=8, architecture="llama")
    (tmp_path / "faint.gguf").write_bytes((folder / "faint.gguf").read_bytes())
    silence = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": " "}]
    (tmp_path / "empty.jsonl").write_text(json.dumps({"messages": silence}))
    merged = merge(folder / "base.gguf", tmp_path / "m.gguf", adapter_path=folder / "adapter.gguf").output
    files = {"--model": folder / "base.gguf", "--adapter": folder / "adapter.gguf", "--merged": merged}
    files |= {"--val": folder / "val.jsonl"} | {option: tmp_path / name for option, name in changed.items()}
    result = run("fidelity", *(part for pair in files.items() for part in pair))
    assert result.exit_code == 2, result.output
    assert sentence in result.output
    assert result.output.count("\n") == 1
