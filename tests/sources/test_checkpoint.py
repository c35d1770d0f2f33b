"""Proves that a Hugging Face checkpoint is converted once, by llama.cpp's converter, and that its code does not run."""

import contextlib
import importlib.util
import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from cpuft.errors import ModelError, ToolchainError
from cpuft.machine.progress import silent
from cpuft.sources.checkpoint import convert
from cpuft.sources.description import trainability
from cpuft.sources.source import resolve
from cpuft.toolchain import Toolchain
from tests.progress import Heard

N_EMBD, N_FF, N_HEAD, N_VOCAB = 64, 96, 4, 300
HAS_PACKAGES = all(importlib.util.find_spec(name) for name in ("torch", "transformers", "safetensors"))
needs_packages = pytest.mark.skipif(
    not HAS_PACKAGES, reason="the converter needs torch and transformers (cpuft[convert])"
)


@pytest.fixture(autouse=True)
def _separate_cache(built: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Converted models go to a folder of the test's own; the toolchain stays where it is."""
    assert built.source.is_dir()
    monkeypatch.setattr("cpuft.sources.checkpoint.converted_folder", lambda: tmp_path / "converted")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A random Llama of two layers with a SentencePiece vocabulary, as transformers would save it."""
    folder = tmp_path / "Tiny-Llama"
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": N_EMBD,
        "intermediate_size": N_FF,
        "num_hidden_layers": 2,
        "num_attention_heads": N_HEAD,
        "num_key_value_heads": N_HEAD,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "vocab_size": N_VOCAB,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    _write_vocabulary(folder / "tokenizer.model")
    _write_weights(folder / "model.safetensors", seed=0)
    return folder


def _write_vocabulary(path: Path) -> None:
    import sentencepiece

    words = [f"{a}{b}{c}" for a in "etaoins" for b in "hrdlucm" for c in "fwypvbg"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_prefix=str(path.with_suffix("")),
        vocab_size=N_VOCAB,
        byte_fallback=True,
        model_type="bpe",
        minloglevel=2,
    )


def _write_weights(path: Path, seed: int) -> None:
    """A safetensors file (https://github.com/huggingface/safetensors#format) of random float16 values."""
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens": (N_VOCAB, N_EMBD), "lm_head": (N_VOCAB, N_EMBD), "model.norm": (N_EMBD,)}
    for layer in range(2):
        block = f"model.layers.{layer}."
        shapes |= {f"{block}self_attn.{name}_proj": (N_EMBD, N_EMBD) for name in "qkvo"}
        shapes |= {f"{block}mlp.{name}_proj": (N_FF, N_EMBD) for name in ("gate", "up")}
        shapes |= {f"{block}mlp.down_proj": (N_EMBD, N_FF)}
        shapes |= {f"{block}{name}_layernorm": (N_EMBD,) for name in ("input", "post_attention")}
    header: dict[str, object] = {}
    data = b""
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float16).tobytes()
        header[f"{name}.weight"] = {
            "dtype": "F16",
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(values)],
        }
        data += values
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@needs_packages
def test_a_checkpoint_becomes_a_model_that_cpuft_trains(checkpoint: Path) -> None:
    heard = Heard()
    path = resolve(str(checkpoint), heard).path
    assert trainability(path) == {"trainable": True, "why_not": None}
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.name"].contents() == "Tiny Llama"
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    stored = (checkpoint / "model.safetensors").read_bytes()
    for name in ("token_embd.weight", "output.weight", "blk.1.ffn_down.weight"):  # those that are not permuted
        assert tensors[name].data.astype(np.float16).tobytes() in stored, name
    assert ("converting", 100, 100) in heard.steps


@needs_packages
def test_nothing_is_converted_twice(checkpoint: Path) -> None:
    first = convert(checkpoint, silent)
    written = first.stat().st_mtime_ns
    renamed = checkpoint.rename(checkpoint.with_name("elsewhere"))
    assert convert(renamed, silent) == first
    assert first.stat().st_mtime_ns == written
    _write_weights(renamed / "model.safetensors", seed=1)
    assert convert(renamed, silent) != first


@needs_packages
def test_code_that_comes_with_a_checkpoint_does_not_run(checkpoint: Path, tmp_path: Path) -> None:
    witness = tmp_path / "it-ran"
    (checkpoint / "code.py").write_text(f"open({str(witness)!r}, 'w')\nclass Config: pass\nclass Tokenizer: pass\n")
    config = json.loads((checkpoint / "config.json").read_text())
    config["architectures"] = ["DreamModel"]  # one of those whose tokenizer's own code the converter lets run
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoTokenizer": ["code.Tokenizer", None]}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "tokenizer.model").unlink()
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"auto_map": config["auto_map"]}))
    with contextlib.suppress(ModelError):  # refusing it is as good as leaving the code alone
        convert(checkpoint, silent)
    assert not witness.exists()


@needs_packages
def test_what_the_converter_refuses_is_one_sentence(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text()) | {"architectures": ["NoSuchForCausalLM"]}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"llama\.cpp's converter cannot convert it: .*NoSuchForCausalLM"):
        convert(checkpoint, silent)
    assert not list((tmp_path / "converted").iterdir())


@pytest.mark.skipif(HAS_PACKAGES, reason="torch and transformers are installed")
def test_without_pytorch_the_error_says_how_to_install_it(checkpoint: Path) -> None:
    with pytest.raises(ToolchainError, match=r"needs torch and .*pip install 'cpuft\[convert\]'"):
        convert(checkpoint, silent)


def test_other_folders_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"the checkpoint has no \*\.safetensors file"):
        resolve(str(checkpoint))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"a folder without config\.json"):
        resolve(str(tmp_path / "empty"))
