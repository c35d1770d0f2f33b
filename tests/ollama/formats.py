"""Real chat templates, each with a tiny model that has it and the control tokens it writes, and conversations for it.

Templates come from llama.cpp's source tree. Those that it lacks are written here: they make the same prompts as the
published ones for conversations without tools.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from cpuft.chat.message import Message
from cpuft.gguf.reader import read_gguf
from cpuft.ollama import families
from cpuft.ollama.families import Family
from tests.data.vocabulary import MODELS
from tests.gguf.tiny import write_tiny_model

SMOLLM2 = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are SmolLM.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA2 = (
    "{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' %}"
    "{% elif m.role == 'user' %}{{ bos_token + '[INST] ' + (ns.system + m.content) | trim + ' [/INST]' }}"
    "{% set ns.system = '' %}{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ '<|system|>\n' + m.content + eos_token + '\n' }}"
    "{% elif m.role == 'user' %}{{ '<|user|>\n' + m.content + eos_token + '\n' }}"
    "{% elif m.role == 'assistant' %}{{ '<|assistant|>\n' + m.content + eos_token + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (system + '\n\n' if system and loop.last else '') + m.content + '[/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
GEMMA3 = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}{% else %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else 'user') + '\n' + ns.system }}"
    "{{ m.content | trim + '<end_of_turn>\n' }}{% set ns.system = '' %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Format:
    """A model's chat template and what it needs of a vocabulary.

    template: Jinja, or the name of a file in llama.cpp's models/templates, or of a vocabulary that has one.
    family:   the one it must be recognised as.
    bos, eos: the texts of these tokens; no bos: the model begins no text with one.
    """

    name: str
    template: str
    family: Family
    bos: str
    eos: str

    @property
    def jinja(self) -> str:
        """The template itself."""
        if "{" in self.template:
            return self.template
        file = MODELS / "templates" / f"{self.template}.jinja"
        if file.exists():
            return file.read_text(encoding="utf-8")
        return str(read_gguf(MODELS / f"ggml-vocab-{self.template}.gguf").get("tokenizer.chat_template"))

    def write(self, path: Path, *, add_bos: bool = True) -> Path:
        """Writes a tiny model of this format.

        add_bos: whether its metadata ask for the BOS, where the format has one.
        """
        special = ("<unk>", self.bos or "<|endoftext|>", self.eos)
        return write_tiny_model(
            path,
            n_layer=1,
            n_ctx=2048,
            chat_template=self.jinja,
            special=(*special, *(text for text in self.family.stop if text not in special)),
            add_bos=add_bos and bool(self.bos),
        )


FORMATS = (
    Format("Qwen2.5", "Qwen-Qwen2.5-7B-Instruct", families.CHATML, "", "<|im_end|>"),
    Format("Qwen3", "Qwen-Qwen3-0.6B", families.CHATML, "", "<|im_end|>"),
    Format("SmolLM2", SMOLLM2, families.CHATML, "", "<|im_end|>"),
    Format("SmolLM3", "HuggingFaceTB-SmolLM3-3B", families.SMOLLM3, "", "<|im_end|>"),
    Format("Llama 3", LLAMA3, families.LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
    Format("Llama 3.1", "meta-llama-Llama-3.1-8B-Instruct", families.LLAMA31, "<|begin_of_text|>", "<|eot_id|>"),
    Format("Llama 3.2", "meta-llama-Llama-3.2-3B-Instruct", families.LLAMA31, "<|begin_of_text|>", "<|eot_id|>"),
    Format("Llama 2", LLAMA2, families.LLAMA2, "<s>", "</s>"),
    Format("TinyLlama (Zephyr)", ZEPHYR, families.ZEPHYR, "<s>", "</s>"),
    Format("Mistral v0.3", MISTRAL, families.MISTRAL, "<s>", "</s>"),
    Format("Mistral Nemo", "mistralai-Mistral-Nemo-Instruct-2407", families.MISTRAL_NEMO, "<s>", "</s>"),
    Format("Phi-3", "phi-3", families.PHI3_NO_SYSTEM, "<s>", "<|end|>"),
    Format("Phi-3.5", "microsoft-Phi-3.5-mini-instruct", families.PHI3, "<s>", "<|end|>"),
    Format("Gemma 2", "google-gemma-2-2b-it", families.GEMMA2, "<bos>", "<end_of_turn>"),
    Format("Gemma 3", GEMMA3, families.GEMMA3, "<bos>", "<end_of_turn>"),
)


def smollm3_as_published() -> Format:
    """llama.cpp's tree has an edit of SmolLM3's template: the published one tells the date and ends no system turn."""
    (format_,) = (format_ for format_ in FORMATS if format_.name == "SmolLM3")
    source, cutoff, end = format_.jinja, 'Date: June 2025\\n" -}}', '{{- "<|im_end|>\\n" -}}'
    assert cutoff in source
    assert end in source
    told = 'Date: June 2025\\nToday Date: " + strftime_now("%d %B %Y") + "\\n" -}}'
    return replace(format_, name="SmolLM3 as published", template=source.replace(cutoff, told).replace(end, ""))


SYSTEM: Message = {"role": "system", "content": "  Be terse.\n"}
TURNS: list[Message] = [
    {"role": "user", "content": 'Hi <b>"x"</b>, naïve ☃\n\n'},
    {"role": "assistant", "content": "Hello!\n\n  - one 🎉\n"},
    {"role": "user", "content": "\tAgain?"},
    {"role": "assistant", "content": "{{ .Twice }} {% raw %}"},
    {"role": "user", "content": "Why <|im_end|> and </s>?"},  # control tokens, to some
    {"role": "assistant", "content": "So."},
]
# With a system prompt and without, one turn and three; each ends with an answer to learn.
CONVERSATIONS = (TURNS[:2], [SYSTEM, *TURNS[:2]], TURNS, [SYSTEM, *TURNS])
