"""Proves that chat formats are recognised by their prompts, and what the parts of their Go templates do."""

import datetime
from pathlib import Path

import pytest

from cpuft.chat.template import ChatTemplate
from cpuft.gguf.reader import read_gguf
from cpuft.ollama.derivation import derived_family
from cpuft.ollama.families import DATE, FAMILIES, MONTHS, TODAY, TRIM, TRIM_RIGHT, default_system, family_of
from cpuft.ollama.importing import ImportJob, import_model
from cpuft.ollama.modelfile import Parameters, modelfile_of
from tests.gguf.tiny import write_tiny_model
from tests.ollama.formats import FORMATS, Format
from tests.ollama.server import OllamaServer

BY_NAME = {format_.name: format_ for format_ in FORMATS}


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_recognised_by_its_prompt(format_: Format, tmp_path: Path) -> None:
    assert family_of(read_gguf(format_.write(tmp_path / "m.gguf"))) is format_.family


def test_no_two_families_are_alike() -> None:
    assert len({family.name for family in FAMILIES}) == len({family.prompt for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize("change", ["' '", "eos_token", "messages | length"])
def test_another_prompt_is_another_format(change: str, tmp_path: Path) -> None:
    source = BY_NAME["Qwen2.5"].jinja.replace("'<|im_end|>' + '\\n'", f"'<|im_end|>' + '\\n' + {change} | string")
    assert source != BY_NAME["Qwen2.5"].jinja
    assert family_of(read_gguf(write_tiny_model(tmp_path / "m.gguf", chat_template=source))) is None


def test_no_template_is_no_format(tmp_path: Path) -> None:
    model = read_gguf(write_tiny_model(tmp_path / "m.gguf", chat_template=None))
    assert family_of(model) is None
    assert derived_family(model) is None


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("Qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
        ("SmolLM2", "You are SmolLM."),
        ("Qwen3", None),
        ("Llama 3.2", None),  # it has a system turn anyway, with the date in it
        ("Gemma 2", None),
    ],
)
def test_the_default_system_prompt(name: str, default: str | None) -> None:
    format_ = BY_NAME[name]
    template = ChatTemplate(format_.jinja, Path("m.gguf"), bos_token=format_.bos, eos_token=format_.eos, date=DATE)
    assert default_system(template) == default


def test_a_default_system_prompt_is_a_text_whatever_it_says() -> None:
    (smollm3,) = (family for family in FAMILIES if family.has_default_system)
    assert r'{{ else }}{{ "\"}} {{ .Model \n☃" }}{{ end }}' in smollm3.go_template('"}} {{ .Model \n☃')


def test_the_go_templates_trim_and_date(ollama_server: OllamaServer, tmp_path: Path) -> None:
    texts = ["", " ", "\n\t\r\n ", "a", " a", "a\n", "\n é b\t", "☃ ", " \u00e9", "x" * 300 + "\n"]
    dates = [datetime.date(2026, month, month) for month in range(1, 13)]
    template = TRIM + TRIM_RIGHT
    for text in texts:
        literal = "".join(f"\\x{byte:02x}" for byte in text.encode())
        template += f'{{{{ template "trim" "{literal}" }}}}|{{{{ template "trim right" "{literal}" }}}}|'
    template += "".join(TODAY.replace("currentDate", f'"{date}"') + "|" for date in dates)
    bare = write_tiny_model(tmp_path / "m.gguf", n_layer=1, chat_template=None)
    ollama_server.create("parts", bare, template=template + "{{ range .Messages }}{{ end }}")
    rendered = ollama_server.rendered("parts", [{"role": "user", "content": "a"}])
    ollama_server.client.delete("parts")
    trimmed = [part for text in texts for part in (text.strip(), text.rstrip())]
    assert rendered == "|".join([*trimmed, *(f"{date.day:02} {MONTHS[date.month - 1]} 2026" for date in dates), ""])


DERIVABLE = {
    "[{role}] {content}\n": "[assistant] ",
    "<{role}>\n{content}</{role}>": "<assistant>\n",
}


@pytest.mark.parametrize("turn", DERIVABLE)
def test_a_format_is_derived_where_words_stand_around_turns(turn: str, tmp_path: Path) -> None:
    said = "'" + turn.replace("\n", "\\n").replace("{role}", "' + m.role + '").replace("{content}", "' + m.content + '")
    source = "{% for m in messages %}{{ " + said + "' }}{% endfor %}{% if add_generation_prompt %}" + DERIVABLE[turn]
    family = derived_family(read_gguf(write_tiny_model(tmp_path / "m.gguf", chat_template=source + "{% endif %}")))
    assert family is not None
    around = {role: turn.replace("{role}", role).split("{content}") for role in ("system", "user", "assistant")}
    system, user, (ask, end) = (around[role] for role in ("system", "user", "assistant"))
    assert family.template == (
        f"{{{{ if .System }}}}{system[0]}{{{{ .System }}}}{system[1]}{user[0]}{{{{ else }}}}{user[0]}{{{{ end }}}}"
        f"{{{{ .Prompt }}}}{user[1]}{ask}{{{{ .Response }}}}{end}"
    )
    assert family.stop == ((end.strip(),) if end.strip() else ())


def test_a_derived_format_with_a_default_system_prompt(ollama_server: OllamaServer, tmp_path: Path) -> None:
    """The default is SYSTEM, so that what is before the user's words where there is no system prompt is not it."""
    source = (
        "{% if messages[0].role != 'system' %}[system] Be kind.[end]\n{% endif %}"
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}[end]\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    model = write_tiny_model(tmp_path / "m.gguf", n_layer=1, n_ctx=1024, chat_template=source)
    modelfile = modelfile_of(read_gguf(model), system=None, parameters=Parameters())
    assert (modelfile.family, modelfile.system, modelfile.stop) == ("derived", "Be kind.", ("[end]",))
    assert modelfile.template == (
        "{{ if .System }}[system] {{ .System }}[end]\n[user] {{ else }}[user] {{ end }}"
        "{{ .Prompt }}[end]\n[assistant] {{ .Response }}[end]\n"
    )
    imported = import_model(ImportJob(model, "derived", host=ollama_server.host))
    ollama_server.client.delete("derived")
    assert (imported.template, imported.n_prompts) == (True, 4)


@pytest.mark.parametrize(
    "source",
    [
        # it asks for an answer in other words than it writes one
        (
            "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}[assistant] Well, {% endif %}"
        ),
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",  # its words are not the messages'
        # tomorrow they are others
        (
            "{% for m in messages %}{{ date_string }}[{{ m.content }}]{% endfor %}"
            "{% if add_generation_prompt %}{{ date_string }}[{% endif %}"
        ),
        "{% for m in messages %}{{ '{{' }}{{ m.content }}{% endfor %}",  # a program to Go
        "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}",  # each turn differs
        "{{ messages[0].content }}",
    ],
)
def test_no_format_is_derived(source: str, tmp_path: Path) -> None:
    assert derived_family(read_gguf(write_tiny_model(tmp_path / "m.gguf", chat_template=source))) is None
