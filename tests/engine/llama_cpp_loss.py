"""The loss that llama.cpp itself gives a model with an adapter, token for token. Import it after use_llama_cpp()."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from .golden import Example

F32 = 0  # ggml_type


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silent(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """Drops what llama.cpp would print."""


@contextmanager
def opened(model: Path, adapter: Path | None, n_context: int, threads: int = 1) -> Iterator[tuple[Any, Any]]:
    """(vocabulary, context) of a model, with an adapter at scale 1; keys and values in float32."""
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    with ExitStack() as stack:
        loaded = llama_cpp.llama_model_load_from_file(bytes(model), llama_cpp.llama_model_default_params())
        assert loaded, f"llama.cpp cannot load {model}"
        stack.callback(llama_cpp.llama_model_free, loaded)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = n_context
        settings.n_threads = settings.n_threads_batch = threads
        settings.type_k = settings.type_v = F32
        settings.flash_attn_type = 0
        context = llama_cpp.llama_init_from_model(loaded, settings)
        assert context
        stack.callback(llama_cpp.llama_free, context)
        if adapter is not None:
            lora = llama_cpp.llama_adapter_lora_init(loaded, bytes(adapter))
            assert lora, f"llama.cpp cannot load {adapter}"
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(lora)
            assert llama_cpp.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0)) == 0
        yield llama_cpp.llama_model_get_vocab(loaded), context


def loss(model: Path, adapter: Path | None, examples: Sequence[Example], threads: int = 1) -> float:
    """The sum of -log p over all supervised tokens, in nats."""
    longest = max(len(example.tokens) for example in examples)
    with opened(model, adapter, -(-longest // 256) * 256, threads) as (vocabulary, context):
        n_vocab = llama_cpp.llama_vocab_n_tokens(vocabulary)
        return sum(_example_loss(context, n_vocab, example) for example in examples)


def _example_loss(context: Any, n_vocab: int, example: Example) -> float:
    logits = _logits(context, n_vocab, example.tokens)
    largest = logits.max(axis=1)
    log_sums = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    losses = log_sums[:-1] - logits[np.arange(len(logits) - 1), example.tokens[1:]]
    return float(losses[example.supervised[1:] == 1].sum())


def _logits(context: Any, n_vocab: int, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """(T, n_vocab)"""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = int(token), i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        assert llama_cpp.llama_decode(context, batch) == 0
        values = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(tokens), n_vocab))
        return values.astype(np.float64)
    finally:
        llama_cpp.llama_batch_free(batch)


def tokenize(model: Path, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
    """llama.cpp's tokens of a text."""
    data = text.encode()
    with opened(model, None, 256) as (vocabulary, _):
        tokens = (ctypes.c_int32 * (len(data) + 16))()
        n = llama_cpp.llama_tokenize(vocabulary, data, len(data), tokens, len(tokens), add_special, parse_special)
        return list(tokens[:n])
