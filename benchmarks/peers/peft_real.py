"""The peer's side of real.py: the gradient of transformers + PEFT on the weights of a GGUF file. One JSON line.

Usage: python peft_real.py '{"model": "model.gguf", "folder": …, "dtype": "bf16", …}'    (made by benchmarks/real.py)
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GgufConfig
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.peak_rss import own_peak_rss_mb

# llama.cpp's names of the linear layers -> those of transformers.
LINEARS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def build(settings: dict[str, Any]) -> Any:
    """The model with an adapter, its weights as the GGUF's values, dense, in float32 or rounded to bfloat16."""
    path = Path(settings["model"])
    dtype = torch.bfloat16 if settings["dtype"] == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        quantization_config=GgufConfig(dequantize=True),  # else it computes on the packed weights, in float32
        dtype=dtype,
        attn_implementation="sdpa",
        local_files_only=True,
    )
    model.config.use_cache = False
    lora = LoraConfig(
        r=settings["rank"], lora_alpha=settings["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, lora).train()


def adapter_of(model: Any, names: list[str]) -> list[torch.nn.Parameter]:
    """The adapter's matrices in the order of these names ("blk.0.attn_q.weight.lora_a", ...)."""
    parameters = {
        name.removeprefix("base_model.model.").replace(".default.weight", ""): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    found = []
    for name in names:
        _, layer, linear, _, factor = name.split(".")
        factor = {"lora_a": "lora_A", "lora_b": "lora_B"}[factor]
        found.append(parameters[f"model.layers.{layer}.{LINEARS[linear]}.{factor}"])
    return found


def main() -> None:
    """Prints loss, speed and memory; the gradient goes to the folder."""
    settings = json.loads(sys.argv[1])
    logging.disable_progress_bar()
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    folder = Path(settings["folder"])
    model = build(settings)
    adapter = adapter_of(model, settings["names"])
    values = np.load(folder / "parameters.npy")
    offset = 0
    with torch.no_grad():
        for parameter in adapter:
            n = parameter.numel()
            parameter.copy_(torch.from_numpy(values[offset : offset + n]).reshape(parameter.shape))
            offset += n
    arrays = np.load(folder / "tokens.npz")
    examples = [(arrays[f"tokens_{i}"], arrays[f"supervised_{i}"]) for i in range(len(arrays.files) // 2)]
    n_supervised = sum(int(supervised[1:].sum()) for _, supervised in examples)

    def forward_backward() -> float:
        total = 0.0
        for tokens, supervised in examples:
            ids = torch.from_numpy(tokens.astype(np.int64))[None]
            labels = torch.where(torch.from_numpy(supervised.astype(bool))[None], ids, -100)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings["dtype"] == "bf16"):
                logits = model(input_ids=ids).logits
            loss = torch.nn.functional.cross_entropy(
                logits[0, :-1].float(), labels[0, 1:], ignore_index=-100, reduction="sum"
            )
            loss.backward()
            total += float(loss.detach())
        return total

    loss = forward_backward() / n_supervised
    gradient = np.concatenate([parameter.grad.float().numpy().ravel() for parameter in adapter]) / n_supervised
    np.save(folder / "gradient.npy", gradient.astype(np.float32))
    seconds = []
    for _ in range(settings["repeats"]):
        start = time.perf_counter()
        forward_backward()
        seconds.append(time.perf_counter() - start)
    n_tokens = sum(len(tokens) for tokens, _ in examples)
    print(
        json.dumps(
            {
                "n_threads": torch.get_num_threads(),
                "tokens": n_tokens,
                "supervised": n_supervised,
                "loss": loss,
                "tok_s": round(n_tokens / statistics.median(seconds), 1) if seconds else None,
                "peak_rss_mb": own_peak_rss_mb(),
            }
        )
    )


if __name__ == "__main__":
    main()
