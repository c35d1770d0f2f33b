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

FloatArray = npt.NDArray[np.float32]

# llama.cpp's names of the seven linear layers, in the order of the C ABI.
LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
# The layers whose outputs the rotary embedding turns; the llama architecture stores their rows interleaved.
ROTARY = ("attn_q", "attn_k")


@dataclass(frozen=True)
class RopeScaling:
    """The frequency scaling of Llama 3.1 (its `rope_scaling`: {"rope_type": "llama3", ...})."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 64


@dataclass(frozen=True)
class ModelSpec:
    """A model's shape. Two specs that are equal give equal files."""

    architecture: str  # "llama" or "qwen2"
    n_layer: int = 2
    n_embd: int = 96
    n_ff: int = 152
    n_head: int = 6
    n_head_kv: int = 2
    head_size: int = 20
    tied: bool = False
    biases: bool = False  # on attn_q, attn_k and attn_v
    rope_base: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rms_epsilon: float = 1e-5
    n_context: int = 1024
    seed: int = 0

    @property
    def n_vocab(self) -> int:
        """How many tokens the architecture's vocabulary has."""
        return len(vocabulary(self.architecture)[0])

    def linear_shape(self, linear: str) -> tuple[int, int]:
        """(outputs, inputs) of one of LINEARS."""
        n_q, n_kv = self.n_head * self.head_size, self.n_head_kv * self.head_size
        return {
            "attn_q": (n_q, self.n_embd),
            "attn_k": (n_kv, self.n_embd),
            "attn_v": (n_kv, self.n_embd),
            "attn_output": (self.n_embd, n_q),
            "ffn_gate": (self.n_ff, self.n_embd),
            "ffn_up": (self.n_ff, self.n_embd),
            "ffn_down": (self.n_embd, self.n_ff),
        }[linear]


def draw(seed: int, name: str, shape: tuple[int, ...], deviation: float) -> FloatArray:
    """Uniform values of mean 0 and the given standard deviation; a stream of its own for each (seed, name)."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    raw = np.random.PCG64(int.from_bytes(digest[:16], "little")).random_raw(int(np.prod(shape)))
    unit = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53  # [0, 1)
    return np.asarray((2.0 * unit - 1.0) * (deviation * 3.0**0.5), np.float32).reshape(shape)


def weights(spec: ModelSpec) -> Iterator[tuple[str, FloatArray]]:
    """(name, values) of every tensor, in llama.cpp's names and layout. Norms are around 1, so that they matter."""

    def norm(name: str) -> tuple[str, FloatArray]:
        return name, (1.0 + draw(spec.seed, name, (spec.n_embd,), 0.2)).astype(np.float32)

    shape = (spec.n_vocab, spec.n_embd)
    head_deviation = 2.0 / spec.n_embd**0.5  # logits of about +-2: neither flat nor saturated
    yield "token_embd.weight", draw(spec.seed, "token_embd.weight", shape, head_deviation if spec.tied else 0.7)
    for layer in range(spec.n_layer):
        block = f"blk.{layer}."
        yield norm(block + "attn_norm.weight")
        yield norm(block + "ffn_norm.weight")
        for linear in LINEARS:
            rows, cols = spec.linear_shape(linear)
            yield f"{block}{linear}.weight", draw(spec.seed, block + linear, (rows, cols), 1.2 / cols**0.5)
            if spec.biases and linear in ("attn_q", "attn_k", "attn_v"):
                yield f"{block}{linear}.bias", draw(spec.seed, f"{block}{linear}.bias", (rows,), 0.5)
    yield norm("output_norm.weight")
    if not spec.tied:
        yield "output.weight", draw(spec.seed, "output.weight", shape, head_deviation)
    if spec.rope_scaling is not None:
        yield "rope_freqs.weight", rope_factors(spec)


def rope_factors(spec: ModelSpec) -> FloatArray:
    """What each rotary frequency is divided by under RopeScaling: [head_size / 2].

    Short waves stay, those longer than the original context are stretched by `factor`, and between the two the inverse
    is interpolated in 1 / wavelength (Llama 3.1's model card and reference code).
    """
    scaling = spec.rope_scaling
    assert scaling is not None
    exponents = np.arange(0, spec.head_size, 2, dtype=np.float64) / spec.head_size
    wavelength = 2.0 * np.pi * spec.rope_base**exponents
    blend = scaling.original_context / wavelength - scaling.low_freq_factor
    blend = np.clip(blend / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0)
    return (1.0 / ((1.0 - blend) / scaling.factor + blend)).astype(np.float32)


def adapter(spec: ModelSpec, rank: int, seed: int) -> dict[str, FloatArray]:
    """Random non-zero A and B for every linear layer: "blk.0.attn_q.weight.lora_a" -> (rank, inputs)."""
    tensors = {}
    for layer in range(spec.n_layer):
        for linear in LINEARS:
            rows, cols = spec.linear_shape(linear)
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


# ---- Tokenizers ---------------------------------------------------------------------------------------------------
# Real ones, of the kind that each architecture's models have, so that llama.cpp loads the files. Their sizes, 303 and
# 301, are no multiples of any block or register.

SPECIAL = {"llama": ("<unk>", "<s>", "</s>"), "qwen2": ("<|endoftext|>", "<|im_start|>", "<|im_end|>")}
LETTERS = tuple("▁etaoinshrdlucmfwypvbgkjqxzETAOINSHRDLUCMFWYPV")[:44]


def vocabulary(architecture: str) -> tuple[list[str], list[int], list[str]]:
    """(tokens, token types, merges): SentencePiece with byte fallback for llama, byte-level BPE for qwen2."""
    normal, unknown, control, byte = 1, 2, 3, 6
    special = list(SPECIAL[architecture])
    if architecture == "llama":
        tokens = [*special, *(f"<0x{value:02X}>" for value in range(256)), *LETTERS]
        return tokens, [unknown, control, control, *[byte] * 256, *[normal] * len(LETTERS)], []
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
    if architecture == "llama":
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([0.0] * len(tokens))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_bos_token(True)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_merges(merges)
        writer.add_eos_token_id(len(tokens) - 1)
        writer.add_pad_token_id(len(tokens) - 3)
        writer.add_add_bos_token(False)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
