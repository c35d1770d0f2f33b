"""What transformers and PEFT say about a Case: an implementation that shares nothing with the engine.

Needs torch, transformers and peft; scripts/make_golden.py and the live parity test run it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from .golden import Case, Example, Expectation
from .random_model import FloatArray, LinearScaling, LongRope, ModelSpec, RopeScaling, rope_factors, weights

NETWORKS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "smollm3": (SmolLM3Config, SmolLM3ForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
}
MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
}
# What is called or built otherwise where ModelSpec.facts say so.
FUSED_MODULES = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
POST_NORM_MODULES = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
GEMMA3_WINDOW_ROPE_BASE = 10000.0  # llama.cpp's where the file does not say
GLOBALS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def expect(case: Case) -> Expectation:
    """Loss, gradients and the losses of ten AdamW steps, all in float32 with eager attention."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the sums' order, and so the fixtures, must not depend on the machine
    model = _adapted_model(case)
    trained = {name: model.get_parameter(_lora_path(case.model, name)) for name in case.adapter()}
    losses = torch.stack([_loss_sum(model, example) for example in case.examples()])
    losses.sum().backward()
    gradients = {name: _to_gguf(case.model, name, value.grad) for name, value in trained.items()}
    return Expectation(
        float(losses.detach().double().sum()),
        sum(example.n_supervised for example in case.examples()),
        gradients,
        _step_losses(model, case, trained.values()),
    )


def _step_losses(model: Any, case: Case, trained: Iterable[torch.nn.Parameter]) -> list[float]:
    parameters, settings = list(trained), case.optimizer
    optimizer = torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )
    means = []
    for step in range(1, case.n_steps + 1):
        examples = case.step_examples(step)
        optimizer.zero_grad()
        mean = torch.stack([_loss_sum(model, example) for example in examples]).sum()
        mean = mean / sum(example.n_supervised for example in examples)
        mean.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        means.append(float(mean.detach()))
    return means


def peft_loss(spec: ModelSpec, folder: Path, examples: Iterable[Example]) -> float:
    """The sum of losses, in nats, that spec's model has with an adapter that PEFT loads from a folder."""
    model = PeftModel.from_pretrained(_base_model(spec), folder)
    with torch.no_grad():
        return float(sum(_loss_sum(model, example).double() for example in examples))


def new_peft_folder(spec: ModelSpec, folder: Path, **settings: Any) -> None:
    """Saves a random adapter of spec's model as PEFT does; `settings` are LoraConfig's."""
    torch.manual_seed(spec.seed)
    get_peft_model(_base_model(spec), LoraConfig(init_lora_weights=False, **settings)).save_pretrained(folder)


def _loss_sum(model: Any, example: Example) -> torch.Tensor:
    """The sum of -log p over the supervised tokens of one sequence, in nats."""
    tokens = torch.from_numpy(example.tokens.astype(np.int64))
    logits = model(input_ids=tokens[None]).logits[0, :-1]
    chosen = torch.from_numpy(example.supervised[1:].astype(bool))
    return torch.nn.functional.cross_entropy(logits[chosen], tokens[1:][chosen], reduction="sum")


def _adapted_model(case: Case) -> Any:
    base = _base_model(case.model)
    modules = _modules(case.model)
    targets = [modules[linear].rpartition(".")[2] for linear in case.model.linears]
    config = LoraConfig(r=case.rank, lora_alpha=case.alpha, target_modules=targets, lora_dropout=0.0)
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, values in case.adapter().items():
            model.get_parameter(_lora_path(case.model, name)).copy_(
                torch.from_numpy(_from_gguf(case.model, name, values))
            )
    model.train()
    return model


def _base_model(spec: ModelSpec) -> PreTrainedModel:
    """The model with spec's weights; every parameter is set, which the strict load checks."""
    kind, network = NETWORKS[spec.architecture]
    config = kind(
        vocab_size=spec.n_vocab,
        hidden_size=spec.n_embd,
        intermediate_size=spec.n_ff,
        num_hidden_layers=spec.n_layer,
        num_attention_heads=spec.n_head,
        num_key_value_heads=spec.n_head_kv,
        head_dim=spec.head_size,
        tie_word_embeddings=spec.tied,
        rms_norm_eps=spec.rms_epsilon,
        max_position_embeddings=spec.n_context,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        rope_parameters=_rope(spec),
        attn_implementation="eager",
        **_family_entries(spec),
    )
    model = network(config).float()
    state = {}
    for name, values in weights(spec):
        if not name.startswith("rope_"):  # transformers derives them from the configuration
            state[_base_path(spec, name)] = torch.from_numpy(_from_gguf(spec, name, values))
    if spec.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    return model


def _rope(spec: ModelSpec) -> dict[str, Any]:
    """The configuration's rope_parameters; of each kind of layer where the kinds differ."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": spec.rope_base}
    match spec.rope_scaling:
        case RopeScaling() as scaling:
            rope |= {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_context,
            }
        case LinearScaling() as scaling:
            rope |= {"rope_type": "linear", "factor": scaling.factor}
        case LongRope():
            factors = rope_factors(spec)
            rope |= {
                "rope_type": "longrope",
                "long_factor": factors["rope_factors_long.weight"].tolist(),
                "short_factor": factors["rope_factors_short.weight"].tolist(),
            }
    if spec.architecture != "gemma3":
        return rope
    window = {"rope_type": "default", "rope_theta": spec.window_rope_base or GEMMA3_WINDOW_ROPE_BASE}
    return {"full_attention": rope, "sliding_attention": window}


def _family_entries(spec: ModelSpec) -> dict[str, Any]:
    """The entries that only Phi-3 or Gemma has.

    Phi-3 gets no window, as in llama.cpp. Which of Gemma's layers have the window is left to transformers' own rule.
    """
    if isinstance(spec.rope_scaling, LongRope):
        return {"original_max_position_embeddings": spec.rope_scaling.original_context}
    if not spec.facts.window_period:
        return {}
    wide = spec.n_layer == spec.facts.wide_scale_layers
    return {
        "sliding_window": spec.window,
        "query_pre_attn_scalar": spec.n_embd // spec.n_head if wide else spec.head_size,
        "attn_logit_softcapping": spec.score_cap or None,
        "final_logit_softcapping": spec.logit_cap or None,
    }


def _modules(spec: ModelSpec) -> dict[str, str]:
    """llama.cpp's name of a block's layer -> transformers'."""
    fused = FUSED_MODULES if spec.facts.fused else {}
    return MODULES | fused | (POST_NORM_MODULES if spec.facts.post_norms else {})


def _base_path(spec: ModelSpec, name: str) -> str:
    if name in GLOBALS:
        return GLOBALS[name]
    _, layer, module, kind = name.split(".")
    return f"model.layers.{layer}.{_modules(spec)[module]}.{kind}"


def _lora_path(spec: ModelSpec, name: str) -> str:
    """ "blk.0.attn_q.weight.lora_a" -> PEFT's parameter."""
    weight, _, part = name.rpartition(".")
    path = _base_path(spec, weight).removesuffix(".weight")
    return f"base_model.model.{path}.lora_{part[-1].upper()}.default.weight"


def _interleaved(spec: ModelSpec, name: str) -> int:
    """In how many heads a tensor's rows stand interleaved in the GGUF: 0 where they do not.

    There the GGUF has rotary pairs side by side (0, h/2, 1, h/2 + 1, ...) where transformers keeps the two halves
    apart. Rows of B follow the rows of their weight; A has no rows of that kind.
    """
    module = name.split(".")[2] if name.startswith("blk.") else ""
    if not spec.facts.interleaved or name.endswith(".lora_a"):
        return 0
    return {"attn_q": spec.n_head, "attn_k": spec.n_head_kv}.get(module, 0)


def _from_gguf(spec: ModelSpec, name: str, values: FloatArray) -> FloatArray:
    if spec.facts.shifted_norms and name.endswith("norm.weight"):
        return values - np.float32(1.0)  # exact, as is adding 1 again: they lie between 0.5 and 2
    heads = _interleaved(spec, name)
    if heads == 0:
        return values
    pairs = values.reshape(heads, -1, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def _to_gguf(spec: ModelSpec, name: str, values: torch.Tensor | None) -> FloatArray:
    assert values is not None, f"{name} got no gradient"
    array: FloatArray = values.detach().numpy().astype(np.float32)
    heads = _interleaved(spec, name)
    if heads == 0:
        return array
    halves = array.reshape(heads, 2, -1, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
