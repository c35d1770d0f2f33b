"""Answers are read whatever they hold, and written so that a person and a model can read them."""

import pytest

from cpuft.roles.answer import read_answer, read_fields, write_answer

CODE = 'def greet(name):\n    """Says hello: politely."""\n    return f"hello {name}"\n'


def test_a_text_of_several_lines_stands_as_it_is_behind_a_bar() -> None:
    written = write_answer({"files": [{"path": "a.py", "content": CODE}], "notes": "one line"})
    assert '  content: |\n    def greet(name):\n        """Says hello: politely."""\n' in written
    assert read_answer(written) == {"files": [{"path": "a.py", "content": CODE}], "notes": "one line"}


@pytest.mark.parametrize(
    "text",
    ["a\n", "a\nb", "\n", "a \n b", "  a\nb\n\n", "\n\na\n", "a\tb\n", "- a\n# b", "", "null", "\x07\n"],
)
def test_what_is_written_is_read_again(text: str) -> None:
    assert read_answer(write_answer({"text": text, "list": [[text]]})) == {"text": text, "list": [[text]]}


def test_what_stands_in_two_places_is_written_twice() -> None:
    ids = ["TC001"]
    assert write_answer({"a": [ids, ids]}) == "a:\n- - TC001\n- - TC001\n"


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}"), ("- ", "")])
def test_a_document_is_read_to_a_depth_that_nobody_needs(opening: str, closing: str) -> None:
    for depth, readable in ((15, True), (60, False)):
        assert (read_answer(f"a:\n  {opening * depth}x{closing * depth}\n") is not None) == readable


@pytest.mark.parametrize("value", ["!!bool maybe", "!!timestamp soon", "!!int ''", "2024-99-99", "9" * 5000])
def test_a_value_that_yaml_cannot_make_spoils_its_own_field_only(value: str) -> None:
    assert read_answer(f"title: a shop\nwhen: {value}\n") is None
    assert read_fields(f"title: a shop\nwhen: {value}\n") == {"title": "a shop"}
