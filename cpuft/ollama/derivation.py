"""A Go template for a chat format that is in no table, read off the prompts that the model's own template makes.

Without one, Ollama may take a Go template of its own whose Jinja has a similar wording but another format.
"""

import datetime
from collections.abc import Sequence

from cpuft.chat.message import Message
from cpuft.chat.template import ChatTemplate, chat_template_of
from cpuft.errors import ExampleError
from cpuft.gguf.reader import Gguf
from cpuft.ollama.families import DATE, Family, default_system, prompt_of

NAME = "derived"
CHAT: tuple[Message, ...] = (
    {"role": "system", "content": "cpuft-system"},
    {"role": "user", "content": "cpuft-one"},
    {"role": "assistant", "content": "cpuft-two"},
    {"role": "user", "content": "cpuft-three"},
)


def derived_family(model: Gguf) -> Family | None:
    """The model's chat format, where it puts the same words around every turn; else None.

    Those are what it says before and after the system prompt, before the user's words where there is none, before an
    answer and after it. A template that tells the date is not one of them.
    """
    template, other_day = chat_template_of(model, DATE), chat_template_of(model, DATE + datetime.timedelta(400))
    if template is None or other_day is None:
        return None
    (whole, plain), tomorrow = (
        [_around(prompt_of(day, chat, model), chat) for chat in (CHAT, CHAT[1:])] for day in (template, other_day)
    )
    if whole is None or plain is None or [whole, plain] != tomorrow:
        return None
    before_system, after_system, *rest = whole
    before_user, before_answer, between, ask = plain
    if default_system(template) is not None:  # then SYSTEM says it, and the first turn is never without one
        before_user = between.removeprefix(_after_answer(template))
    if rest != [before_answer, between, ask] or before_answer != ask or not between.endswith(before_user):
        return None
    after_answer = between[: len(between) - len(before_user)]
    words = (before_system, after_system, before_user, before_answer, after_answer)
    if any("{{" in text or '"' * 3 in text for text in words):  # a program to Go, or the end of the Modelfile's text
        return None
    first = (
        f"{{{{ if .System }}}}{before_system}{{{{ .System }}}}{after_system}{{{{ else }}}}{before_user}{{{{ end }}}}"
    )
    turn = f"{{{{ .Prompt }}}}{before_answer}{{{{ .Response }}}}{after_answer}"
    stop = (after_answer.strip(),) if after_answer.strip() else ()
    return Family(NAME, model.path.name, "".join(whole), first + turn, stop)


def _after_answer(template: ChatTemplate) -> str:
    """What a conversation that ends with an answer has behind it; "" where the template refuses one."""
    try:
        return template.render(CHAT[:3]).rpartition(CHAT[2]["content"])[2]
    except ExampleError:
        return ""


def _around(prompt: str | None, chat: Sequence[Message]) -> list[str] | None:
    """What the prompt has before, between and after the messages' words; None unless it has each of them once."""
    if prompt is None or any(prompt.count(message["content"]) != 1 for message in chat):
        return None
    around = []
    for message in chat:
        before, _, prompt = prompt.partition(message["content"])
        around.append(before)
    return [*around, prompt]
