"""Sections 8.2 and 8.3 of the specification, command by command as it writes them, in a folder with a user's data.

The bundled model stands in for the names of models. It cannot do the task, so what it writes is replaced, between two
commands, by what a model that can would have written.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpuft import demo
from cpuft.gguf.reader import read_gguf
from cpuft.roles import find_role
from cpuft.roles.answer import read_answer, write_answer
from cpuft.synth.records import RoleRecord, read_records, write_records
from tests.conftest import ROOT
from tests.spec.blocks import block, commands
from tests.synth.conftest import document

pytestmark = pytest.mark.slow
ONE_CPU = {min(os.sched_getaffinity(0))}  # beside other tests, threads of one server that share CPUs only wait
BA = find_role("ba")
NAMES = {"qwen2.5:3b-instruct": str(demo.BASE_MODEL), ".venv/bin/python": sys.executable, "python": sys.executable}
ARTIFACTS = Path("artifacts")
# As a user's own metric stands in a user's own module.
METRICS = """
def ba_requirements_metric(example, prediction, trace=None):
    fields = ("title", "description", "functional_requirements", "non_functional_requirements", "constraints")
    return sum(bool(prediction[name]) for name in fields) / len(fields)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user who has 25 examples and a metric, as the specification's own project does."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    package = folder / "dspy_baseline"
    (package / "data" / "production").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "metrics.py").write_text(METRICS)
    lines = [{**seed.inputs, "requirements": dict(seed.answer), "source": "human"} for seed in BA.seeds]
    data = package / "data" / "production" / "ba_train.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "configs").mkdir()
    (folder / "configs" / "lora_config.yaml").write_text(block("3.3", "python"))
    return folder


def _on_one_cpu() -> None:
    os.sched_setaffinity(0, ONE_CPU)


def run(section: str, project: Path) -> str:
    """Runs a section's commands; returns what they print."""
    said = ""
    for command in commands(section, NAMES):
        done = subprocess.run(
            command, cwd=project, capture_output=True, text=True, check=False, timeout=900, preexec_fn=_on_one_cpu
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        said += done.stdout
    return said


def test_from_five_concepts_to_a_file_for_ollama(project: Path) -> None:
    """2.1 to 2.5, 3.1, 3.2 and 3.4 to 3.6: one test, since each needs what those before it left."""
    from_concepts_to_the_folder_that_training_takes(project)
    from_that_folder_to_a_file_for_ollama(project)


def from_concepts_to_the_folder_that_training_takes(project: Path) -> None:
    """2.1 to 2.5, and 3.1."""
    run("2.1", project)
    program = project / ARTIFACTS / "dspy" / "local_base_optimized" / "ba"
    assert json.loads((program / "report.json").read_text())["search"]["trials"] == 10
    run("2.2", project)
    concepts = project / ARTIFACTS / "synthetic" / "business_concepts.jsonl"
    asked = concepts.read_text().splitlines(keepends=True)
    assert len(asked) > 20
    concepts.write_text("".join(asked[:4]))
    run("2.3", project)
    raw = project / ARTIFACTS / "synthetic" / "ba_synthetic_raw.jsonl"
    written = read_records(raw, BA)
    assert len(written) == 4
    assert len({one.facts["prompt"] for one in written}) == 1
    good = [
        RoleRecord({"concept": f"{subject} for {who}"}, write_answer(document(subject)), {"domain": who})
        for subject in (
            "Ledger",
            "Diary",
            "Roster",
            "Catalogue",
            "Timetable",
            "Notebook",
            "Register",
            "Archive",
            "Map",
            "Shop",
        )
        for who in (
            "bakers",
            "nurses",
            "pilots",
            "tailors",
            "farmers",
            "judges",
            "cooks",
            "miners",
            "poets",
            "drivers",
            "clerks",
        )
    ]
    write_records(raw, [*written, *good], BA)
    assert "examples are kept" in run("2.4", project)
    run("2.5", project)
    train, val = (
        read_records(project / ARTIFACTS / "synthetic" / f"ba_{part}_v1.jsonl", BA) for part in ("train", "val")
    )
    assert 0.15 < len(val) / (len(train) + len(val)) < 0.25
    run("3.1", project)
    folder = project / ARTIFACTS / "synthetic" / "ba_hf_dataset"
    lines = [
        json.loads(line) for name in ("train", "val") for line in (folder / f"{name}.jsonl").read_text().splitlines()
    ]
    assert len(lines) == len(train) + len(val) >= 100
    assert all(read_answer(line["messages"][-1]["content"]) for line in lines)


def from_that_folder_to_a_file_for_ollama(project: Path) -> None:
    """3.2 to 3.6, with the specification's own configuration."""
    models = project / ARTIFACTS / "models"
    run("3.2", project)
    assert (models / "qwen25-3b-base" / "model.gguf").is_file()
    run("3.4", project)
    assert (models / "qwen25-ba-finetuned" / "adapter.gguf").is_file()
    assert (project / ARTIFACTS / "logs" / "finetune_ba_v1" / "training.log").is_file()
    run("3.5", project)
    run("3.6", project)
    tuned = models / "qwen25-ba-q4_k_m.gguf"
    assert tuned.read_bytes() == (models / "qwen25-ba-merged" / "model.gguf").read_bytes()
    assert read_gguf(tuned).architecture == "llama"
