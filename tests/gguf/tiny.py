"""Tiny random llama models with a byte vocabulary: real enough for llama.cpp to load, quantize and generate."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from cpuft.gguf.reader import read_gguf

FloatArray = npt.NDArray[np.float32]

CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
SPECIAL = ("<unk>", "<s>", "</s>")
LETTERS = tuple("▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-,.'")


def write_tiny_model(
    path: Path,
    *,
    architecture: str = "llama",
    n_layer: int = 2,
    n_embd: int = 64,
    n_ff: int = 96,
    n_head: int = 4,
    n_head_kv: int = 2,
    n_ctx: int = 512,
    tied: bool = False,
    half: bool = False,
    seed: int = 0,
    chat_template: str | Sequence[Mapping[str, str]] | None = CHAT_TEMPLATE,
    special: tuple[str, ...] = SPECIAL,
    add_bos: bool = False,
) -> Path:
    """Writes a model with random weights in F32 (or matrices in F16, where `half` is set).

    chat_template: Jinja, or several as {"name": …, "template": …}, of which "default" is what the others vary.
    special: the unknown token, BOS, EOS, and further control tokens.
    """
    rng = np.random.default_rng(seed)
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(n_layer)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(n_embd)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(n_embd // n_head)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, *[3] * (len(special) - 1), *[6] * 256, *[1] * len(LETTERS)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(add_bos)
    if chat_template is not None:
        writer.add_chat_template(chat_template)

    def matrix(name: str, rows: int, columns: int) -> None:
        values = (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
        writer.add_tensor(name, values.astype(np.float16) if half else values)

    n_kv = n_embd // n_head * n_head_kv
    matrix("token_embd.weight", len(tokens), n_embd)
    for layer in range(n_layer):
        block = f"blk.{layer}."
        writer.add_tensor(block + "attn_norm.weight", np.ones(n_embd, np.float32))
        matrix(block + "attn_q.weight", n_embd, n_embd)
        matrix(block + "attn_k.weight", n_kv, n_embd)
        matrix(block + "attn_v.weight", n_kv, n_embd)
        matrix(block + "attn_output.weight", n_embd, n_embd)
        writer.add_tensor(block + "ffn_norm.weight", np.ones(n_embd, np.float32))
        matrix(block + "ffn_gate.weight", n_ff, n_embd)
        matrix(block + "ffn_up.weight", n_ff, n_embd)
        matrix(block + "ffn_down.weight", n_embd, n_ff)
    writer.add_tensor("output_norm.weight", np.ones(n_embd, np.float32))
    if not tied:
        matrix("output.weight", len(tokens), n_embd)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_adapter(model: Path, *, rank: int, seed: int = 0) -> dict[str, FloatArray]:
    """An adapter on all seven linear layers of every block whose B is not zero, large enough to change answers."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, FloatArray] = {}
    for tensor in read_gguf(model).tensors.values():
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            tensors[tensor.name + ".lora_a"] = rng.standard_normal((rank, tensor.columns)).astype(np.float32) * 0.1
            tensors[tensor.name + ".lora_b"] = rng.standard_normal((tensor.rows, rank)).astype(np.float32) * 0.1
    return tensors
