"""A damaged, hostile or unsupported model file is refused with one sentence, and never ends the process."""

import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.gguf_writer import GGUFValue

from cpuft.engine import Engine
from cpuft.errors import ModelError
from tests.fuzz.mutation import damaged

from .probe import Outcome, probe
from .random_model import LINEARS, ModelSpec, vocabulary, weights, write_model, write_small_model

SPEC = ModelSpec("llama", n_layer=1, n_embd=48, n_ff=64, n_head=3, n_head_kv=1, head_size=16, seed=41)
BPE_SPEC = ModelSpec("qwen2", n_layer=1, n_embd=48, n_ff=64, n_head=3, n_head_kv=1, head_size=16, seed=42)
U32, F32, TEXT = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING
ARRAY = gguf.GGUFValueType.ARRAY
HUGE = 2**64 - 1


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a model that works."""
    return write_model(tmp_path_factory.mktemp("good") / "good.gguf", SPEC).read_bytes()


def all_refused(outcomes: Sequence[Outcome]) -> None:
    """Asserts that each file got one sentence that names it."""
    wrong = [
        outcome
        for outcome in outcomes
        if outcome.error != "ModelError" or "\n" in outcome.message or str(outcome.path) not in outcome.message
    ]
    assert not wrong, "\n".join(f"{o.path.name}: {o.error or 'accepted'} {o.message}" for o in wrong)


def write_all(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Writes name -> content."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def test_the_probe_accepts_good_models(tmp_path: Path) -> None:
    specs = {"llama": SPEC, "qwen2": BPE_SPEC}
    outcomes = probe([write_model(tmp_path / f"{name}.gguf", spec) for name, spec in specs.items()])
    assert [outcome.error for outcome in outcomes] == ["", ""], outcomes


def test_truncated_at_fifty_places(good: bytes, tmp_path: Path) -> None:
    header = good.index(b"token_embd.weight")
    early = [0, 1, 3, 4, 7, 8, 15, 16, 23, 24, 25, 31, 32]
    places = early + [header * k // 18 for k in range(1, 18)]
    places += [header + (len(good) - 32 - header) * k // 19 for k in range(20)]
    assert len(set(places)) == 50
    all_refused(probe(write_all(tmp_path, {f"{place}.gguf": good[:place] for place in places})))


def tensor_entry(file: bytes, name: bytes) -> int:
    """Where a tensor's entry goes on after its name: u32 dimensions, u64 each, u32 type, u64 offset."""
    start = file.index(struct.pack("<Q", len(name)) + name)
    return start + 8 + len(name)


def patched(file: bytes, place: int, code: str, *values: int) -> bytes:
    data = struct.pack("<" + code, *values)
    return file[:place] + data + file[place + len(data) :]


def test_impossible_headers(good: bytes, tmp_path: Path) -> None:
    entry = tensor_entry(good, b"blk.0.attn_q.weight")
    first_key = 24
    architecture = good.index(b"general.architecture") + len("general.architecture")
    tokens = good.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens")
    files = {
        "text": b"a file about models\n" * 100,
        "magic": b"GGML" + good[4:],
        "big-endian": patched(good, 4, "I", 3 << 24),
        "version-0": patched(good, 4, "I", 0),
        "version-1": patched(good, 4, "I", 1),
        "version-99": patched(good, 4, "I", 99),
        "no-tensors": patched(good, 8, "Q", 0),
        "one-tensor-more": patched(good, 8, "Q", struct.unpack_from("<Q", good, 8)[0] + 1),
        "no-entries": patched(good, 16, "Q", 0),
        "type-unknown": patched(good, entry + 20, "I", 77),
        "type-removed": patched(good, entry + 20, "I", int(gguf.GGMLQuantizationType.Q4_0) + 2),
        "type-integer": patched(good, entry + 20, "I", int(gguf.GGMLQuantizationType.I32)),
        "type-blocked": patched(good, entry + 20, "I", int(gguf.GGMLQuantizationType.Q4_K)),
        "type-negative": patched(good, entry + 20, "i", -1),
        "offset-odd": patched(good, entry + 24, "Q", 17),
        "offset-of-another": patched(good, entry + 24, "Q", 0),
        "dimensions-none": patched(good, entry, "I", 0),
        "dimensions-many": patched(good, entry, "I", 5),
        "dimensions-absurd": patched(good, entry, "I", 2**32 - 1),
        "same-name-twice": good.replace(b"blk.0.attn_k.weight", b"blk.0.attn_v.weight"),
        "name-not-utf-8": good.replace(b"blk.0.attn_k.weight", b"blk.0.attn_\xff.weight"),
        "architecture-not-utf-8": good.replace(b"llama", b"ll\xffma"),
        "name-with-zero": good.replace(b"blk.0.attn_k.weight", b"blk.0.attn_k\0weight"),
        "key-type-unknown": patched(good, architecture, "I", 99),
        "array-of-arrays": patched(good, tokens + 4, "I", int(ARRAY)),
        "key-zero-length": patched(good, first_key, "Q", 0),
    }
    for n in (2**31, 2**32, 2**48, 2**61, 2**63 - 1, 2**63, HUGE):
        files |= {
            f"tensors-{n}": patched(good, 8, "Q", n),
            f"entries-{n}": patched(good, 16, "Q", n),
            f"key-length-{n}": patched(good, first_key, "Q", n),
            f"text-length-{n}": patched(good, architecture + 4, "Q", n),
            f"array-length-{n}": patched(good, tokens + 8, "Q", n),
            f"rows-{n}": patched(good, entry + 12, "Q", n),
            f"columns-{n}": patched(good, entry + 4, "Q", n),
            f"offset-{n}": patched(good, entry + 24, "Q", n - n % 32),
        }
    all_refused(probe(write_all(tmp_path, files)))


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0])
def test_sizes_that_do_not_fit_64_bits_are_seen_as_such(kind: int, good: bytes, tmp_path: Path) -> None:
    """The bytes of the last tensor are 2^63 or more: as a signed number negative, or, taken times a block, nothing."""
    entry = tensor_entry(good, b"output.weight")
    for columns in (2**61, 2**62 - 2**32, 2**61 + 2**58):
        huge = patched(patched(good, entry + 4, "QQ", columns, 1), entry + 20, "I", int(kind))
        (tmp_path / "huge.gguf").write_bytes(huge)
        with pytest.raises(ModelError, match=r"output\.weight lies beyond the end of the file"):
            Engine(tmp_path / "huge.gguf")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "directory.gguf").mkdir()
    (tmp_path / "empty.gguf").touch()
    all_refused(probe([tmp_path / "missing.gguf", tmp_path / "directory.gguf", tmp_path / "empty.gguf"]))


def test_missing_tensors(tmp_path: Path) -> None:
    all_weights = dict(weights(SPEC))
    optional = {"output.weight"}  # without it the head is tied
    paths = []
    for name in all_weights.keys() - optional:
        rest = {other: values for other, values in all_weights.items() if other != name}
        paths.append(write_model(tmp_path / f"{name}.gguf", SPEC, rest))
    outcomes = probe(paths)
    all_refused(outcomes)
    for outcome in outcomes:
        assert outcome.path.stem in outcome.message


def test_wrong_shapes(tmp_path: Path) -> None:
    """One row or column more or less, transposed, or of three dimensions."""
    all_weights = dict(weights(SPEC))
    paths = []
    for name, values in all_weights.items():
        changed = {"longer": np.concatenate([values, values[:1]]), "shorter": values[:-1]}
        if values.ndim == 2:
            changed |= {"wider": np.concatenate([values, values[:, :1]], 1), "cube": np.stack([values, values])}
            if values.shape[0] != values.shape[1]:
                changed["transposed"] = values.T
        for how, array in changed.items():
            if name == "token_embd.weight" and how in ("longer", "shorter"):
                continue  # test_tokenizer_faults
            tensors = all_weights | {name: np.ascontiguousarray(array)}
            paths.append(write_model(tmp_path / f"{name}-{how}.gguf", SPEC, tensors))
    all_refused(probe(paths))


def test_unknown_tensors_are_not_ignored(tmp_path: Path) -> None:
    """What llama.cpp would add to the arithmetic, or what belongs to another architecture, must not be left out."""
    extra = {
        "blk.0.attn_q_norm.weight": 16,
        "blk.0.attn_rot_embd.weight": 16,
        "blk.0.ffn_gate_inp.weight": 48,
        "blk.0.post_attention_norm.weight": 48,
        "blk.1.attn_norm.weight": 48,
        "output_norm.bias": 48,
    }
    paths = []
    for name, size in extra.items():
        tensors = dict(weights(SPEC)) | {name: np.ones(size, np.float32)}
        paths.append(write_model(tmp_path / f"{name}.gguf", SPEC, tensors))
    all_refused(probe(paths))


def test_impossible_metadata(tmp_path: Path) -> None:
    numbers: dict[str, list[int]] = {
        "block_count": [0, 2, 100_000, 2**32 - 1],
        "embedding_length": [0, 1, 47, 49, 2**32 - 1],
        "feed_forward_length": [0, 63, 2**32 - 1],
        "attention.head_count": [0, 1, 2, 7, 2**32 - 1],
        "attention.head_count_kv": [0, 2, 3, 6, 2**32 - 1],
        "attention.key_length": [0, 1, 8, 15, 17, 2**32 - 1],
        "attention.value_length": [0, 8, 32, 2**32 - 1],
        "rope.dimension_count": [0, 1, 7, 18, 2**32 - 1],
        "expert_count": [8],
    }
    changes: dict[str, dict[str, GGUFValue | None]] = {
        f"{key}={value}": {f"llama.{key}": GGUFValue(value, U32)} for key, values in numbers.items() for value in values
    }
    for key in ("block_count", "embedding_length", "feed_forward_length", "attention.head_count"):
        changes |= {
            f"{key}-missing": {f"llama.{key}": None},
            f"{key}-text": {f"llama.{key}": GGUFValue("many", TEXT)},
            f"{key}-real": {f"llama.{key}": GGUFValue(1.5, F32)},
            f"{key}-array": {f"llama.{key}": GGUFValue([1, 1], ARRAY)},
        }
    for value in (-1.0, 0.0, float("nan"), float("inf")):
        changes[f"rope-base={value}"] = {"llama.rope.freq_base": GGUFValue(value, F32)}
    for value in (-1.0, float("nan"), float("inf")):
        changes[f"epsilon={value}"] = {"llama.attention.layer_norm_rms_epsilon": GGUFValue(value, F32)}
    for kind in ("yarn", "longrope", "dynamic", "", "x" * 5000):
        scaling: dict[str, GGUFValue | None] = {
            "llama.rope.scaling.type": GGUFValue(kind, TEXT),
            "llama.rope.scaling.factor": GGUFValue(4.0, F32),
        }
        changes[f"rope-{kind[:20] or 'empty'}"] = scaling
    for architecture in ("gemma2", "bert", "", "llama\n", "clip", "x" * 10_000):
        changes[f"architecture-{architecture[:20].strip() or 'empty'}-{len(architecture)}"] = {
            "general.architecture": GGUFValue(architecture, TEXT)
        }
    changes["architecture-number"] = {"general.architecture": GGUFValue(3, U32)}
    changes["architecture-missing"] = {"general.architecture": None}
    changes["alignment=3"] = {"general.alignment": GGUFValue(3, U32)}
    changes["alignment=0"] = {"general.alignment": GGUFValue(0, U32)}
    changes |= {f"alignment={n}": {"general.alignment": GGUFValue(n, U32)} for n in (1, 2, 4)}
    changes["alignment=huge"] = {"general.alignment": GGUFValue(2**31, U32)}
    changes["split"] = {"split.count": GGUFValue(2, gguf.GGUFValueType.UINT16)}
    all_refused(probe([write_model(tmp_path / f"{name}.gguf", SPEC, metadata=m) for name, m in changes.items()]))


def test_tokenizer_faults(tmp_path: Path) -> None:
    """The tokenizer's part of the file is read by llama.cpp, which trusts it more than we do."""
    tokens = [f"t{i}" for i in range(BPE_SPEC.n_vocab)]
    changes: dict[str, dict[str, GGUFValue | None]] = {
        "no-model": {"tokenizer.ggml.model": None},
        "model-unknown": {"tokenizer.ggml.model": GGUFValue("abacus", TEXT)},
        "model-number": {"tokenizer.ggml.model": GGUFValue(1, U32)},
        "no-tokens": {"tokenizer.ggml.tokens": None},
        "tokens-twice": {"tokenizer.ggml.tokens": GGUFValue(["t0", *tokens[:-1]], ARRAY)},
        "tokens-numbers": {"tokenizer.ggml.tokens": GGUFValue([1, 2, 3], ARRAY)},
        "tokens-few": {"tokenizer.ggml.tokens": GGUFValue(tokens[:100], ARRAY)},
        "tokens-many": {"tokenizer.ggml.tokens": GGUFValue([*tokens, "one", "two"], ARRAY)},
        "types-few": {"tokenizer.ggml.token_type": GGUFValue([1, 1], ARRAY)},
        "types-text": {"tokenizer.ggml.token_type": GGUFValue(["a"] * len(tokens), ARRAY)},
    }
    without_bytes = [token.replace("<0xC3>", "<0xZZ>") for token in vocabulary("llama")[0]]
    spm: dict[str, dict[str, GGUFValue | None]] = {
        "byte-without-token": {"tokenizer.ggml.tokens": GGUFValue(without_bytes, ARRAY)},
        "scores-few": {"tokenizer.ggml.scores": GGUFValue([0.0, 1.0], ARRAY)},
        "scores-text": {"tokenizer.ggml.scores": GGUFValue(["a"] * SPEC.n_vocab, ARRAY)},
    }
    bpe: dict[str, dict[str, GGUFValue | None]] = {
        "no-merges": {"tokenizer.ggml.merges": None},
        "merges-numbers": {"tokenizer.ggml.merges": GGUFValue([1, 2], ARRAY)},
        "pre-unknown": {"tokenizer.ggml.pre": GGUFValue("abacus", TEXT)},
    }
    paths = [write_model(tmp_path / f"spm-{name}.gguf", SPEC, metadata=m) for name, m in (changes | spm).items()]
    paths += [write_model(tmp_path / f"bpe-{name}.gguf", BPE_SPEC, metadata=m) for name, m in (changes | bpe).items()]
    embedding = dict(weights(SPEC))["token_embd.weight"]
    for how, rows in {"longer": np.concatenate([embedding, embedding[:1]]), "shorter": embedding[:-1]}.items():
        tied = {name: values for name, values in weights(SPEC) if name != "output.weight"}
        paths.append(write_model(tmp_path / f"embedding-{how}.gguf", SPEC, tied | {"token_embd.weight": rows}))
    all_refused(probe(paths))


def test_a_token_that_the_vocabulary_lacks_is_put_to_each_text(tmp_path: Path) -> None:
    """By default: llama.cpp takes token 1 or 11, drops it where there is none, and then asserts that it has it."""
    llama3: dict[str, GGUFValue | None] = {"tokenizer.ggml.pre": GGUFValue("llama-bpe", TEXT)}
    out_of_range: dict[str, GGUFValue | None] = {"tokenizer.ggml.bos_token_id": GGUFValue(8, U32)}
    paths = [
        write_small_model(tmp_path / "spm-1.gguf", SPEC, 1, {}),
        write_small_model(tmp_path / "bpe-8.gguf", BPE_SPEC, 8, llama3),
        write_small_model(tmp_path / "bpe-8-id.gguf", BPE_SPEC, 8, llama3 | out_of_range),
    ]
    outcomes = probe(paths)
    all_refused(outcomes)
    assert all("bos_token_id does not say which" in outcome.message for outcome in outcomes), outcomes


@pytest.mark.parametrize("spec", [SPEC, BPE_SPEC], ids=["llama", "qwen2"])
def test_fuzzed_headers_never_crash(spec: ModelSpec, tmp_path: Path) -> None:
    """Random bytes in the header: the model works or is refused; nothing else can happen."""
    whole = write_model(tmp_path / "good.gguf", spec).read_bytes()
    header = tensor_entry(whole, b"output.weight") + 32
    choose = random.Random(43)
    files = {}
    for number in range(120):
        files[f"fuzz-{number}.gguf"] = damaged(whole, 4, header, choose)
    bad = [o for o in probe(write_all(tmp_path, files)) if o.error not in ("", "ModelError", "ResourceError")]
    assert not bad, "\n".join(f"{o.path.name}: {o.error} {o.message}" for o in bad)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    """A NaN in the base is not the adapter's fault: the step refuses the gradient, and nothing has changed."""
    tensors = dict(weights(SPEC))
    tensors["blk.0.ffn_up.weight"][3, 5] = np.nan
    outcome = probe([write_model(tmp_path / "nan.gguf", SPEC, tensors)])[0]
    assert outcome.error in ("ModelError", "EngineError")
    assert "finite" in outcome.message


@pytest.mark.parametrize(("isa", "precision"), [("mmx", None), (None, "fp8"), ("avx2", "int8")])
def test_unknown_kernels(isa: str | None, precision: str | None, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", SPEC)
    with pytest.raises(ModelError, match=precision or isa):
        Engine(path, isa=isa, precision=precision)


def test_the_sentence_names_what_was_found_and_expected(tmp_path: Path) -> None:
    change: Callable[..., Path] = lambda **kw: write_model(tmp_path / "changed.gguf", SPEC, **kw)  # noqa: E731
    with pytest.raises(ModelError, match=r"changed\.gguf.*bert.*llama.*qwen2.*phi3"):
        Engine(change(metadata={"general.architecture": GGUFValue("bert", TEXT)}))
    tensors = dict(weights(SPEC))
    name = f"blk.0.{LINEARS[0]}.weight"
    tensors[name] = np.ascontiguousarray(tensors[name][:-1])
    with pytest.raises(ModelError, match=r"blk\.0\.attn_q\.weight.*47, 48.*48, 48"):
        Engine(change(tensors=tensors))
