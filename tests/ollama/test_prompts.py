"""Proves that training text, llama.cpp's prompts and Ollama's prompts are the same, for every chat format.

llama.cpp and Ollama are real; the prompts are compared as tokens, so a BOS that is missing or doubled is a difference.
"""

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.gguf.tiny import write_tiny_model
from tests.ollama.agreement import Agreement, compare, table
from tests.ollama.formats import FORMATS, Format
from tests.ollama.server import OllamaServer

# Where Ollama, given no Go template, takes one of its own, and how many of its prompts are right nevertheless.
OLLAMAS_OWN = {"Phi-3": 4, "Gemma 2": 0}

# What this run has found, for the table.
_agreements: dict[str, Agreement] = {}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("bare") / "m.gguf", n_layer=1, n_ctx=2048, chat_template=None)


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_training_text_and_prompts_agree(
    format_: Format, bare: Path, tmp_path: Path, ollama_server: OllamaServer
) -> None:
    found = _agreements[format_.name] = compare(format_, tmp_path / "m.gguf", bare, ollama_server)
    assert found.n_prompts == 8
    assert found.llama_cpp == found.ollama_go == found.n_prompts
    assert found.own == (format_.name in OLLAMAS_OWN)
    assert found.ollama_jinja == OLLAMAS_OWN.get(format_.name, found.n_prompts)


def test_the_documented_table_is_this_run_s() -> None:
    if len(_agreements) < len(FORMATS):
        pytest.skip("not all formats were compared in this run")
    assert table(_agreements) in (ROOT / "docs" / "ollama.md").read_text(encoding="utf-8")
