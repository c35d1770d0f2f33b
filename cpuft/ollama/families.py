"""The chat formats that cpuft knows, each as a Go template, which is what a Modelfile's TEMPLATE holds.

A model is not recognised by its name or its template's wording, but by the prompt that its own Jinja template makes of
one conversation: where that is a family's prompt to the last space, the family's Go template stands for it.

Ollama gives a Go template .System (all system messages), .Messages (all messages, the system's too) or, where it does
not mention .Messages, one turn at a time as .System, .Prompt and .Response. A template that printed .System and every
message would say the system prompt twice, so each of these prints it in one place. None prints the BOS token that
begins a text: llama.cpp adds it.
"""

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass

from cpuft.chat.message import Message
from cpuft.chat.normalization import PROBE
from cpuft.chat.template import ChatTemplate, chat_template_of
from cpuft.errors import ExampleError
from cpuft.gguf.reader import Gguf

# The conversation whose prompt tells the families apart. Its spaces show which template trims what.
CONVERSATION: tuple[Message, ...] = (
    {"role": "system", "content": " system "},
    {"role": "user", "content": " one "},
    {"role": "assistant", "content": " two "},
    {"role": "user", "content": " three "},
)
DATE = datetime.date(2026, 1, 31)  # what the templates are told when they ask for today

# Go's templates have no function that trims. These cut one character after another off $text, at most as many as it
# has; control characters sort below the space, so that "le" finds line ends and tabs, too.
TRIM_START = '{{ range len $text }}{{ if le (slice $text 0 1) " " }}{{ $text = slice $text 1 }}{{ else }}{{ break }}'
TRIM_START += "{{ end }}{{ end }}"
TRIM_END = '{{ range len $text }}{{ $last := len (slice $text 1) }}{{ if le (slice $text $last) " " }}'
TRIM_END += "{{ $text = slice $text 0 $last }}{{ else }}{{ break }}{{ end }}{{ end }}"
TRIM = '{{ define "trim" }}{{ $text := . }}' + TRIM_START + TRIM_END + "{{ $text }}{{ end }}"
# Stands in a template for the default system prompt, where the model's own rendering cannot be given it as SYSTEM.
DEFAULT_SYSTEM = "{{ DEFAULT SYSTEM }}"
TRIM_RIGHT = '{{ define "trim right" }}{{ $text := . }}' + TRIM_END + "{{ $text }}{{ end }}"

# Today as "31 Jan 2026"; Ollama's currentDate is "2026-01-31".
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
TODAY = "{{ $today := currentDate }}{{ $month := slice $today 5 7 }}{{ slice $today 8 10 }} "
TODAY += "".join(f'{{{{ if eq $month "{number:02}" }}}}{name}{{{{ end }}}}' for number, name in enumerate(MONTHS, 1))
TODAY += " {{ slice $today 0 4 }}"


@dataclass(frozen=True)
class Family:
    """A chat format.

    models:   well-known models that have it, for people.
    prompt:   what it makes of CONVERSATION, without the BOS at the beginning.
    template: the same format as a Go template; see `go_template`.
    stop:     texts at which an answer ends; they begin or end a turn.
    """

    name: str
    models: str
    prompt: str
    template: str
    stop: tuple[str, ...]

    @property
    def has_default_system(self) -> bool:
        """Whether the Go template says a default system prompt itself."""
        return DEFAULT_SYSTEM in self.template

    def go_template(self, default_system: str | None) -> str:
        """The Go template of a model whose own template says this where a conversation has no system prompt."""
        # JSON's text with escapes is Go's, too: whatever the model's file says, it stays a text.
        literal = json.dumps(default_system or "", ensure_ascii=False)
        return self.template.replace(DEFAULT_SYSTEM, f"{{{{ {literal} }}}}")


CHATML = Family(
    "chatml",
    "Qwen2.5, Qwen2.5-Coder, Qwen3, SmolLM2",
    "<|im_start|>system\n system <|im_end|>\n<|im_start|>user\n one <|im_end|>\n"
    "<|im_start|>assistant\n two <|im_end|>\n<|im_start|>user\n three <|im_end|>\n<|im_start|>assistant\n",
    """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}<|im_end|>
""",
    ("<|im_start|>", "<|im_end|>"),
)

SMOLLM3 = Family(
    "smollm3",
    "SmolLM3",
    "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nReasoning Mode: /think\n\n"
    "## Custom Instructions\n\n system\n\n<|im_end|>\n<|im_start|>user\n one <|im_end|>\n"
    "<|im_start|>assistant\n two <|im_end|>\n<|im_start|>user\n three <|im_end|>\n<|im_start|>assistant\n",
    TRIM_RIGHT
    + """<|im_start|>system
## Metadata

Knowledge Cutoff Date: June 2025
Reasoning Mode: /think

## Custom Instructions

{{ if .System }}{{ template "trim right" .System }}{{ else }}"""
    + DEFAULT_SYSTEM
    + """{{ end }}

<|im_end|>
{{ range .Messages }}{{ if ne .Role "system" }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}{{ end }}<|im_start|>assistant
""",
    ("<|im_start|>", "<|im_end|>"),
)

LLAMA3_TURN = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
LLAMA3_TURNS = "".join(LLAMA3_TURN.format(*turn) for turn in [("user", "one"), ("assistant", "two"), ("user", "three")])
LLAMA3_ASK = "<|start_header_id|>assistant<|end_header_id|>\n\n"
LLAMA3_MESSAGE = LLAMA3_TURN.format("{{ .Role }}", '{{ template "trim" .Content }}')
LLAMA3 = Family(
    "llama3",
    "Llama 3",
    LLAMA3_TURN.format("system", "system") + LLAMA3_TURNS + LLAMA3_ASK,
    TRIM + "{{ range .Messages }}" + LLAMA3_MESSAGE + "{{ end }}" + LLAMA3_ASK,
    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
LLAMA3_DATED = "Cutting Knowledge Date: December 2023\nToday Date: {}\n\n{}"
LLAMA31 = Family(
    "llama3.1",
    "Llama 3.1, 3.2, 3.3",
    LLAMA3_TURN.format("system", LLAMA3_DATED.format("31 Jan 2026", "system")) + LLAMA3_TURNS + LLAMA3_ASK,
    TRIM
    + LLAMA3_TURN.format("system", LLAMA3_DATED.format(TODAY, '{{ template "trim" .System }}'))
    + '{{ range .Messages }}{{ if ne .Role "system" }}'
    + LLAMA3_MESSAGE
    + "{{ end }}{{ end }}"
    + LLAMA3_ASK,
    LLAMA3.stop,
)

LLAMA2 = Family(
    "llama2",
    "Llama 2, CodeLlama-Instruct",
    "[INST] <<SYS>>\n system \n<</SYS>>\n\n one [/INST] two </s><s>[INST] three [/INST]",
    TRIM
    + """{{ $system := .System }}{{ $begin := "" }}{{ range .Messages }}"""
    + """{{ if eq .Role "user" }}{{ $begin }}{{ $begin = "<s>" }}[INST] {{ if $system }}"""
    + r"""{{ template "trim" (printf "<<SYS>>\n%s\n<</SYS>>\n\n%s" $system .Content) }}{{ $system = "" }}"""
    + """{{ else }}{{ template "trim" .Content }}{{ end }} [/INST]"""
    + """{{ else if eq .Role "assistant" }} {{ template "trim" .Content }} </s>{{ end }}{{ end }}""",
    ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
)

ZEPHYR = Family(
    "zephyr",
    "TinyLlama-Chat, Zephyr",
    "<|system|>\n system </s>\n<|user|>\n one </s>\n<|assistant|>\n two </s>\n<|user|>\n three </s>\n<|assistant|>\n",
    """{{ range .Messages }}<|{{ .Role }}|>
{{ .Content }}</s>
{{ end }}<|assistant|>
""",
    ("<|system|>", "<|user|>", "<|assistant|>", "</s>"),
)

# Mistral's formats have the system prompt before the last words of the user's, and only there.
MISTRAL_SYSTEM = """{{ if and $.System (eq (len (slice $.Messages $i)) 1) }}{{ $.System }}

{{ end }}"""
MISTRAL = Family(
    "mistral",
    "Mistral v0.3",
    "[INST]  one [/INST] two</s>[INST]  system \n\n three [/INST]",
    TRIM
    + """{{ range $i, $message := .Messages }}{{ if eq .Role "user" }}[INST] """
    + MISTRAL_SYSTEM
    + """{{ .Content }}[/INST]{{ else if eq .Role "assistant" }} """
    + """{{ template "trim" .Content }}</s>{{ end }}{{ end }}""",
    ("[INST]", "[/INST]"),
)
MISTRAL_NEMO = Family(
    "mistral-nemo",
    "Mistral Nemo",
    "[INST] one [/INST] two </s>[INST] system \n\n three [/INST]",
    """{{ range $i, $message := .Messages }}{{ if eq .Role "user" }}[INST]"""
    + MISTRAL_SYSTEM
    + """{{ .Content }}[/INST]{{ else if eq .Role "assistant" }}{{ .Content }}</s>{{ end }}{{ end }}""",
    ("[INST]", "[/INST]"),
)

PHI3 = Family(
    "phi3",
    "Phi-3.5",
    "<|system|>\n system <|end|>\n<|user|>\n one <|end|>\n<|assistant|>\n two <|end|>\n<|user|>\n three <|end|>\n"
    "<|assistant|>\n",
    """{{ range .Messages }}<|{{ .Role }}|>
{{ .Content }}<|end|>
{{ end }}<|assistant|>
""",
    ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
)
PHI3_NO_SYSTEM = Family(
    "phi3-no-system",
    "Phi-3",
    "<|user|>\n system \n one <|end|>\n<|assistant|>\n two <|end|>\n<|user|>\n three <|end|>\n<|assistant|>\n",
    """{{ $system := .System }}{{ range .Messages }}{{ if ne .Role "system" }}<|{{ .Role }}|>
{{ if and $system (eq .Role "user") }}{{ $system }}
{{ $system = "" }}{{ end }}{{ .Content }}<|end|>
{{ end }}{{ end }}<|assistant|>
""",
    PHI3.stop,
)

GEMMA_REST = "<start_of_turn>model\ntwo<end_of_turn>\n<start_of_turn>user\nthree<end_of_turn>\n<start_of_turn>model\n"
GEMMA_BEGIN = (
    TRIM
    + """{{ $system := .System }}{{ range .Messages }}{{ if eq .Role "user" }}<start_of_turn>user
{{ if $system }}"""
)
GEMMA_END = """{{ $system = "" }}{{ else }}{{ template "trim" .Content }}{{ end }}<end_of_turn>
{{ else if eq .Role "assistant" }}<start_of_turn>model
{{ template "trim" .Content }}<end_of_turn>
{{ end }}{{ end }}<start_of_turn>model
"""
GEMMA2 = Family(
    "gemma2",
    "Gemma, Gemma 2",
    "<start_of_turn>user\nsystem \n one<end_of_turn>\n" + GEMMA_REST,
    GEMMA_BEGIN + r"""{{ template "trim" (printf "%s\n%s" $system .Content) }}""" + GEMMA_END,
    ("<start_of_turn>", "<end_of_turn>"),
)
GEMMA3 = Family(
    "gemma3",
    "Gemma 3",
    "<start_of_turn>user\n system \n\none<end_of_turn>\n" + GEMMA_REST,
    GEMMA_BEGIN + """{{ $system }}\n\n{{ template "trim" .Content }}""" + GEMMA_END,
    GEMMA2.stop,
)

FAMILIES = (
    *(CHATML, SMOLLM3, LLAMA3, LLAMA31, LLAMA2, ZEPHYR, MISTRAL, MISTRAL_NEMO),
    *(PHI3, PHI3_NO_SYSTEM, GEMMA2, GEMMA3),
)


def family_of(model: Gguf) -> Family | None:
    """The family whose prompts the model's chat template makes; None for another one, or no template at all.

    Raises ModelError where the template is not valid Jinja.
    """
    template = chat_template_of(model, DATE)
    prompt = None if template is None else prompt_of(template, CONVERSATION, model)
    return next((family for family in FAMILIES if family.prompt == prompt), None)


def default_system(template: ChatTemplate) -> str | None:
    """What the template itself says as system prompt where a conversation has none; None where it says nothing."""
    question = {"role": "user", "content": "question"}
    given = _render(template, [{"role": "system", "content": PROBE}, question])
    default = _render(template, [question])
    if given is None or default is None or PROBE not in given:
        return None
    before, _, after = given.partition(PROBE)
    within = default.startswith(before) and default.endswith(after) and len(default) > len(before) + len(after)
    return default[len(before) : len(default) - len(after)] if within else None


def adds_bos(model: Gguf) -> bool | None:
    """Whether llama.cpp puts the BOS before a text; None where only the kind of tokenizer decides."""
    value = model.get("tokenizer.ggml.add_bos_token")
    return None if value is None else bool(value)


def prompt_of(template: ChatTemplate, messages: Sequence[Message], model: Gguf) -> str | None:
    """The prompt without a BOS that llama.cpp adds; None where the template refuses the conversation."""
    prompt = _render(template, messages)
    return prompt if prompt is None or adds_bos(model) is False else prompt.removeprefix(template.bos_token)


def _render(template: ChatTemplate, messages: Sequence[Message]) -> str | None:
    try:
        return template.render(messages, answer=True)
    except ExampleError:
        return None
