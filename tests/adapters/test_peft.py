"""Proves that adapters go to PEFT's format and back bit for bit, and that hostile folders end in one sentence."""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from cpuft.adapters.adapter import Adapter, read_adapter, write_adapter
from cpuft.adapters.files import convert
from cpuft.adapters.hf_layout import ARCHITECTURES, HfLayout
from cpuft.adapters.peft import read_peft, write_peft
from cpuft.config.keys import MODULES
from cpuft.errors import AdapterError, ConfigError
from cpuft.release.merge import merge
from tests.adapters.peft_folders import HEAD_SIZE, N_EMBD, N_QUERY, adapter_tensors, header, module_pair, write_folder
from tests.gguf.tiny import FloatArray, random_adapter, write_tiny_model
from tests.release.llama_cpp_logits import logits

Q = "layers.1.self_attn.q_proj"
Q_PAIR = module_pair(Q, (N_QUERY, N_EMBD))
Q_A, Q_B = Q_PAIR


def adapter_for(architecture: str, alpha: float = 6.0) -> Adapter:
    return Adapter(3, alpha, architecture, adapter_tensors(header(architecture)), {})


def config_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return document


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_there_and_back_gives_the_same_bits(architecture: str, tmp_path: Path) -> None:
    base, adapter = header(architecture), adapter_for(architecture)
    write_peft(tmp_path / "peft", adapter, base=base)
    back = read_peft(tmp_path / "peft").on(base)
    assert (back.rank, back.alpha, back.architecture) == (3, 6.0, architecture)
    assert list(back.tensors) == list(adapter.tensors)
    assert all(back.tensors[name].tobytes() == values.tobytes() for name, values in adapter.tensors.items())


def test_a_file_there_and_back_has_the_same_bytes(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.gguf")
    write_adapter(
        tmp_path / "a.gguf",
        random_adapter(model, rank=4),
        alpha=5.3,
        architecture="llama",
        metadata={"general.name": "tiny LoRA"},
    )
    convert(tmp_path / "a.gguf", tmp_path / "peft", "peft", model=model, base_name="me/tiny")
    assert config_of(tmp_path / "peft")["base_model_name_or_path"] == "me/tiny"
    convert(tmp_path / "peft", tmp_path / "b.gguf", "gguf", model=model)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_names_are_those_of_the_configuration() -> None:
    assert {path.rpartition(".")[2]: own for own, path in ARCHITECTURES["llama"].items()} == MODULES


def test_phi3_has_its_fused_names(tmp_path: Path) -> None:
    write_peft(tmp_path / "peft", adapter_for("phi3"))
    names = set(safetensors.numpy.load_file(tmp_path / "peft" / "adapter_model.safetensors"))
    assert "base_model.model.model.layers.2.self_attn.qkv_proj.lora_A.weight" in names
    assert "base_model.model.model.layers.0.mlp.gate_up_proj.lora_B.weight" in names
    assert config_of(tmp_path / "peft")["target_modules"] == ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


@pytest.mark.parametrize("architecture", ["llama", "smollm3"])
def test_rows_of_rotary_pairs(architecture: str) -> None:
    """Row i of transformers is row 2 i of the GGUF in a head's first half, and 2 (i - h/2) + 1 in its second."""
    layout = HfLayout.of(architecture, header(architecture))
    rows = np.arange(N_QUERY, dtype=np.float32)[:, None]
    head = [*range(0, HEAD_SIZE, 2), *range(1, HEAD_SIZE, 2)]
    wanted = [first + i for first in range(0, N_QUERY, HEAD_SIZE) for i in head]
    for own in ("attn_q", "attn_k"):
        assert layout.rows_to_hf(f"blk.0.{own}.weight", rows)[:, 0].tolist() == wanted
    assert np.array_equal(layout.rows_to_hf("blk.0.attn_v.weight", rows), rows)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gemma2", "gemma3", "phi3"])
def test_rows_that_stay_where_they_are(architecture: str) -> None:
    layout = HfLayout.of(architecture, header(architecture))
    rows = np.arange(N_QUERY, dtype=np.float32)[:, None]
    assert np.array_equal(layout.rows_to_hf("blk.0.attn_q.weight", rows), rows)


def test_names_of_a_hostile_file_are_printed_safely(tmp_path: Path) -> None:
    bad = Q_PAIR | {"\x1b[2J\nfake line": np.zeros(3, np.float32), "long" * 999: np.zeros(3, np.float32)}
    with pytest.raises(AdapterError) as caught:
        read_peft(write_folder(tmp_path / "tensors", bad))
    assert r"\x1b[2J\nfake line is unknown" in str(caught.value)
    assert len(str(caught.value)) < 800
    with pytest.raises(AdapterError) as caught:
        read_peft(write_folder(tmp_path / "keys", Q_PAIR, rank_pattern={"\ud800\n": 0}))
    str(caught.value).encode()
    assert str(caught.value).isprintable()


def test_the_base_is_needed_where_rows_stand_otherwise(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="by the size of its heads: give the base model with --model"):
        write_peft(tmp_path / "peft", adapter_for("llama"))
    with pytest.raises(AdapterError, match="architecture 'mamba' have no known names in PEFT"):
        write_peft(tmp_path / "peft", Adapter(3, 6.0, "mamba", {}, {}))
    assert not list(tmp_path.iterdir())


def test_what_layers_are_adapted_is_said(tmp_path: Path) -> None:
    tensors = adapter_tensors(header("qwen2"))
    last = {name: values for name, values in tensors.items() if name.startswith("blk.2.")}
    write_peft(tmp_path / "last", Adapter(3, 6.0, "qwen2", last, {}))
    assert config_of(tmp_path / "last")["layers_to_transform"] == [2]
    uneven = last | {name: values for name, values in tensors.items() if name.startswith("blk.0.attn_q.")}
    write_peft(tmp_path / "uneven", Adapter(3, 6.0, "qwen2", uneven, {}))
    config = config_of(tmp_path / "uneven")
    assert config["layers_to_transform"] is None
    assert "model.layers.0.self_attn.q_proj" in config["target_modules"]
    assert "model.layers.0.self_attn.k_proj" not in config["target_modules"]


@pytest.mark.parametrize("alpha", [6.0, 0.0])
def test_pairs_of_several_ranks(alpha: float, tmp_path: Path) -> None:
    """The scale of each pair is the same in both formats; alpha 0 means a scale of 1."""
    base, adapter = header("qwen2"), adapter_for("qwen2", alpha)
    weight = "blk.1.attn_v.weight"
    wide = adapter_tensors(base, rank=5)
    adapter.tensors.update({name: wide[name] for name in wide if name.startswith(weight)})
    write_peft(tmp_path / "peft", adapter)
    config = config_of(tmp_path / "peft")
    assert config["rank_pattern"] == {"model.layers.1.self_attn.v_proj": 5}
    back = read_peft(tmp_path / "peft").on(base)
    for name in adapter.weights:
        a, b = back.pair(name)
        wanted_a, wanted_b = adapter.pair(name)
        assert np.array_equal(a, wanted_a)
        np.testing.assert_allclose(back.scale(name) * b, adapter.scale(name) * wanted_b, rtol=1e-6)


def change(folder: Path) -> FloatArray:
    """What a folder's adapter adds to attn_q of layer 1, in the GGUF's order."""
    adapter = read_peft(folder).on(header("qwen2"))
    a, b = adapter.pair("blk.1.attn_q.weight")
    return np.asarray(adapter.scale("blk.1.attn_q.weight") * (b @ a), np.float32)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 6 / math.sqrt(3)),
        ({"r": 8, "rank_pattern": {"q_proj": 3}}, 2.0),
        ({"r": 8, "rank_pattern": {r"^model\.layers\.1\.self_attn\.q_proj$": 3}, "use_rslora": True}, 6 / math.sqrt(3)),
        ({"alpha_pattern": {"layers.1.self_attn.q_proj": 12, "q_proj": 1}}, 4.0),
        ({"alpha_pattern": {"^q_proj": 12, "proj": 12}}, 2.0),  # neither is the module's whole name
        ({"layers_to_transform": [1], "layers_pattern": "layers"}, 2.0),
    ],
)
def test_the_scale_is_pefts(config: dict[str, Any], scale: float, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "peft", Q_PAIR, **config)
    np.testing.assert_allclose(change(folder), scale * Q_PAIR[Q_B] @ Q_PAIR[Q_A], rtol=1e-5, atol=1e-6)


def test_llama_cpp_reads_what_was_converted(tmp_path: Path) -> None:
    """With pairs of several ranks and alphas, it gives the logits of the merged model."""
    model, prompt = write_tiny_model(tmp_path / "tiny.gguf"), [1, 70, 71, 72, 73]
    tensors = module_pair(Q, (64, 64), seed=1) | module_pair("layers.0.mlp.down_proj", (64, 96), rank=5, seed=2)
    config = {"rank_pattern": {"down_proj": 5}, "alpha_pattern": {"down_proj": 1}, "use_rslora": True}
    folder = write_folder(tmp_path / "peft", {n: v * np.float32(0.2) for n, v in tensors.items()}, **config)
    convert(folder, tmp_path / "a.gguf", "gguf", model=model)
    merge(model, tmp_path / "merged.gguf", adapter_path=tmp_path / "a.gguf")
    got = logits(model, prompt, tmp_path / "a.gguf")
    np.testing.assert_allclose(got, logits(tmp_path / "merged.gguf", prompt), atol=1e-3)
    assert np.abs(got - logits(model, prompt)).max() > 0.1


def test_several_alphas_are_folded_into_b(tmp_path: Path) -> None:
    tensors = Q_PAIR | module_pair("layers.0.self_attn.q_proj", (N_QUERY, N_EMBD), seed=1)
    folder = write_folder(tmp_path / "peft", tensors, alpha_pattern={"layers.1.self_attn.q_proj": 9})
    np.testing.assert_allclose(change(folder), 3.0 * Q_PAIR[Q_B] @ Q_PAIR[Q_A], rtol=1e-5, atol=1e-6)


def test_half_precision_is_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f16", {name: values.astype(np.float16) for name, values in Q_PAIR.items()})
    assert np.array_equal(read_peft(folder).pairs[f"model.{Q}"]["A"], Q_PAIR[Q_A].astype(np.float16))
    upper = {name: (values.view(np.uint32) >> 16).astype(np.uint16) for name, values in Q_PAIR.items()}
    specs = {
        name: safetensors.TensorSpec(
            dtype="bfloat16", shape=list(bits.shape), data_ptr=bits.ctypes.data, data_len=bits.nbytes
        )
        for name, bits in upper.items()
    }
    (folder / "adapter_model.safetensors").write_bytes(safetensors.serialize(specs))
    truncated = (Q_PAIR[Q_A].view(np.uint32) & 0xFFFF0000).view(np.float32)
    assert np.array_equal(read_peft(folder).pairs[f"model.{Q}"]["A"], truncated)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', expected 'LORA'"),
        ({"peft_type": None, "r": 0}, "r is 0, expected a whole number"),
        ({"r": "8", "lora_alpha": -1}, "r is '8', expected .*; lora_alpha is -1, expected a number from 1e-9 to 1e9"),
        ({"lora_alpha": float("nan")}, "NaN is not a number in JSON"),
        ({"lora_alpha": 1e-60}, "lora_alpha is 1e-60, expected a number from 1e-9"),  # in float32 0: a scale of 1
        ({"rank_pattern": {"q_proj": -2}}, r"rank_pattern\.q_proj is -2"),
        ({"rank_pattern": {"(a+)+": 2}}, r"rank_pattern has the expressions \['\(a\+\)\+'\]: spell out"),
        ({"use_dora": True, "bias": "all"}, "bias is 'all'.*use_dora: DoRA .*: merge the adapter into its model"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: it holds whole modules .*: train it without"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices: it changes embeddings"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4', which changes the base's"),
        ({"lora_bias": True}, "lora_bias: its B has biases"),
    ],
)
def test_configurations_that_are_refused(config: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=rf"adapter_config\.json: .*{sentence}"):
        read_peft(write_folder(tmp_path / "peft", Q_PAIR, **config))


def test_all_bad_tensors_are_named_at_once(tmp_path: Path) -> None:
    prefix = "base_model.model.model."
    bad = Q_PAIR | {
        f"{prefix}layers.0.self_attn.q_proj.lora_A.weight": np.zeros((4, N_EMBD), np.float32),
        f"{prefix}layers.0.self_attn.q_proj.lora_B.weight": np.zeros(7, np.float32),
        f"{prefix}layers.0.self_attn.k_proj.lora_A.weight": np.zeros((3, N_EMBD), np.int32),
        f"{prefix}layers.0.self_attn.q_proj.lora_magnitude_vector.weight": np.zeros(3, np.float32),
        f"{prefix}embed_tokens.lora_embedding_A": np.zeros((3, 9), np.float32),
        f"{prefix}layers.0.self_attn.q_proj.base_layer.bias": np.zeros(3, np.float32),
        "something": np.zeros(3, np.float32),
    }
    with pytest.raises(AdapterError) as caught:
        read_peft(write_folder(tmp_path / "peft", bad))
    for part in (
        "layers.0.self_attn.q_proj.lora_A.weight has the shape (4, 18), expected (3, …) by the rank",
        "layers.0.self_attn.q_proj.lora_B.weight has the shape (7,), expected a matrix",
        "layers.0.self_attn.k_proj.lora_A.weight has the type I32, expected F32, F16 or BF16",
        "lora_magnitude_vector.weight is DoRA's magnitudes",
        "embed_tokens.lora_embedding_A is LoRA of an embedding",
        "base_layer.bias is a bias",
        "something is unknown, expected base_model.model.….lora_A.weight",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pairs_that_do_not_fit_the_base(tmp_path: Path) -> None:
    tensors = (
        Q_PAIR | module_pair("layers.0.self_attn.k_proj", (9, N_EMBD)) | module_pair("layers.7.mlp.up_proj", (8, 8))
    )
    folder = read_peft(write_folder(tmp_path / "peft", tensors))
    with pytest.raises(
        AdapterError, match=r"attn_k\.weight is 9x18, the model's is 8x18; blk\.7\.ffn_up\.weight does not"
    ):
        folder.on(header("qwen2"))
    with pytest.raises(AdapterError, match=r"has no linear layers of these names: model\.layers\.0\.self_attn\.k_proj"):
        folder.on(header("phi3"))
    vision = module_pair("vision_tower.encoder.layers.0.self_attn.q_proj", (9, N_EMBD))
    with pytest.raises(AdapterError, match=r"has no linear layers of these names: model\.vision_tower\."):
        read_peft(write_folder(tmp_path / "vision", vision)).on(header("gemma3"))
    twice = Q_PAIR | module_pair("language_model." + Q, (N_QUERY, N_EMBD))
    with pytest.raises(AdapterError, match="under two names"):
        read_peft(write_folder(tmp_path / "twice", twice)).on(header("gemma3"))


def test_files_that_are_no_adapter(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "peft", Q_PAIR)
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    whole, document = weights.read_bytes(), config.read_bytes()
    for size in range(0, len(whole), 97):
        weights.write_bytes(whole[:size])
        with pytest.raises(AdapterError, match="not a whole safetensors file"):
            read_peft(folder)
    weights.write_bytes((1 << 60).to_bytes(8, "little") + whole[8:])
    with pytest.raises(AdapterError, match="not a whole safetensors file"):
        read_peft(folder)
    bad = {name: np.where(values > 1, np.nan, values).astype(np.float32) for name, values in Q_PAIR.items()}
    weights.write_bytes(safetensors.numpy.save(bad))
    with pytest.raises(AdapterError, match=r"lora_A\.weight holds values that are not finite; .*lora_B"):
        read_peft(folder)
    weights.write_bytes(safetensors.numpy.save({Q_A: Q_PAIR[Q_A]}))
    with pytest.raises(AdapterError, match=r"q_proj has no lora_B"):
        read_peft(folder)
    weights.write_bytes(safetensors.numpy.save({}))
    with pytest.raises(AdapterError, match="it has no tensors"):
        read_peft(folder)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match="a pickle can run any code"):
        read_peft(folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors: no such file"):
        read_peft(folder)
    for text, sentence in (
        (document[:-5], "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[1]", r"it is \[1\]"),
        (b" " * (5 << 20), "larger than 4 MiB"),
    ):
        config.write_bytes(text)
        with pytest.raises(AdapterError, match=sentence):
            read_peft(folder)
    config.unlink()
    with pytest.raises(AdapterError, match=r"adapter_config\.json: no such file"):
        read_peft(folder)


def test_damaged_folders_are_never_a_crash(tmp_path: Path) -> None:
    """Bytes of both files are changed at random; what is read is an adapter or one sentence."""
    folder = write_folder(tmp_path / "peft", Q_PAIR, rank_pattern={"q_proj": 3})
    rng = np.random.default_rng(0)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        whole = (folder / name).read_bytes()
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(int(rng.integers(1, 4))):
                data[int(rng.integers(min(len(data), 300)))] = int(rng.integers(256))
            (folder / name).write_bytes(data)
            with contextlib.suppress(AdapterError):
                read_peft(folder).on(header("qwen2"))
        (folder / name).write_bytes(whole)


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    base = header("qwen2")
    experts = {f"blk.0.ffn_gate_inp.weight.lora_{p}": np.zeros((3, 3), np.float32) for p in "ab"}
    with pytest.raises(AdapterError, match=r"blk\.0\.ffn_gate_inp\.weight, which qwen2 has not as a linear layer"):
        write_peft(tmp_path / "peft", Adapter(3, 6.0, "qwen2", experts, {}), base=base)
    (tmp_path / "peft").mkdir()
    with pytest.raises(ConfigError, match="it is there already"):
        write_peft(tmp_path / "peft", adapter_for("qwen2"))
    with pytest.raises(ConfigError, match="no such folder"):
        write_peft(tmp_path / "none" / "peft", adapter_for("qwen2"))
    (tmp_path / "peft" / "adapter_config.json").touch()
    with pytest.raises(ConfigError, match="it is a PEFT folder already"):
        convert(tmp_path / "peft", tmp_path / "other", "peft")
    with pytest.raises(AdapterError, match="give the base model with --model"):
        convert(tmp_path / "peft", tmp_path / "a.gguf", "gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["peft"]


def test_an_adapter_of_llama_cpp_that_is_not_plain_lora(tmp_path: Path) -> None:
    tensors = adapter_tensors(header("qwen2"))
    write_adapter(
        tmp_path / "a.gguf", tensors, alpha=6, architecture="qwen2", metadata={"adapter.alora.invocation_tokens": 7}
    )
    with pytest.raises(AdapterError, match="acts after certain tokens only"):
        read_adapter(tmp_path / "a.gguf")


def test_scales_that_differ_by_more_than_float32_holds(tmp_path: Path) -> None:
    """B takes up the difference of two alphas, and must stay finite."""
    pairs = {
        name: np.full_like(values, 1e35)
        for layer, module in ((0, "q_proj"), (0, "o_proj"), (1, "o_proj"))
        for name, values in module_pair(
            f"layers.{layer}.self_attn.{module}", (N_QUERY, N_EMBD) if module == "q_proj" else (N_EMBD, N_QUERY)
        ).items()
    }
    folder = write_folder(tmp_path / "peft", pairs, lora_alpha=1, alpha_pattern={"q_proj": 1e9})
    with pytest.raises(AdapterError, match=r"q_proj is scaled 1e\+09 times as much as most modules.*alpha_pattern"):
        read_peft(folder).on(header("qwen2"))
