"""Proves that the engine's tokenizer is llama.cpp's own, and that datasets come out of both as the same tokens."""

import random
from pathlib import Path

import numpy as np
import pytest

from cpuft.data.dataset import formatter_of
from cpuft.data.records import Chat
from cpuft.engine import Engine
from cpuft.gguf import writer as gguf_writer
from cpuft.gguf.reader import TYPES_BY_NAME, read_gguf
from tests.chat.test_alignment import texts
from tests.data.test_masks import TURNS
from tests.data.vocabulary import DATE, MODELS, tokenizer_of

N_EMBD, N_FF = 32, 32


def write_model(path: Path, vocabulary: str) -> Path:
    """A model of one layer with a real vocabulary; its weights are zero."""
    source = read_gguf(MODELS / f"ggml-vocab-{vocabulary}.gguf")
    architecture = source.architecture
    kept = [field for key, field in source.fields.items() if key.startswith(("general.", "tokenizer."))]
    sizes = {"block_count": 1, "context_length": 256, "embedding_length": N_EMBD, "feed_forward_length": N_FF}
    heads = {"attention.head_count": 1, "attention.head_count_kv": 1, "rope.dimension_count": N_EMBD}
    sizes_of = [gguf_writer.u32(f"{architecture}.{key}", value) for key, value in {**sizes, **heads}.items()]
    norm = gguf_writer.f32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    n_vocab = len(source.get("tokenizer.ggml.tokens"))
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (n_vocab, N_EMBD), "output_norm": (N_EMBD,)}
    shapes |= {f"blk.0.{name}_norm": (N_EMBD,) for name in ("attn", "ffn")}
    shapes |= {f"blk.0.attn_{name}": (N_EMBD, N_EMBD) for name in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.ffn_{name}": (N_FF, N_EMBD) for name in ("gate", "up", "down")}
    biases = {f"blk.0.attn_{name}.bias": (N_EMBD,) for name in ("q", "k", "v") if architecture == "qwen2"}
    tensors = [
        gguf_writer.TensorInfo(name, shape, TYPES_BY_NAME["f32"])
        for name, shape in {**{f"{name}.weight": shape for name, shape in shapes.items()}, **biases}.items()
    ]
    with path.open("wb") as stream:
        gguf_writer.write_header(stream, [*kept, *sizes_of, norm], tensors)
        for tensor in tensors:
            stream.write(np.zeros(tensor.shape, np.float32).tobytes())
            gguf_writer.pad(stream, tensor.size)
    return path


@pytest.mark.parametrize("vocabulary", ["qwen2", "llama-bpe", "llama-spm"])
def test_the_same_tokens_as_llama_cpp(vocabulary: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", vocabulary)
    theirs = tokenizer_of(vocabulary)
    rng = random.Random(1)
    with Engine(path, threads=1) as engine:
        for text in texts()[:100]:
            marked = text + rng.choice(["", "<|im_end|>", "</s>", "<|eot_id|>"]) + text[::-1]
            for add_special in (False, True):
                for parse_special in (False, True):
                    options = {"add_special": add_special, "parse_special": parse_special}
                    tokens = engine.tokenize(marked, **options)
                    assert tokens == theirs.tokenize(marked, **options)
            for render_special in (False, True):
                ours = engine.detokenize(tokens, render_special=render_special)
                assert ours == theirs.detokenize(tokens, render_special=render_special)
        model = read_gguf(path)
        if model.get("tokenizer.chat_template"):
            (ours_,), (theirs_,) = (formatter_of(model, t, DATE).examples(Chat(TURNS), "f:1") for t in (engine, theirs))
            assert ours_.tokens.tolist() == theirs_.tokens.tolist()
            assert ours_.supervised.tolist() == theirs_.supervised.tolist()
