"""Section 8.4 of the specification, and the parts of 8.1 that evaluate, command by command as it writes them.

The bundled model stands in for the names of models: a link of each name in the user's folder leads to it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from cpuft import demo
from cpuft.evaluate.side_by_side import read_page
from cpuft.release.merge import merge
from cpuft.roles import find_role
from cpuft.synth.records import read_records, write_records
from tests.conftest import ROOT, RunCpuft
from tests.spec.blocks import block, commands

pytestmark = pytest.mark.slow
ONE_CPU = {min(os.sched_getaffinity(0))}  # beside other tests, threads of one server that share CPUs only wait
CANDIDATES = ("qwen2.5:3b-instruct", "phi3:3.8b", "gemma2:2b-instruct")
# As a user's own metric stands in a user's own module.
METRICS = """
def ba_requirements_metric(example, prediction, trace=None):
    return min(1.0, 0.7 + len(prediction["answer"]) / 1e4)
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
    seeds = find_role("ba").seeds
    lines = [json.dumps({**seed.inputs, "requirements": dict(seed.answer), "source": "human"}) for seed in seeds]
    (package / "data" / "production" / "ba_train.jsonl").write_text("\n".join(lines) + "\n")
    for name in CANDIDATES:
        (folder / name).symlink_to(demo.BASE_MODEL)
    return folder


def run(section: str, project: Path, names: Mapping[str, str] | None = None) -> str:
    """Runs a section's commands; returns what they print."""
    said = ""
    for command in commands(section, {".venv/bin/python": sys.executable, "python": sys.executable, **(names or {})}):
        done = subprocess.run(
            command,
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
            preexec_fn=lambda: os.sched_setaffinity(0, ONE_CPU),
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        said += done.stdout
    return said


def test_base_models_are_measured_and_one_is_chosen(project: Path, run_cpuft: RunCpuft) -> None:
    """1.2 and 1.3."""
    run("1.2", project)
    output = project / "artifacts" / "benchmarks" / "local_models_baseline.json"
    result = json.loads(output.read_text())
    assert set(result) == {*CANDIDATES, "made_by"}
    for wanted in json.loads(block("1.2", "json")).values():
        for entry in (result[name] for name in CANDIDATES):
            assert set(wanted) < set(entry)
            assert all(isinstance(entry[name], int | float) for name in wanted)
            assert entry["n_examples"] == len(find_role("ba").seeds)
    bounds = project / "bounds.yaml"
    bounds.write_text("yaml_valid: null\ntokens_per_sec: 0.1\n")  # the bundled model cannot do the task
    done = run_cpuft("models", "select", output, "--thresholds", bounds, "--config", project / "config.yaml")
    assert done.returncode == 0, done.stderr
    chosen = yaml.safe_load((project / "config.yaml").read_text())["LOCAL_BASE_MODEL"]
    assert Path(chosen).resolve() == demo.BASE_MODEL.resolve()
    assert done.stdout.splitlines()[-1] == f"export LOCAL_BASE_MODEL={chosen}"


@pytest.fixture(scope="module")
def released(project: Path, tuned_adapter: Path) -> dict[str, str]:
    """The base and its tuned model, by the names under which the specification has them in Ollama; a validation set."""
    tuned = project / "tuned.gguf"
    merge(demo.BASE_MODEL, tuned, adapter_path=tuned_adapter, file_type="q8_0")
    ba = find_role("ba")
    folder = project / "artifacts" / "synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "ba_val_v1.jsonl", read_records(demo.TEST, ba)[:4], ba)
    return {"ollama:qwen2.5:3b-instruct": str(demo.BASE_MODEL), "ollama:qwen25-ba-finetuned:v1": str(tuned)}


def test_a_tuned_model_is_compared_with_its_base(project: Path, released: dict[str, str]) -> None:
    """4.1."""
    run("4.1", project, released)
    result = json.loads((project / "artifacts" / "benchmarks" / "finetuned_vs_base.json").read_text())
    base, tuned = (result[name] for name in released.values())
    for entry in (base, tuned):
        assert {"avg_score", "yaml_valid", "tokens_per_sec"} <= set(entry)
    assert tuned["yaml_valid"] > base["yaml_valid"]
    assert result["comparison"]["n_examples"] == 4


def test_generalization_is_judged(project: Path, released: dict[str, str]) -> None:
    """4.3. The user's own metric is content with long answers."""
    said = run("4.3", project, released)
    result = json.loads((project / "artifacts" / "benchmarks" / "generalization_test.json").read_text())
    assert result["original"]["verdict"] == "go"
    assert said.endswith("at least 0.80 is wanted: go\n")
    assert result["original"]["n_examples"] == len(find_role("ba").seeds)


def test_hard_questions_are_asked(project: Path, released: dict[str, str]) -> None:
    """4.4, with the first of the bundled cases of each class."""
    cases = yaml.safe_load((ROOT / "configs" / "stress_test_cases.yaml").read_text())
    firsts = {case["class"]: case for case in reversed(cases["cases"])}
    (project / "configs").mkdir()
    (project / "configs" / "stress_test_cases.yaml").write_text(yaml.safe_dump({**cases, "cases": [*firsts.values()]}))
    said = run("4.4", project, released)
    result = json.loads((project / "artifacts" / "validation" / "stress_test_results.json").read_text())
    assert result["stress"]["total"] == len(firsts)
    assert set(result["stress"]["classes"]) == set(firsts)
    assert all(kind in said for kind in ("multi-domain", "dependencies", "vague", "enterprise"))


def test_both_models_are_shown_side_by_side(project: Path, released: dict[str, str]) -> None:
    """4.2."""
    concepts = project / "artifacts" / "synthetic" / "business_concepts.jsonl"
    asked = [json.loads(line)["messages"][-2]["content"] for line in demo.TEST.read_text().splitlines()[:12]]
    concepts.write_text("".join(json.dumps({"concept": text.removeprefix("Concept: ")}) + "\n" for text in asked))
    said = run("4.2", project, released)
    assert "10 samples, the tuned model's answers are" in said
    page = read_page(project / "artifacts" / "validation" / "side_by_side_comparison.html")
    assert [page.rivals.base.name, page.rivals.tuned.name] == list(released.values())
    assert len(page.samples) == 10
    better = [sample["outcome"] for sample in page.data["samples"]].count("better")
    assert better > 5
