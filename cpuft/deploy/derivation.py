"""A Go template for a chat format that is in no table, read off the prompts that the model's own template makes.

Without one, Ollama may take a Go template of its own whose Jinja has a similar wording but another format.
"""

import datetime

from cpuft.data.records import ExampleError
from cpuft.data.template import ChatTemplate, Message, chat_template_of
from cpuft.deploy.families import DATE, Family
from cpuft.models.gguf import Gguf

NAME = "derived"
SYSTEM, ONE, TWO, THREE = "cpuft-system", "cpuft-one", "cpuft-two", "cpuft-three"
TURNS: tuple[Message, ...] = (
    {"role": "user", "content": ONE},
    {"role": "assistant", "content": TWO},
    {"role": "user", "content": THREE},
)


def derived_family(model: Gguf) -> Family | None:
    """The model's chat format, where it puts the same words around every turn; else None.

    Those are what it says before and after the system prompt, before the user's words where there is none, before an
    answer and after it. A template that tells the date is not one of them.
    """
    template, other_day = chat_template_of(model, DATE), chat_template_of(model, DATE + datetime.timedelta(400))
    if template is None or other_day is None:
        return None
    whole = _around(template, (SYSTEM, ONE, TWO, THREE), ({"role": "system", "content": SYSTEM}, *TURNS))
    plain = _around(template, (ONE, TWO, THREE), TURNS)
    if whole is None or plain is None or plain != _around(other_day, (ONE, TWO, THREE), TURNS):
        return None
    before_system, after_system, *rest = whole
    before_user, before_answer, between, ask = plain
    if rest != [before_answer, between, ask] or before_answer != ask or not between.endswith(before_user):
        return None
    after_answer = between[: len(between) - len(before_user)]
    source = (
        f"{{{{ if .System }}}}{before_system}{{{{ .System }}}}{after_system}{{{{ else }}}}{before_user}{{{{ end }}}}"
    )
    source += f"{{{{ .Prompt }}}}{before_answer}{{{{ .Response }}}}{after_answer}"
    if source.count("{{") != 6 or '"""' in source:  # its words would be read as a program, or end the Modelfile's text
        return None
    stop = (after_answer.strip(),) if after_answer.strip() else ()
    return Family(NAME, model.path.name, "".join(whole), source, stop)


def _around(template: ChatTemplate, said: tuple[str, ...], messages: tuple[Message, ...]) -> list[str] | None:
    """What the prompt has before, between and after these texts, without the BOS; None unless it has each once."""
    try:
        rest = template.render(messages, answer=True).removeprefix(template.bos_token)
    except ExampleError:
        return None
    around = []
    for text in said:
        if rest.count(text) != 1:
            return None
        before, _, rest = rest.partition(text)
        around.append(before)
    return [*around, rest]
