"""Proves what asking a thinking model for no thoughts does to its prompts, beside the text that it was trained on."""

import datetime
from collections.abc import Sequence
from pathlib import Path

import pytest

from cpuft.chat.message import Message
from cpuft.chat.template import ChatTemplate
from cpuft.ollama.importing import ImportJob, import_model
from tests.ollama.formats import FORMATS, Format, smollm3_as_published
from tests.ollama.server import OllamaServer

QWEN3, SMOLLM3 = (format_ for format_ in FORMATS if format_.name in ("Qwen3", "SmolLM3"))
TURNS: list[Message] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


def trained(format_: Format, messages: Sequence[Message], *, answer: bool = False) -> str:
    today = datetime.date.today()
    template = ChatTemplate(format_.jinja, Path("m"), bos_token=format_.bos, eos_token=format_.eos, date=today)
    return template.render(messages, answer=answer)


def test_qwen3_is_asked_as_trained_with_thoughts_and_without(ollama_server: OllamaServer, tmp_path: Path) -> None:
    """Its training text has the empty block of thoughts, which the prompt without thoughts ends with."""
    model = QWEN3.write(tmp_path / "m.gguf")
    assert import_model(ImportJob(model, "qwen3", host=ollama_server.host)).n_prompts == 4
    text = trained(QWEN3, TURNS)
    asked = {think: ollama_server.rendered("qwen3", TURNS[:1], think=think) for think in (True, False)}
    ollama_server.client.delete("qwen3")
    assert asked[False] == asked[True] + "<think>\n\n</think>\n\n"
    assert text.startswith(asked[False] + "Hello.")


@pytest.mark.parametrize("published", [False, True])
def test_smollm3_without_thoughts_is_what_no_think_trains(
    published: bool, ollama_server: OllamaServer, tmp_path: Path
) -> None:
    format_ = smollm3_as_published() if published else SMOLLM3
    model = format_.write(tmp_path / "m.gguf")
    imported = import_model(ImportJob(model, "smollm3", host=ollama_server.host))
    system: Message = {"role": "system", "content": "Be terse."}
    silent: Message = {"role": "system", "content": "Be terse. /no_think"}
    asked = {think: ollama_server.rendered("smollm3", [system, TURNS[0]], think=think) for think in (True, False)}
    by_prompt = ollama_server.rendered("smollm3", [silent, TURNS[0]])
    ollama_server.client.delete("smollm3")
    assert imported.n_prompts == 4
    assert asked[True] == trained(format_, [system, TURNS[0]], answer=True)
    assert asked[False] == by_prompt == trained(format_, [silent, TURNS[0]], answer=True) != asked[True]
    assert trained(format_, [silent, *TURNS]).startswith(asked[False] + "Hello.")


def test_the_published_smollm3_is_rendered_with_its_own_template(ollama_server: OllamaServer, tmp_path: Path) -> None:
    """No Go template stands for it: it tells the date."""
    model = smollm3_as_published().write(tmp_path / "m.gguf")
    imported = import_model(ImportJob(model, "smollm3", host=ollama_server.host))
    rendered = ollama_server.rendered("smollm3", TURNS[:1])
    ollama_server.client.delete("smollm3")
    assert (imported.family, imported.template, imported.n_prompts) == (None, False, 4)
    assert f"\nToday Date: {datetime.date.today():%d %B %Y}\nReasoning Mode: /think\n" in rendered
    assert "<|im_end|>\n<|im_start|>user" not in rendered
