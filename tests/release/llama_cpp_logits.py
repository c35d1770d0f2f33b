"""Logits from llama.cpp itself, through llama-cpp-python, with or without an adapter."""

import ctypes
from pathlib import Path

import numpy as np

from cpuft import toolchain
from tests.gguf.tiny import FloatArray

toolchain.use_llama_cpp()  # before the import: it decides which libraries are loaded
import llama_cpp  # noqa: E402


def logits(model: Path, tokens: list[int], adapter: Path | None = None) -> FloatArray:
    """(n_vocab,) after the last token, on one thread, in float32 where the weights are."""
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx, parameters.n_threads, parameters.n_threads_batch = 64, 1, 1
    parameters.type_k = parameters.type_v = llama_cpp.GGML_TYPE_F32
    parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    loaded = llama_cpp.llama_model_load_from_file(str(model).encode(), llama_cpp.llama_model_default_params())
    assert loaded is not None, f"llama.cpp cannot load {model}"
    context = llama_cpp.llama_init_from_model(loaded, parameters)
    assert context is not None
    if adapter is not None:
        lora = llama_cpp.llama_adapter_lora_init(loaded, str(adapter).encode())
        assert lora is not None, f"llama.cpp cannot load {adapter}"
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(lora)
        scales = (ctypes.c_float * 1)(1.0)
        assert llama_cpp.llama_set_adapters_lora(context, adapters, 1, scales) == 0
    ids = (llama_cpp.llama_token * len(tokens))(*tokens)  # the batch only points to them
    assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(ids, len(tokens))) == 0
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loaded))
    result = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (n_vocab,)).copy()
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(loaded)
    return result
