"""The shell blocks of the specification, which stands beside this file as its author wrote it."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

SPECIFICATION = Path(__file__).parent / "SPEC.md"


def block(section: str, language: str = "bash") -> str:
    """The first block of a language in a section such as "2.1"."""
    text = SPECIFICATION.read_text(encoding="utf-8")
    found = re.search(rf"^#### {re.escape(section)}\. .*?^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no {language} block in section {section}"
    return found[1]


def commands(section: str, names: Mapping[str, str]) -> list[list[str]]:
    """The commands of a section's block, each as its words. names: put in place of words, such as a model's name."""
    lines = block(section).replace("\\\n", " ").splitlines()
    words = (shlex.split(line, comments=True) for line in lines)
    return [[names.get(word, word) for word in command if word != "PYTHONPATH=."] for command in words if command]
