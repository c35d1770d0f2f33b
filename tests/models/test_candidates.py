"""Proves that the list of candidates is the specification's, and that faults in a list are all named at once."""

import re
from pathlib import Path

import pytest

from cpuft.errors import ConfigError
from cpuft.models.candidates import SCHEMA, read_candidates
from tests.conftest import ROOT, RunCpuft

CANDIDATES = ROOT / "configs" / "candidates.yaml"


def test_the_bundled_list() -> None:
    assert [candidate.model for candidate in read_candidates(CANDIDATES)] == [
        "ollama:qwen2.5:3b-instruct",
        "ollama:phi3:3.8b",
        "ollama:gemma2:2b-instruct",
        "ollama:mistral:7b-instruct-v0.3",
        "ollama:llama3.2:3b-instruct",
    ]


def test_every_key_is_explained() -> None:
    explained = re.findall(r"^#   (\w+) ", CANDIDATES.read_text(), re.MULTILINE)
    assert explained == list(SCHEMA["properties"]["candidates"]["items"]["properties"])


def test_all_faults_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "candidates.yaml"
    path.write_text(
        "candidates:\n"
        "  - {model: qwen2.5, roles: [ba], parameters: 3, ram_gb: lots, licence: MIT}\n"
        "  - {model: 'ollama:a', roles: [], parameters: 0, ram_gb: 4, speed: 9}\n"
        "more: 1\n"
    )
    with pytest.raises(ConfigError) as failure:
        read_candidates(path)
    headline, *faults = str(failure.value).split("\n  ")
    assert headline == f"{path}: 7 faults:"
    assert set(faults) == {
        "more: no such key, expected some of candidates",
        "candidates[0].model: found 'qwen2.5', expected ollama:NAME[:TAG] or hf:ORG/REPO/FILE.gguf",
        "candidates[0].ram_gb: found 'lots', expected a number of gigabytes",
        "candidates[1].speed: no such key, expected some of model, roles, parameters, ram_gb, licence, note",
        "candidates[1].licence: missing, expected a text",
        "candidates[1].roles: found '[]', expected a list of roles",
        "candidates[1].parameters: found '0', expected a number of billions",
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "candidates: missing, expected a list of models"),
        ("- a", "the file: found \"['a']\", expected the key candidates"),
        ("candidates: [", ":1: not valid YAML"),
        ("candidates: 7", "candidates: found '7', expected a list of models"),
    ],
)
def test_a_list_of_another_form(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "candidates.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as failure:
        read_candidates(path)
    assert sentence in str(failure.value)


def test_every_candidate_is_tried(run_cpuft: RunCpuft) -> None:
    environment = {"OLLAMA_HOST": "127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    done = run_cpuft("models", "pull", "--candidates", CANDIDATES, env=environment)
    assert done.returncode == 2
    tried = [line.split(": ")[1] for line in done.stderr.splitlines()]
    assert tried == [candidate.model for candidate in read_candidates(CANDIDATES)]
