"""From a role to a training set through the commands, with the real llama-server and the bundled model."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from cpuft import demo
from cpuft.backends.asked import GgufFile
from cpuft.cli.main import cli
from cpuft.roles import Role
from cpuft.roles.answer import read_answer
from cpuft.roles.folder import read_role
from cpuft.synth.concepts import combine, read_concepts
from cpuft.synth.duplicates import likeness
from cpuft.synth.records import read_records, write_records
from tests.synth.conftest import record

BASE = str(demo.BASE_MODEL)


def run(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(cli, ["data", *map(str, arguments)])


def test_concepts_without_a_model(folder: Path, role: Role, tmp_path: Path) -> None:
    arguments = ("concepts", "--role", folder, "--num", 40, "--seed", 3, "--output", tmp_path / "c.jsonl", "--json")
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["concepts"] == 40
    concepts = read_concepts(tmp_path / "c.jsonl")
    assert {concept.domain for concept in concepts} == {"fintech", "healthcare"}
    assert not any(likeness(a.text, b.text) >= 0.7 for a in concepts for b in concepts if a is not b)
    first = (tmp_path / "c.jsonl").read_bytes()
    run(*arguments)
    assert (tmp_path / "c.jsonl").read_bytes() == first
    assert combine(role, 40, [], 4) != concepts
    assert {concept.domain for concept in combine(role, 5, ["fintech"], 0)} == {"fintech"}
    assert 30 < len(combine(role, 10_000, ["fintech"], 0)) < 1000  # there are no more


def test_concepts_by_a_model(folder: Path, tmp_path: Path) -> None:
    """Held to a schema even the bundled model writes lists; what it writes twice counts once."""
    where = tmp_path / "c.jsonl"
    done = run("concepts", "--role", folder, "--num", 6, "--model", demo.BASE_MODEL, "--output", where, "--json")
    assert done.exit_code == 0, done.output
    concepts = read_concepts(where)
    assert 1 <= len(concepts) <= 6
    assert all(concept.group.endswith(("An app for bakers", "An app for beekeepers")) for concept in concepts)


@pytest.fixture(scope="module")
def raw(clerk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers of the bundled model to six concepts, in two runs."""
    place = tmp_path_factory.mktemp("raw")
    run("concepts", "--role", clerk, "--num", 6, "--output", place / "c.jsonl")
    lines = (place / "c.jsonl").read_text().splitlines(keepends=True)
    (place / "first.jsonl").write_text("".join(lines[:2]))
    for concepts, made, kept in (("first.jsonl", 2, 0), ("c.jsonl", 4, 2), ("c.jsonl", 0, 6)):
        files = ("--model", demo.BASE_MODEL, "--concepts", place / concepts, "--output", place / "raw.jsonl")
        done = run("generate", "--role", clerk, *files, "--max-tokens", 200, "--parallel", 2, "--json")
        assert done.exit_code == 0, done.output
        facts = json.loads(done.output)
        assert (facts["made"], facts["kept"], facts["failed"]) == (made, kept, 0)
    return place / "raw.jsonl"


def test_generated_answers_fit_the_schema(raw: Path, clerk: Path) -> None:
    role = read_role(clerk)
    records = read_records(raw, role)
    assert len({one.asked for one in records}) == 6
    for one in records:
        assert one.facts["finished"]
        jsonschema.validate(read_answer(one.answer), dict(role.schema))
        assert one.facts["score"] == pytest.approx(role.metric(one.answer, one.inputs).total, abs=1e-4)
    label = GgufFile(name=demo.BASE_MODEL.name, path=Path(demo.BASE_MODEL)).label
    assert {one.facts["model"] for one in records} == {label}
    assert re.fullmatch(r"base-q8_0\.gguf \([0-9a-f]{12}\)", label)
    assert len({one.facts["seed"] for one in records}) == 6


def test_filter_split_chat(folder: Path, role: Role, raw: Path, tmp_path: Path) -> None:
    concepts = combine(role, 30, [], 5)
    write_records(tmp_path / "in.jsonl", [record(c.text, domain=c.domain, group=c.group) for c in concepts], role)
    with (tmp_path / "in.jsonl").open("ab") as stream:
        stream.write(b'{"concept": "Something <b>else</b>", "requirements_yaml": "It is | prose."}\n')
    kept = tmp_path / "good.jsonl"
    done = run("filter", "--role", folder, "--input", tmp_path / "in.jsonl", "--output", kept, "--test-set", raw)
    assert done.exit_code == 0, done.output
    assert "30 of 31 examples are kept" in done.output or "held out" in done.output
    card = (tmp_path / "good.md").read_text()
    assert "| no YAML | 1 |" in card
    assert "\\<b\\>" in card
    assert (tmp_path / "good.svg").read_text().startswith("<?xml")
    train, val = tmp_path / "train.jsonl", tmp_path / "val.jsonl"
    done = run("split", "--role", folder, "--input", kept, "--train", train, "--val", val, "--json")
    counts = json.loads(done.output)
    assert counts["train"] + counts["val"] == len(read_records(kept, role))
    assert counts["val"] >= 2
    assert run("chat", "--role", folder, "--input", train, "--output", tmp_path / "chat.jsonl").exit_code == 0
    first = json.loads((tmp_path / "chat.jsonl").read_text().splitlines()[0])
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant"]


def test_too_few_is_said_with_what_to_do(folder: Path, role: Role, tmp_path: Path) -> None:
    write_records(tmp_path / "in.jsonl", [record("one shop"), record("one shop!")], role)
    done = run(
        "filter",
        "--role",
        folder,
        "--input",
        tmp_path / "in.jsonl",
        "--output",
        tmp_path / "o.jsonl",
        "--min-examples",
        5,
    )
    assert done.exit_code == 2
    assert (
        "1 examples are left, expected at least 5: generate about 8 more, or loosen what drops most (duplicate)"
        in done.output
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("concepts", "--domains", "fintech,none", "--output", "{out}"), "none: no such domain in the role"),
        (
            ("generate", "--model", str(demo.BASE_MODEL), "--concepts", "{out}", "--output", "{out}"),
            "no such file, expected",
        ),
        (("filter", "--input", "{out}", "--output", "{out}2"), "no such file, expected examples"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], sentence: str, folder: Path, tmp_path: Path) -> None:
    done = run(*(argument.format(out=tmp_path / "none.jsonl") for argument in arguments), "--role", folder)
    assert done.exit_code == 2
    assert sentence in done.output
    assert done.output.count("\n") == 1


def test_a_dry_run_writes_nothing(folder: Path, role: Role, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_records(source, [record(c.text, domain=c.domain, group=c.group) for c in combine(role, 12, [], 5)], role)
    common = ("--role", folder, "--dry-run", "--json")
    facts = json.loads(run("concepts", "--num", 5, "--output", out, *common).stdout)
    assert facts == {"concepts": 5, "domains": ["fintech", "healthcare"], "model": None}
    assert json.loads(run("filter", "--input", source, "--output", out, *common).stdout)["kept"] == 12
    assert (
        json.loads(run("split", "--input", source, "--train", out, "--val", tmp_path / "v", *common).stdout)["val"] >= 1
    )
    assert json.loads(run("chat", "--input", source, "--output", out, *common).stdout) == {"conversations": 12}
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_metric_of_ones_own_decides(
    folder: Path, role: Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_words.py").write_text(
        "def short(example, prediction, trace=None):\n    return len(example.concept) < 9\n"
    )
    monkeypatch.chdir(tmp_path)
    write_records(tmp_path / "in.jsonl", [record("a shop"), record("a very large shop")], role)
    options = (
        "--role",
        folder,
        "--metric",
        "own_words:short",
        "--input",
        tmp_path / "in.jsonl",
        "--output",
        tmp_path / "o",
    )
    done = run("filter", *options, "--json")
    assert json.loads(done.stdout)["kept"] == 1, done.output
    assert read_records(tmp_path / "o", role)[0].facts["score"] == 1.0
