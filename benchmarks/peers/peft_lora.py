"""The peer's side of train_throughput.py: a LoRA step of transformers + PEFT on random weights. One JSON line.

Usage: python peft_lora.py '{"architecture": "qwen2", "n_embd": 896, ..., "dtype": "bfloat16", "tokens": 512, ...}'
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.peak_rss import own_peak_rss_mb

MODEL_TYPES = {"gemma3": "gemma3_text"}  # where transformers calls an architecture otherwise
NO_SDPA = ("gemma2",)  # caps its scores, which that kernel cannot


def build(settings: dict[str, Any]) -> Any:
    """The model with random weights, made in its final type so that nothing larger ever existed."""
    architecture = settings["architecture"]
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": settings["rope_base"]}
    config = AutoConfig.for_model(
        MODEL_TYPES.get(architecture, architecture),
        vocab_size=settings["n_vocab"],
        hidden_size=settings["n_embd"],
        intermediate_size=settings["n_ff"],
        num_hidden_layers=settings["n_layer"],
        num_attention_heads=settings["n_head"],
        num_key_value_heads=settings["n_head_kv"],
        head_dim=settings["head_size"],
        max_position_embeddings=settings["n_context"],
        rms_norm_eps=settings["rms_epsilon"],
        tie_word_embeddings=settings["tied"],
        rope_parameters={"full_attention": rope} if architecture == "gemma3" else rope,
        sliding_window=settings["window"] or None,
        attn_implementation="eager" if architecture in NO_SDPA else "sdpa",
        use_cache=False,
    )
    torch.set_default_dtype(getattr(torch, settings["dtype"]))
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    torch.set_default_dtype(torch.float32)
    if settings["checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    lora = LoraConfig(
        r=settings["rank"], lora_alpha=settings["rank"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, lora).train()


def main() -> None:
    """Runs a warm-up and the repeats; prints the seconds of each repeat and the peak memory."""
    settings = json.loads(sys.argv[1])
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    model = build(settings)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    tokens = torch.randint(0, settings["n_vocab"], (1, settings["tokens"]))
    seconds = []
    for _ in range(settings["repeats"] + 1):
        start = time.perf_counter()
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    figures = {"n_threads": torch.get_num_threads(), "seconds": seconds[1:], "peak_rss_mb": own_peak_rss_mb()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
