"""Proves that the specification's configuration is accepted as it stands and that every fault is named by its key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cpuft.config.file import changed_keys, load_config, schema, to_document
from cpuft.config.keys import ADAMW, ADAMW_8BIT, MODULES, SECTIONS, Config, TrainConfig, keys_of
from cpuft.errors import AdapterError, ConfigError

ROOT = Path(__file__).resolve().parents[2]
SPECIFICATION = """
lora:
  r: 16                    # LoRA rank (higher = more capacity, slower)
  lora_alpha: 32           # Scaling factor
  lora_dropout: 0.05       # Regularization
  target_modules:          # Qué capas fine-tunear
    - q_proj
    - k_proj
    - v_proj
    - o_proj
    - gate_proj
    - up_proj
    - down_proj
  bias: "none"
  task_type: "CAUSAL_LM"

training:
  num_epochs: 3
  batch_size: 1            # CPU constraint
  gradient_accumulation_steps: 8  # Simular batch_size=8
  learning_rate: 2e-4
  warmup_steps: 10
  save_steps: 50
  eval_steps: 25
  logging_steps: 10
  max_seq_length: 2048
  optim: "adamw_8bit"      # Optimizador eficiente en memoria

quantization:
  load_in_4bit: true
  bnb_4bit_compute_dtype: "float16"
  bnb_4bit_quant_type: "nf4"
  bnb_4bit_use_double_quant: true
"""


def load(tmp_path: Path, text: str, overrides: dict[str, Any] | None = None) -> tuple[Config, list[str]]:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def faults(tmp_path: Path, text: str, overrides: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, overrides)
    first, *more = str(caught.value).split("\n  ")
    return more or [first.removeprefix(f"{tmp_path}/c.yaml: ")]


def test_the_specification_as_it_stands(tmp_path: Path) -> None:
    config, notes = load(tmp_path, SPECIFICATION)
    assert config == Config(training=TrainConfig(optim="adamw_8bit"))
    assert config.training.learning_rate == 2e-4
    assert config.lora.targets == tuple(MODULES.values())
    assert [note.split(":")[0] for note in notes] == [
        "quantization.{load_in_4bit,bnb_4bit_compute_dtype,bnb_4bit_quant_type,bnb_4bit_use_double_quant}"
    ]


@pytest.mark.parametrize("name", ADAMW)
def test_the_names_of_adamw(name: str, tmp_path: Path) -> None:
    config, notes = load(tmp_path, f"training: {{optim: {name}}}")
    assert config.training.optim == ("adamw_8bit" if name in ADAMW_8BIT else "adamw")
    assert not notes


def test_the_documented_file_holds_every_key_with_its_default() -> None:
    path = ROOT / "configs" / "lora.yaml"
    assert load_config(path) == (Config(), [])
    document = yaml.safe_load(path.read_text())
    for name, section in SECTIONS.items():
        assert set(document[name]) == {key.name for key in keys_of(section)}


def test_a_saved_configuration_is_read_as_it_was(tmp_path: Path) -> None:
    config, _ = load(
        tmp_path, "lora: {r: 4, target_modules: [up_proj, attn_q]}\ntraining: {learning_rate: 1e-3, seed: 5}"
    )
    assert config.lora.target_modules == ("q_proj", "up_proj")
    again, notes = load(tmp_path, yaml.safe_dump(to_document(config)))
    assert again == config
    assert not notes


def test_aliases_numbers_as_text_and_overrides(tmp_path: Path) -> None:
    text = "lora: {rank: 8, alpha: 16, dropout: 0, target_modules: all-linear}\ntraining: {seed: 1e3, date: 2026-01-31}"
    config, _ = load(tmp_path, text, {"lora.rank": 4, "training.learning_rate": "3e-5", "training.truncate": True})
    assert (config.lora.rank, config.lora.alpha, config.lora.dropout) == (4, 16.0, 0.0)
    assert (config.training.seed, config.training.date, config.training.learning_rate) == (1000, "2026-01-31", 3e-5)
    assert config.training.truncate
    assert config.lora.target_modules == tuple(MODULES)


SINGLE = tuple(MODULES.values())
FUSED = ("attn_output", "ffn_down", "attn_qkv", "ffn_gate_up")


@pytest.mark.parametrize(
    ("asked", "available", "expected"),
    [
        ("all-linear", SINGLE, SINGLE),
        ("all-linear", FUSED, FUSED),
        ("[q_proj, v_proj]", SINGLE, ("attn_q", "attn_v")),
        ("[v_proj, k_proj, q_proj, down_proj]", FUSED, ("ffn_down", "attn_qkv")),
        ("[qkv_proj, ffn_gate_up]", FUSED, ("attn_qkv", "ffn_gate_up")),
        ("[qkv_proj, down_proj]", SINGLE, ("attn_q", "attn_k", "attn_v", "ffn_down")),
    ],
)
def test_fused_tensors_stand_for_their_parts(
    asked: str, available: tuple[str, ...], expected: tuple[str, ...], tmp_path: Path
) -> None:
    config, _ = load(tmp_path, f"lora: {{target_modules: {asked}}}")
    assert config.lora.targets_in(available) == expected
    assert load(tmp_path, yaml.safe_dump(to_document(config)))[0] == config


def test_a_part_of_a_fused_tensor_is_refused(tmp_path: Path) -> None:
    config, _ = load(tmp_path, "lora: {target_modules: [q_proj, up_proj]}")
    with pytest.raises(AdapterError, match=r"names q_proj alone.*k_proj, q_proj, v_proj in one tensor: name qkv_proj"):
        config.lora.targets_in(FUSED)


def test_all_faults_at_once(tmp_path: Path) -> None:
    text = """
lora: {r: 0, lora_alpha: .inf, target_modules: [q_proj, z_proj], bias: all, learning_rate: 1}
training: {lerning_rate: 2, learning_rate: nan, num_epochs: 2.5, batch_size: true, optim: sgd, date: 2026-13-01}
trainin: {}
quantization: {load_in_4bits: true}
"""
    found = dict(fault.split(": ", 1) for fault in faults(tmp_path, text, {"training.nonsense": 1}))
    assert found == {
        "trainin": "no such key, did you mean training?",
        "lora.learning_rate": "no such key, did you mean training.learning_rate?",
        "lora.r": "found 0, expected a whole number from 1 to 1024",
        "lora.lora_alpha": "found inf, expected a finite number above 0",
        "lora.target_modules": "found ['q_proj', 'z_proj'], expected all-linear or a list of some of "
        "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, qkv_proj, gate_up_proj",
        "lora.bias": "found 'all', expected none",
        "training.lerning_rate": "no such key, did you mean training.learning_rate?",
        "training.nonsense": "no such key",
        "training.learning_rate": "found nan, expected a finite number above 0 and at most 1",
        "training.num_epochs": "found 2.5, expected a whole number of at least 1",
        "training.batch_size": "found True, expected a whole number of at least 1",
        "training.optim": "found 'sgd', expected adamw or adamw_torch or adamw_hf or paged_adamw_32bit or "
        "adamw_8bit or adamw_bnb_8bit or paged_adamw_8bit",
        "training.date": "found '2026-13-01', expected a day like 2026-01-31 or null",
        "quantization.load_in_4bits": "no such key, did you mean quantization.load_in_4bit?",
    }


@pytest.mark.parametrize("value", [".nan", "nan", ".inf", "-1", "0", "2", "fast", "[1]", "null", "true"])
def test_impossible_learning_rates(tmp_path: Path, value: str) -> None:
    (fault,) = faults(tmp_path, f"training: {{learning_rate: {value}}}")
    assert fault.startswith("training.learning_rate: found ")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: [", ":1: not valid YAML"),
        ("training: {seed: 1, seed: 2}", ":1: not valid YAML: key 'seed' stands twice"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML: could not determine a constructor"),
        ("\0", "not valid YAML"),
        ("3", "it holds int, expected the sections lora, training"),
        ("lora: 3", "lora: found 3, expected keys and values"),
        ("1: 2", "1: no such key"),
        ("lora: {r: 1, rank: 2}", "lora.rank: it means the same as lora.r, give one of them"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, fault: str) -> None:
    (found,) = faults(tmp_path, text)
    assert fault in found


def test_a_missing_file_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file, expected a YAML configuration"):
        load_config(tmp_path / "none.yaml")
    assert load_config(None) == (Config(), [])


def test_an_initial_adapter_is_found_from_any_folder() -> None:
    config, _ = load_config(None, {"lora.init_adapter": "runs/a.gguf", "lora.r": 4})
    assert config.lora.init_adapter == str(Path("runs/a.gguf").absolute())
    assert config.explicit_keys == {"lora.init_adapter", "lora.r"}


def test_what_may_change_when_a_run_is_resumed(tmp_path: Path) -> None:
    free, _ = load(tmp_path, "training: {threads: 3, save_steps: 7, activations: recompute}")
    assert changed_keys(Config(), free) == []
    other, _ = load(tmp_path, "training: {seed: 3}\nlora: {r: 8}")
    assert changed_keys(Config(), other) == ["lora.r was 16 and is 8", "training.seed was 0 and is 3"]
    other, _ = load(tmp_path, "training: {optim: paged_adamw_8bit}")
    assert changed_keys(Config(), other) == ["training.optim was 'adamw' and is 'adamw_8bit'"]


def test_every_default_is_possible() -> None:
    """The JSON Schema accepts what the dataclasses hold."""
    assert set(schema()["properties"]) == {*SECTIONS, "quantization"}
    for name, section in SECTIONS.items():
        assert len(keys_of(section)) == len(to_document(Config())[name])
