"""Sections 8.2 and 3.1 of the specification: from concepts to the folder that training takes, by its own scripts."""

import json
import subprocess
import sys
from pathlib import Path

from cpuft import demo
from cpuft.roles import find_role
from cpuft.roles.answer import read_answer
from cpuft.synth.records import RoleRecord, read_records, write_records
from tests.conftest import ROOT
from tests.synth.conftest import document


def script(name: str, *arguments: str | Path | int, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


def test_from_concepts_to_the_folder_of_conversations(tmp_path: Path) -> None:
    synthetic = tmp_path / "artifacts" / "synthetic"
    synthetic.mkdir(parents=True)
    domains = "fintech,healthcare,ecommerce,education,logistics,hr,marketing"
    concepts = synthetic / "business_concepts.jsonl"
    done = script(
        "generate_business_concepts.py", "--num-concepts", 60, "--domains", domains, "--output", concepts, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    asked = [json.loads(line) for line in concepts.read_text().splitlines()]
    assert len(asked) == 60
    assert len({concept["domain"] for concept in asked}) == 7
    (synthetic / "two.jsonl").write_text("".join(concepts.read_text().splitlines(keepends=True)[:2]))
    raw = synthetic / "ba_synthetic_raw.jsonl"
    done = script(
        "generate_synthetic_dataset.py", "--concepts", synthetic / "two.jsonl", "--output", raw, "--provider", "ollama",
        "--model", demo.BASE_MODEL, "--max-tokens", 32, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    role = find_role("ba")
    cut = read_records(raw, role)
    assert [one.facts["finished"] for one in cut] == [False, False]
    # A model that knows the task would have written these.
    good = [
        RoleRecord({"concept": c["concept"]}, str(document(c["concept"][:40])), {**c, "source": "test"}) for c in asked
    ]
    write_records(raw, [*cut, *good[2:]], role)
    kept = synthetic / "ba_synthetic_filtered.jsonl"
    done = script(
        "filter_synthetic_data.py", "--input", raw, "--min-score", "0.70", "--output", kept, "--min-examples", 50,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "58 of 60 examples are kept" in done.stdout
    train, val = synthetic / "ba_train_v1.jsonl", synthetic / "ba_val_v1.jsonl"
    done = script("split_dataset.py", "--input", kept, "--train", train, "--val", val, "--split", "0.8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = synthetic / "ba_hf_dataset"
    done = script(
        "convert_to_hf_format.py", "--train", train, "--val", val, "--output", folder, "--format", "chat", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    lines = [
        json.loads(line) for name in ("train", "val") for line in (folder / f"{name}.jsonl").read_text().splitlines()
    ]
    assert len(lines) == 58
    assert all(read_answer(line["messages"][-1]["content"]) for line in lines)
    assert lines[0]["messages"][1]["content"].startswith("Concept: ")
