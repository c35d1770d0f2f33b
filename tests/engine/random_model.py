"""Random small models as GGUF files, the same bits on every machine: the golden fixtures keep seeds, not weights.

Values come from the raw 64-bit output of PCG64, which numpy guarantees across versions, not from its distributions.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from benchmarks.architectures import Block

FloatArray = npt.NDArray[np.float32]

# llama.cpp's names of the seven linear layers, in the order of the C ABI; ModelSpec.linears has those of fused ones.
LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@dataclass(frozen=True)
class RopeScaling:
    """The frequency scaling of Llama 3.1 (its `rope_scaling`: {"rope_type": "llama3", ...})."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 64


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by a factor, as in the larger Gemma 3 models; their layers with a window have none."""

    factor: float = 8.0


@dataclass(frozen=True)
class LongRope:
    """Phi-3's: one factor for each rotary frequency, of two sets, one for sequences beyond the original context."""

    original_context: int


@dataclass(frozen=True)
class ModelSpec(Block):
    """A model's shape; it is a Block of benchmarks/architectures.py. Two specs that are equal give equal files."""

    architecture: str
    n_layer: int = 2
    n_embd: int = 96
    n_ff: int = 152
    n_head: int = 6
    n_head_kv: int = 2
    head_size: int = 20
    tied: bool = False
    biases: bool = False  # on attn_q, attn_k and attn_v
    rope_base: float = 10000.0
    rope_scaling: RopeScaling | LinearScaling | LongRope | None = None
    rms_epsilon: float = 1e-5
    n_context: int = 1024
    seed: int = 0
    window: int = 0  # tokens that a query of a layer with a window sees, itself among them; 0: the file has none
    window_rope_base: float = 0.0  # of the layers with a window; 0: the file leaves it to the reader
    score_cap: float = 0.0  # attention scores become cap * tanh(score / cap); 0: they stay
    logit_cap: float = 0.0

    @property
    def n_vocab(self) -> int:
        """How many tokens the architecture's vocabulary has."""
        return len(vocabulary(self.architecture)[0])


def draw(seed: int, name: str, shape: tuple[int, ...], deviation: float) -> FloatArray:
    """Uniform values of mean 0 and the given standard deviation; a stream of its own for each (seed, name)."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    raw = np.random.PCG64(int.from_bytes(digest[:16], "little")).random_raw(int(np.prod(shape)))
    unit = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53  # [0, 1)
    return np.asarray((2.0 * unit - 1.0) * (deviation * 3.0**0.5), np.float32).reshape(shape)


def weights(spec: ModelSpec) -> Iterator[tuple[str, FloatArray]]:
    """(name, values) of every tensor, in llama.cpp's names and layout. Norms are around 1, so that they matter."""

    def norm(name: str, size: int) -> tuple[str, FloatArray]:
        return name, (1.0 + draw(spec.seed, name, (size,), 0.2)).astype(np.float32)

    shape = (spec.n_vocab, spec.n_embd)
    head_deviation = 2.0 / spec.n_embd**0.5  # logits of about +-2: neither flat nor saturated
    yield "token_embd.weight", draw(spec.seed, "token_embd.weight", shape, head_deviation if spec.tied else 0.7)
    for layer in range(spec.n_layer):
        block = f"blk.{layer}."
        for name, size in spec.norms.items():
            yield norm(f"{block}{name}.weight", size)
        for linear, (rows, cols) in spec.linears.items():
            yield f"{block}{linear}.weight", draw(spec.seed, block + linear, (rows, cols), 1.2 / cols**0.5)
            if spec.biases and linear in ("attn_q", "attn_k", "attn_v"):
                yield f"{block}{linear}.bias", draw(spec.seed, f"{block}{linear}.bias", (rows,), 0.5)
    yield norm("output_norm.weight", spec.n_embd)
    if not spec.tied:
        yield "output.weight", draw(spec.seed, "output.weight", shape, head_deviation)
    yield from rope_factors(spec).items()


def rope_factors(spec: ModelSpec) -> dict[str, FloatArray]:
    """What each rotary frequency is divided by, as tensors [head_size / 2]; none where no tensor tells."""
    if isinstance(spec.rope_scaling, RopeScaling):
        return {"rope_freqs.weight": _llama3_factors(spec, spec.rope_scaling)}
    if isinstance(spec.rope_scaling, LongRope):
        names, shape = ("rope_factors_long.weight", "rope_factors_short.weight"), (spec.head_size // 2,)
        means, deviations = (4.0, 1.3), (1.5, 0.15)  # all above 1, the long ones far above
        return {
            name: (mean + draw(spec.seed, name, shape, deviation)).astype(np.float32)
            for name, mean, deviation in zip(names, means, deviations, strict=True)
        }
    return {}


def _llama3_factors(spec: ModelSpec, scaling: RopeScaling) -> FloatArray:
    """Llama 3.1's: [head_size / 2].

    Short waves stay, those longer than the original context are stretched by `factor`, and between the two the inverse
    is interpolated in 1 / wavelength (Llama 3.1's model card and reference code).
    """
    exponents = np.arange(0, spec.head_size, 2, dtype=np.float64) / spec.head_size
    wavelength = 2.0 * np.pi * spec.rope_base**exponents
    blend = scaling.original_context / wavelength - scaling.low_freq_factor
    blend = np.clip(blend / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0)
    return (1.0 / ((1.0 - blend) / scaling.factor + blend)).astype(np.float32)


def adapter(spec: ModelSpec, rank: int, seed: int) -> dict[str, FloatArray]:
    """Random non-zero A and B for every linear layer: "blk.0.attn_q.weight.lora_a" -> (rank, inputs)."""
    tensors = {}
    for layer in range(spec.n_layer):
        for linear, (rows, cols) in spec.linears.items():
            name = f"blk.{layer}.{linear}.weight"
            tensors[name + ".lora_a"] = draw(seed, name + ".lora_a", (rank, cols), cols**-0.5)
            tensors[name + ".lora_b"] = draw(seed, name + ".lora_b", (rows, rank), 0.05)
    return tensors


def digest(tensors: Mapping[str, FloatArray]) -> str:
    """One sha256 over names and values, to notice a machine that draws other numbers."""
    total = hashlib.sha256()
    for name, values in tensors.items():
        total.update(name.encode() + np.ascontiguousarray(values, dtype="<f4").tobytes())
    return total.hexdigest()


def write_model(
    path: Path,
    spec: ModelSpec,
    tensors: Mapping[str, FloatArray] | None = None,
    metadata: Mapping[str, gguf.GGUFValue | None] | None = None,
) -> Path:
    """Writes spec's model in F32.

    tensors: stands in for spec's weights. metadata: entries to replace or add; None removes one.
    """
    writer = gguf.GGUFWriter(path, spec.architecture)
    writer.add_name("random")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(spec.n_layer)
    writer.add_context_length(spec.n_context)
    writer.add_embedding_length(spec.n_embd)
    writer.add_feed_forward_length(spec.n_ff)
    writer.add_head_count(spec.n_head)
    writer.add_head_count_kv(spec.n_head_kv)
    writer.add_key_length(spec.head_size)
    writer.add_value_length(spec.head_size)
    writer.add_rope_dimension_count(spec.head_size)
    writer.add_rope_freq_base(spec.rope_base)
    writer.add_layer_norm_rms_eps(spec.rms_epsilon)
    writer.add_vocab_size(spec.n_vocab)
    _add_rope_scaling(writer, spec)
    _add_windows_and_caps(writer, spec)
    for key in spec.facts.unwritten:
        writer.kv_data[0].pop(f"{spec.architecture}.{key}")
    _add_tokenizer(writer, spec.architecture)
    for name, values in (dict(weights(spec)) if tensors is None else tensors).items():
        writer.add_tensor(name, values)
    for key, value in (metadata or {}).items():
        writer.kv_data[0].pop(key, None)
        if value is not None:
            writer.kv_data[0][key] = value
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_small_model(path: Path, spec: ModelSpec, n_vocab: int, metadata: Mapping[str, gguf.GGUFValue | None]) -> Path:
    """A model of the first tokens of its vocabulary alone, without ids of special tokens."""
    tokens, types, _ = vocabulary(spec.architecture)
    array, u32 = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32
    small: dict[str, gguf.GGUFValue | None] = {
        "tokenizer.ggml.tokens": gguf.GGUFValue(tokens[:n_vocab], array),
        "tokenizer.ggml.token_type": gguf.GGUFValue(types[:n_vocab], array),
        f"{spec.architecture}.vocab_size": gguf.GGUFValue(n_vocab, u32),
        "tokenizer.ggml.add_bos_token": None,
    }
    if TOKENIZERS[spec.architecture].model == "llama":
        small["tokenizer.ggml.scores"] = gguf.GGUFValue([0.0] * n_vocab, array)
    small |= {f"tokenizer.ggml.{name}_token_id": None for name in ("bos", "eos", "unknown", "padding")}
    tensors = {name: values[:n_vocab] if len(values) == spec.n_vocab else values for name, values in weights(spec)}
    return write_model(path, spec, tensors, small | dict(metadata))


def _add_rope_scaling(writer: gguf.GGUFWriter, spec: ModelSpec) -> None:
    """What the converters write; nothing for RopeScaling, which its tensor tells."""
    if isinstance(spec.rope_scaling, LinearScaling):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(spec.rope_scaling.factor)
    elif isinstance(spec.rope_scaling, LongRope):
        original = spec.rope_scaling.original_context
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors((1.0 + np.log(spec.n_context / original) / np.log(original)) ** 0.5)


def _add_windows_and_caps(writer: gguf.GGUFWriter, spec: ModelSpec) -> None:
    if spec.window:
        writer.add_sliding_window(spec.window)
    if spec.window_rope_base:
        writer.add_rope_freq_base_swa(spec.window_rope_base)
    if spec.score_cap:
        writer.add_attn_logit_softcapping(spec.score_cap)
    if spec.logit_cap:
        writer.add_final_logit_softcapping(spec.logit_cap)


# ---- Tokenizers ---------------------------------------------------------------------------------------------------
# Real ones, of the kind that each architecture's models have, so that llama.cpp loads the files. Their sizes, 303 and
# 301, are no multiples of any block or register.


@dataclass(frozen=True)
class Tokenizer:
    """SentencePiece with byte fallback, its special tokens in front, or byte-level BPE, with them behind."""

    model: str  # tokenizer.ggml.model
    pre: str  # tokenizer.ggml.pre
    special: tuple[str, ...]
    bos: int | None
    eos: int
    unknown: int | None = None
    pad: int | None = None
    add_space_prefix: bool | None = None  # None: the file does not say


LLAMA = Tokenizer("llama", "default", ("<unk>", "<s>", "</s>"), bos=1, eos=2, unknown=0)
GEMMA = Tokenizer(
    "llama",
    "default",
    ("<pad>", "<eos>", "<bos>", "<unk>"),
    bos=2,
    eos=1,
    unknown=3,
    pad=0,
    add_space_prefix=False,
)
QWEN = Tokenizer("gpt2", "qwen2", ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), bos=None, eos=300, pad=298)
TOKENIZERS = {
    "llama": LLAMA,
    "phi3": LLAMA,
    "gemma2": GEMMA,
    "gemma3": GEMMA,
    "qwen2": QWEN,
    "qwen3": QWEN,
    "smollm3": QWEN,
}
LETTERS = tuple("▁etaoinshrdlucmfwypvbgkjqxzETAOINSHRDLUCMFWYPV")[:44]


def vocabulary(architecture: str) -> tuple[list[str], list[int], list[str]]:
    """(tokens, token types, merges) of an architecture's vocabulary."""
    normal, unknown, control, byte = 1, 2, 3, 6
    tokenizer = TOKENIZERS[architecture]
    special = list(tokenizer.special)
    if tokenizer.model == "llama":
        letters = LETTERS[: 303 - 256 - len(special)]
        tokens = [*special, *(f"<0x{value:02X}>" for value in range(256)), *letters]
        types = [control] * len(special) + [byte] * 256 + [normal] * len(letters)
        types[special.index("<unk>")] = unknown
        return tokens, types, []
    bytes_as_text = _byte_level_alphabet()
    merges = [f"{a} {b}" for a in "eta" for b in "oinshrdlucmfw"] + ["Ġ t", "Ġ a", "to n"]
    tokens = [*bytes_as_text, *(merge.replace(" ", "") for merge in merges), *special]
    return tokens, [normal] * (len(tokens) - 3) + [control] * 3, merges


def _byte_level_alphabet() -> list[str]:
    """GPT-2's spelling of the 256 bytes: printable ones as themselves, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(value) if value in printable else chr(next(others)) for value in range(256)]


def _add_tokenizer(writer: gguf.GGUFWriter, architecture: str) -> None:
    tokens, types, merges = vocabulary(architecture)
    tokenizer = TOKENIZERS[architecture]
    writer.add_tokenizer_model(tokenizer.model)
    writer.add_tokenizer_pre(tokenizer.pre)
    if merges:
        writer.add_token_merges(merges)
    else:
        writer.add_token_scores([0.0] * len(tokens))
    if tokenizer.bos is not None:
        writer.add_bos_token_id(tokenizer.bos)
    writer.add_eos_token_id(tokenizer.eos)
    if tokenizer.unknown is not None:
        writer.add_unk_token_id(tokenizer.unknown)
    if tokenizer.pad is not None:
        writer.add_pad_token_id(tokenizer.pad)
    if tokenizer.add_space_prefix is not None:
        writer.add_add_space_prefix(tokenizer.add_space_prefix)
    writer.add_add_bos_token(tokenizer.bos is not None)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
