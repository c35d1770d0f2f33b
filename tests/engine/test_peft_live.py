"""PEFT itself loads what is written and gives the engine's loss, and the engine gives PEFT's for what PEFT saved.

Runs where torch, transformers and peft are there.
"""

import importlib.util
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from cpuft.adapters.adapter import Adapter, write_adapter
from cpuft.adapters.files import convert
from cpuft.adapters.hf_layout import ARCHITECTURES
from cpuft.adapters.peft import write_peft
from cpuft.engine import Engine
from cpuft.release.merge import merge
from tests.adapters.peft_folders import HEAD_SIZE, N_EMBD, N_FF, N_LAYER, adapter_tensors, header

from .comparison import batch, open_case
from .random_model import write_model
from .test_parity_live import draw_case

MISSING = [name for name in ("torch", "transformers", "peft") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"this Python lacks {', '.join(MISSING)}, the peers to compare with"),
    pytest.mark.filterwarnings("default"),  # the peers' own deprecations are not ours to mend
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_peft_gives_the_engines_loss(architecture: str, tmp_path: Path) -> None:
    from .torch_oracle import peft_loss

    case = draw_case(architecture, secrets.randbits(31))
    model, examples = write_model(tmp_path / "model.gguf", case.model), case.examples()
    write_adapter(tmp_path / "a.gguf", case.adapter(), alpha=case.alpha, architecture=case.model.architecture)
    convert(tmp_path / "a.gguf", tmp_path / "peft", "peft", model=model)
    with open_case(model, case) as engine:
        wanted = engine.forward(batch(examples))[0]
        engine.parameters[:] = 0
        base = engine.forward(batch(examples))[0]
    assert peft_loss(case.model, tmp_path / "peft", examples) == pytest.approx(wanted, rel=1e-5), case
    assert abs(base - wanted) > 1e-4 * wanted, "the adapter must matter"  # little where logits are capped


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "down_proj"]},
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "o_proj"],
            "use_rslora": True,
            "layers_to_transform": [0],
        },
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "k_proj", "gate_proj"],
            "rank_pattern": {"k_proj": 7, r"^model\.layers\.0\.self_attn\.q_proj$": 2},
            "alpha_pattern": {"self_attn.q_proj": 3, "proj": 99},
        },
    ],
    ids=["plain", "rslora", "patterns"],
)
def test_the_engine_gives_pefts_loss(settings: dict[str, Any], tmp_path: Path) -> None:
    from .torch_oracle import new_peft_folder, peft_loss

    case = draw_case("llama", secrets.randbits(31))
    model, examples = write_model(tmp_path / "model.gguf", case.model), case.examples()
    new_peft_folder(case.model, tmp_path / "peft", **settings)
    convert(tmp_path / "peft", tmp_path / "a.gguf", "gguf", model=model)
    merge(model, tmp_path / "merged.gguf", adapter_path=tmp_path / "a.gguf")
    wanted = peft_loss(case.model, tmp_path / "peft", examples)
    losses = []
    for path in (tmp_path / "merged.gguf", model):
        with Engine(path, threads=1, precision="f32") as engine:
            losses.append(engine.forward(batch(examples))[0])
    assert losses[0] == pytest.approx(wanted, rel=1e-4), case
    assert abs(losses[1] - wanted) > 1e-3 * wanted, "the adapter must matter"


@pytest.mark.parametrize("layers", [None, (1, 2)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_peft_finds_every_module(architecture: str, layers: tuple[int, ...] | None, tmp_path: Path) -> None:
    """PEFT adapts exactly the modules of the file, each with its rank and scale."""
    import transformers
    from peft import PeftModel, get_peft_model_state_dict

    base = header(architecture)
    tensors = adapter_tensors(base)
    if layers is not None:
        tensors = {name: values for name, values in tensors.items() if int(name.split(".")[1]) in layers}
        wide = adapter_tensors(base, rank=5)
        tensors |= {name: wide[name] for name in tensors if "blk.1.attn_output" in name}
    write_peft(tmp_path / "peft", Adapter(3, 6.0, architecture, tensors, {}), base=base)
    kind = {"smollm3": "SmolLM3", "gemma3": "Gemma3Text"}.get(architecture, architecture.capitalize())
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=16,
        hidden_size=N_EMBD,
        intermediate_size=N_FF,
        num_hidden_layers=N_LAYER,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=HEAD_SIZE,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    network = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config)
    model = PeftModel.from_pretrained(network, tmp_path / "peft")
    found = get_peft_model_state_dict(model)
    stored = safetensors.numpy.load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert set(found) == set(stored)
    assert all(np.array_equal(found[name].numpy(), values) for name, values in stored.items())
    for name, module in model.named_modules():
        if name.endswith((".lora_A.default", ".lora_B.default")):
            parent = model.get_submodule(name.rsplit(".", 2)[0])
            assert parent.scaling["default"] == 6.0 / (module.weight.shape[0 if "lora_A" in name else 1])
