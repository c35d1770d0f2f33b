"""GGUF models in the exact shapes of public ones, with random weights and the real tokenizers.

Speed and memory do not depend on what the weights are, so a benchmark needs no download: the shapes are facts of the
public configurations, the tokenizers stand in llama.cpp's source tree, and the types of the tensors are those that
llama-quantize chooses.

Usage: python benchmarks/shapes.py SHAPE TYPE FILE
"""

import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.architectures import Block
from cpuft import demo, engine, toolchain
from cpuft.gguf import writer as gguf_writer
from cpuft.gguf.mixture import mixture
from cpuft.gguf.reader import TYPES_BY_NAME, Field, read_gguf
from cpuft.gguf.writer import TensorInfo
from cpuft.machine.files import atomic_write


@dataclass(frozen=True)
class Shape(Block):
    """A public model's configuration.

    vocabulary: the name of one of llama.cpp's vocabulary files, or DEMO_VOCABULARY; unused tokens are added behind it
    where n_vocab is larger.
    """

    architecture: str
    vocabulary: str
    n_vocab: int
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_size: int
    n_context: int
    rope_base: float
    rms_epsilon: float
    tied: bool
    rope_factor: float = 0.0  # Llama 3.1's frequency scaling, where there is one
    window: int = 0  # tokens that a query of a layer with a window sees
    score_cap: float = 0.0  # Gemma 2's soft caps
    logit_cap: float = 0.0

    @property
    def biases(self) -> bool:
        """Qwen2 has them on attn_q, attn_k and attn_v."""
        return self.architecture == "qwen2"

    def operations(self, n_tokens: int, rank: int) -> float:
        """Useful floating-point operations of a training step for one token of a sequence of n_tokens.

        A frozen matrix takes 2 operations a value forward and 2 for its input's gradient, an adapter 2 more for its
        own. Attention's two products forward and four backward touch half the sequence on average, or less in a
        window. Nothing that is computed twice counts.
        """
        frozen = self.n_layer * sum(rows * cols for rows, cols in self.linears.values()) + self.n_vocab * self.n_embd
        adapter = self.n_layer * rank * sum(rows + cols for rows, cols in self.linears.values())
        attention = 12.0 * self.keys(n_tokens) * self.n_head * self.head_size
        return 4.0 * frozen + 6.0 * adapter + attention

    def keys(self, n_tokens: int) -> float:
        """How many keys a query of a sequence of n_tokens meets on average, summed over the layers."""
        period, window = self.facts.window_period, min(self.window, n_tokens)
        n_windows = self.n_layer - self.n_layer // period if period and window else 0
        in_window = window - window**2 / (2 * n_tokens) if n_windows else 0.0
        return (self.n_layer - n_windows) * n_tokens / 2 + n_windows * in_window


TINY = "tiny"
DEMO_VOCABULARY = "demo"  # the demo's base model's: 2048 tokens
SHAPES = {
    "qwen2.5-0.5b": Shape("qwen2", "qwen2", 151936, 24, 896, 4864, 14, 2, 64, 32768, 1e6, 1e-6, True),
    "qwen2.5-1.5b": Shape("qwen2", "qwen2", 151936, 28, 1536, 8960, 12, 2, 128, 32768, 1e6, 1e-6, True),
    "qwen2.5-3b": Shape("qwen2", "qwen2", 151936, 36, 2048, 11008, 16, 2, 128, 32768, 1e6, 1e-6, True),
    "llama3.2-1b": Shape("llama", "llama-bpe", 128256, 16, 2048, 8192, 32, 8, 64, 131072, 5e5, 1e-5, True, 32.0),
    "llama3.2-3b": Shape("llama", "llama-bpe", 128256, 28, 3072, 8192, 24, 8, 128, 131072, 5e5, 1e-5, True, 32.0),
    "llama3.1-8b": Shape("llama", "llama-bpe", 128256, 32, 4096, 14336, 32, 8, 128, 131072, 5e5, 1e-5, False, 8.0),
    "mistral-7b": Shape("llama", "llama-spm", 32000, 32, 4096, 14336, 32, 8, 128, 32768, 1e6, 1e-5, False),
    "tinyllama-1.1b": Shape("llama", "llama-spm", 32000, 22, 2048, 5632, 32, 4, 64, 2048, 1e4, 1e-5, False),
    "qwen3-0.6b": Shape("qwen3", "qwen2", 151936, 28, 1024, 3072, 16, 8, 128, 40960, 1e6, 1e-6, True),
    "qwen3-1.7b": Shape("qwen3", "qwen2", 151936, 28, 2048, 6144, 16, 8, 128, 40960, 1e6, 1e-6, True),
    "qwen3-4b": Shape("qwen3", "qwen2", 151936, 36, 2560, 9728, 32, 8, 128, 40960, 1e6, 1e-6, True),
    "phi3-mini": Shape("phi3", "phi-3", 32064, 32, 3072, 8192, 32, 32, 96, 4096, 1e4, 1e-5, False, window=2047),
    # Neither Gemma's tokenizer is there: SentencePiece in place of Gemma 2's, Gemma 4's in place of Gemma 3's.
    "gemma2-2b": Shape(
        *("gemma2", "llama-spm", 256000, 26, 2304, 9216, 8, 4, 256, 8192, 1e4, 1e-6, True),
        window=4096,
        score_cap=50.0,
        logit_cap=30.0,
    ),
    "gemma3-1b": Shape("gemma3", "gemma-4", 262144, 26, 1152, 6912, 4, 1, 256, 32768, 1e6, 1e-6, True, window=512),
    "smollm3-3b": Shape("smollm3", "llama-bpe", 128256, 36, 2048, 11008, 16, 4, 128, 65536, 5e6, 1e-6, True),
    # No public model: for the tests of the benchmarks.
    TINY: Shape("llama", "llama-spm", 32000, 2, 256, 320, 4, 2, 64, 2048, 1e4, 1e-5, False),
}

# Rows that are drawn and quantized for each type and length; every matrix is made of them in an order of its own.
DRAWN_ROWS = 256
ROPE_ORIGINAL_CONTEXT = 8192  # of Llama 3, before its frequencies were stretched
F32 = TYPES_BY_NAME["f32"]


def model_file(folder: Path, shape_name: str, file_type: str) -> Path:
    """The model in this folder, written now unless it is there."""
    path = folder / f"{shape_name}-{file_type}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_model(path, SHAPES[shape_name], file_type)
    return path


# The values of a matrix (rows, cols).
Weights = Callable[[TensorInfo, np.random.Generator], engine.FloatArray]


def write_model(path: Path, shape: Shape, file_type: str, weights: Weights | None = None) -> None:
    """Writes a model of this shape, with the types that llama-quantize chooses for `file_type`; whole or not at all.

    weights: the values of each matrix; by default a few rows, drawn once and repeated, which is enough for a speed.
    """
    fields = _metadata(shape)
    infos = _retyped(fields, tensors(shape), file_type)
    rng = np.random.default_rng(0)
    drawn: dict[tuple[int, int], npt.NDArray[np.uint8]] = {}
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        gguf_writer.write_header(stream, fields, infos)
        for info in infos:
            if len(info.shape) == 1:
                stream.write(_vector(shape, info, rng).astype("<f4").tobytes())
            elif weights is not None:
                stream.write(engine.quantize(info.type.id, weights(info, rng)).tobytes())
            else:
                for rows in _row_blocks(info, drawn, rng):
                    stream.write(rows.tobytes())
            gguf_writer.pad(stream, info.size)


def _metadata(shape: Shape) -> list[Field]:
    numbers: dict[str, float] = {
        "block_count": shape.n_layer,
        "context_length": shape.n_context,
        "embedding_length": shape.n_embd,
        "feed_forward_length": shape.n_ff,
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": shape.n_head_kv,
        "attention.key_length": shape.head_size,
        "attention.value_length": shape.head_size,
        "rope.dimension_count": shape.head_size,
        "vocab_size": shape.n_vocab,
        "rope.freq_base": shape.rope_base,
        "attention.layer_norm_rms_epsilon": shape.rms_epsilon,
    }
    where_set = {
        "attention.sliding_window": shape.window,
        "attn_logit_softcapping": shape.score_cap,
        "final_logit_softcapping": shape.logit_cap,
    }
    numbers |= {key: value for key, value in where_set.items() if value}
    return [
        gguf_writer.text("general.architecture", shape.architecture),
        gguf_writer.text("general.name", "random weights"),
        *(
            gguf_writer.scalar(f"{shape.architecture}.{key}", value)
            for key, value in numbers.items()
            if key not in shape.facts.unwritten
        ),
        *_tokenizer(shape),
    ]


def _tokenizer(shape: Shape) -> list[Field]:
    source = demo.BASE_MODEL
    if shape.vocabulary != DEMO_VOCABULARY:
        source = toolchain.locate().source / "models" / f"ggml-vocab-{shape.vocabulary}.gguf"
    fields = [field for key, field in read_gguf(source).fields.items() if key.startswith("tokenizer.")]
    return [_padded(field, shape.n_vocab) for field in fields]


def _padded(field: Field, n_vocab: int) -> Field:
    """The field, with entries for unused tokens added where it has one entry for each token."""
    unused: dict[str, Callable[[int], bytes]] = {
        "tokenizer.ggml.tokens": lambda token: gguf_writer.text("", f"[PAD{token}]").raw,
        "tokenizer.ggml.token_type": lambda _: struct.pack("<i", 5),
        "tokenizer.ggml.scores": lambda _: struct.pack("<f", -10000.0),
    }
    if field.key not in unused:
        return field
    item_type, n_present = struct.unpack_from("<IQ", field.raw)
    added = (unused[field.key](token) for token in range(n_present, n_vocab))
    header = struct.pack("<IQ", item_type, n_vocab)
    return Field(field.key, field.type, header + field.raw[len(header) :] + b"".join(added))


def tensors(shape: Shape) -> list[TensorInfo]:
    """All tensors, matrices in F16."""

    def matrix(name: str, rows: int, cols: int) -> TensorInfo:
        return TensorInfo(name, (rows, cols), TYPES_BY_NAME["f16"])

    def vector(name: str, size: int) -> TensorInfo:
        return TensorInfo(name, (size,), F32)

    infos = [matrix("token_embd.weight", shape.n_vocab, shape.n_embd)]
    for layer in range(shape.n_layer):
        block = f"blk.{layer}."
        infos += [vector(f"{block}{name}.weight", size) for name, size in shape.norms.items()]
        for name, (rows, cols) in shape.linears.items():
            infos.append(matrix(f"{block}{name}.weight", rows, cols))
            if shape.biases and name in ("attn_q", "attn_k", "attn_v"):
                infos.append(vector(f"{block}{name}.bias", rows))
    infos.append(vector("output_norm.weight", shape.n_embd))
    if not shape.tied:
        infos.append(matrix("output.weight", shape.n_vocab, shape.n_embd))
    if shape.rope_factor:
        infos.append(vector("rope_freqs.weight", shape.head_size // 2))
    return infos


def _retyped(fields: list[Field], infos: list[TensorInfo], file_type: str) -> list[TensorInfo]:
    """The tensors with llama-quantize's types, which it tells for an F16 file of this header (its data are a hole)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "header.gguf"
        with path.open("wb") as stream:
            gguf_writer.write_header(stream, fields, infos)
            for info in infos:
                stream.seek(info.size + -info.size % 32, 1)
            stream.truncate()
        types = mixture(read_gguf(path), file_type).types
    return [TensorInfo(info.name, info.shape, types[info.name]) for info in infos]


def _vector(shape: Shape, info: TensorInfo, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    if info.name == "rope_freqs.weight":
        exponents = np.arange(0, shape.head_size, 2) / shape.head_size
        turns = ROPE_ORIGINAL_CONTEXT / (2 * np.pi * shape.rope_base**exponents)  # of a pair, over that context
        blend = np.clip((turns - 1.0) / 3.0, 0.0, 1.0)  # low_freq_factor 1, high_freq_factor 4
        return np.asarray(1.0 / ((1.0 - blend) / shape.rope_factor + blend))
    center = 1.0 if info.name.endswith("norm.weight") else 0.0
    return center + 0.1 * rng.standard_normal(info.shape[0])


def _row_blocks(
    info: TensorInfo, drawn: dict[tuple[int, int], npt.NDArray[np.uint8]], rng: np.random.Generator
) -> Iterator[npt.NDArray[np.uint8]]:
    """A matrix as stored, DRAWN_ROWS rows or fewer at a time; `drawn` remembers rows by type and length."""
    n_rows, cols = info.shape
    key = (info.type.id, cols)
    if key not in drawn:
        values = (rng.standard_normal((DRAWN_ROWS, cols)) / np.sqrt(cols)).astype(np.float32)
        drawn[key] = engine.quantize(info.type.id, values).reshape(DRAWN_ROWS, -1)
    for first in range(0, n_rows, DRAWN_ROWS):
        yield drawn[key][rng.permutation(DRAWN_ROWS)[: n_rows - first]]


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES:
        sys.exit(f"{__doc__}\nShapes: {', '.join(SHAPES)}")
    write_model(Path(sys.argv[3]), SHAPES[sys.argv[1]], sys.argv[2])
