"""Proves that the list of candidates is the specification's, and that faults in a list are all named at once."""

import json
import re
from pathlib import Path

import pytest

from cpuft.errors import ConfigError
from cpuft.sources.candidates import SCHEMA, for_role, read_candidates
from tests.conftest import ROOT, RunCpuft

SCHEMA_KEYS = list(SCHEMA["properties"]["candidates"]["items"]["properties"])
CANDIDATES = ROOT / "configs" / "candidates.yaml"


def test_the_names_of_the_specification_work() -> None:
    """Of three it gives no quantization, which Ollama's library wants: the alias is what the specification says."""
    analysts = for_role(read_candidates(CANDIDATES), "ba")
    assert [candidate.alias or candidate.model.removeprefix("ollama:") for candidate in analysts] == [
        "qwen2.5:3b-instruct",
        "phi3:3.8b",
        "gemma2:2b-instruct",
        "mistral:7b-instruct-v0.3",
        "llama3.2:3b-instruct",
    ]
    assert all(candidate.model.startswith(f"ollama:{candidate.alias}") for candidate in analysts)
    developers = for_role(read_candidates(CANDIDATES), "dev")
    assert [candidate.model for candidate in developers] == ["ollama:qwen2.5-coder:7b", "ollama:codellama:13b"]


def test_every_key_is_explained() -> None:
    explained = re.findall(r"^#   (\w+) ", CANDIDATES.read_text(), re.MULTILINE)
    assert explained == SCHEMA_KEYS


def test_all_faults_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "candidates.yaml"
    path.write_text(
        "candidates:\n"
        "  - {model: qwen2.5, roles: [ba], parameters: 3, download_gb: 2, ram_gb: lots, licence: MIT}\n"
        "  - {model: 'ollama:a', roles: [], parameters: 0, download_gb: 1, alias: a b, ram_gb: 4, speed: 9}\n"
        "more: 1\n"
    )
    with pytest.raises(ConfigError) as failure:
        read_candidates(path)
    headline, *faults = str(failure.value).split("\n  ")
    assert headline == f"{path}: 8 faults:"
    assert set(faults) == {
        "more: no such key, expected some of candidates",
        "candidates[0].model: found 'qwen2.5', expected ollama:NAME[:TAG] or hf:ORG/REPO/FILE.gguf",
        "candidates[0].ram_gb: found 'lots', expected a number of gigabytes",
        f"candidates[1].speed: no such key, expected some of {', '.join(SCHEMA_KEYS)}",
        "candidates[1].alias: found 'a b', expected a name for Ollama",
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


def test_a_role_has_its_candidates_tried_and_the_size_said_before(run_cpuft: RunCpuft, tmp_path: Path) -> None:
    environment = {"OLLAMA_HOST": "127.0.0.1:9", "NO_PROXY": "127.0.0.1", "OLLAMA_MODELS": str(tmp_path)}
    done = run_cpuft("models", "pull", "--candidates", CANDIDATES, "--role", "ba", env=environment)
    assert done.returncode == 2
    total, *tried = done.stderr.splitlines()
    assert total == "5 of 5 models are not here yet: 12.2 GB to fetch"
    assert [line.split(": ")[1] for line in tried] == [
        candidate.model for candidate in for_role(read_candidates(CANDIDATES), "ba")
    ]


def test_a_dry_run_fetches_nothing(run_cpuft: RunCpuft, tmp_path: Path) -> None:
    environment = {"OLLAMA_HOST": "127.0.0.1:9", "NO_PROXY": "127.0.0.1", "OLLAMA_MODELS": str(tmp_path)}
    dry = ["models", "pull", "--candidates", str(CANDIDATES), "--role", "dev", "ollama:own", "--dry-run"]
    done = run_cpuft(*dry, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:5] for line in done.stdout.splitlines()[1:-1]] == [
        ["ollama:own", "?", "GB", "?", "GB"],
        ["ollama:qwen2.5-coder:7b", "4.7", "GB", "8", "GB"],
        ["ollama:codellama:13b", "7.4", "GB", "10", "GB"],
    ]
    assert done.stdout.endswith("3 of 3 models are not here yet: 12.1 GB to fetch\n")
    entry = json.loads(run_cpuft(*dry, "--json", env=environment).stdout)[1]
    assert (entry["reference"], entry["download_gb"], entry["here"]) == ("ollama:qwen2.5-coder:7b", 4.7, False)


def test_an_unknown_role_is_refused(run_cpuft: RunCpuft) -> None:
    done = run_cpuft("models", "pull", "--candidates", CANDIDATES, "--role", "ceo")
    assert done.returncode == 2
    assert done.stderr == ("Error: ceo: no candidate has this role, expected one of ba, po, architect, qa, dev\n")
    done = run_cpuft("models", "pull", "ollama:own", "--role", "ba")
    assert done.returncode == 2
    assert "--role chooses from a list: give --candidates FILE" in done.stderr
