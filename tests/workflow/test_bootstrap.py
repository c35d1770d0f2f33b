"""The whole loop on the bundled model with small numbers: seeds and concepts of the demo, real servers, trainings."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cpuft import demo
from cpuft.backends.generator import Sampling
from cpuft.cli.main import cli
from cpuft.roles import Score, find_role
from cpuft.synth.records import read_records, write_records
from cpuft.workflow.bootstrap import Plan, run_bootstrap

BA = find_role("ba")


@pytest.fixture(scope="module", autouse=True)
def one_cpu() -> Iterator[None]:
    """Beside other tests, threads of one server that share CPUs only wait for each other."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


CONFIG = """
lora: {target_modules: [v_proj, o_proj, gate_proj, up_proj, down_proj], lora_dropout: 0.0}
training: {num_epochs: 2, batch_size: 4, gradient_accumulation_steps: 1, learning_rate: 3e-3, adam_beta2: 0.98,
           warmup_steps: 5, max_seq_length: 1024, eval_steps: 20, save_steps: 20, logging_steps: 20}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """seeds.jsonl, concepts.txt, test.jsonl and lora.yaml."""
    folder = tmp_path_factory.mktemp("files")
    records = read_records(demo.TRAIN, BA)
    write_records(folder / "seeds.jsonl", records[:240], BA)
    (folder / "concepts.txt").write_text("".join(f"{one.asked}\n" for one in records[500:520]))
    write_records(folder / "test.jsonl", read_records(demo.TEST, BA)[:6], BA)
    (folder / "lora.yaml").write_text(CONFIG)
    return folder


def command(files: Path, output: Path, *more: str) -> list[str]:
    options = {"seeds": "seeds.jsonl", "concepts": "concepts.txt", "test": "test.jsonl", "config": "lora.yaml"}
    paths = [word for name, file in options.items() for word in (f"--{name}", str(files / file))]
    how = "--own-prompt --examples 6,6 --max-tokens 480 --temperature 0 --parallel 2"
    return ["bootstrap", "--base", str(demo.BASE_MODEL), *paths, *how.split(), "--output", str(output), *more]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


@pytest.fixture(scope="module")
def finished(files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    output = tmp_path_factory.mktemp("bootstrap") / "out"
    return output, run(*command(files, output, "--json"))


def test_the_loop_makes_a_better_model(finished: tuple[Path, Result]) -> None:
    output, done = finished
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    base, first = facts["rows"][:2]
    assert (base["name"], first["name"]) == ("base", "v1")
    assert first["free"]["value"] - base["free"]["value"] > 0.3
    assert first["gain"]["low"] > 0
    assert facts["best"] in ("v1", "v2")
    assert (output / "best.gguf").read_bytes() == (output / facts["best"] / "run" / "adapter.gguf").read_bytes()
    assert json.loads((output / "result.json").read_text()) == facts


def test_what_it_learned_from_is_on_the_disk(finished: tuple[Path, Result], files: Path) -> None:
    output, _ = finished
    learned = {one.asked for name in ("train", "val") for one in read_records(output / "v1" / f"{name}.jsonl", BA)}
    tested = {one.asked for one in read_records(files / "test.jsonl", BA)}
    assert len(learned) >= 240
    assert not learned & tested
    assert (output / "v1" / "good.md").read_text().startswith("# Data set for the role ba")
    scores = json.loads((output / "scores" / "v1.json").read_text())
    assert len(scores["free"]["answers"]) == len(tested)


def test_nothing_is_done_twice(finished: tuple[Path, Result], files: Path) -> None:
    output, done = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.gguf") if path.parent.name != "out"}
    began = time.monotonic()
    again = run(*command(files, output, "--json"))
    assert json.loads(again.stdout) == json.loads(done.stdout)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "Step" not in again.stderr
    assert time.monotonic() - began < 60


def test_another_metric_is_measured_anew(finished: tuple[Path, Result], files: Path, tmp_path: Path) -> None:
    output = tmp_path / "copy"
    shutil.copytree(finished[0], output)
    metric = replace(BA, metric=lambda answer, inputs: Score(0.5))
    records = {name: read_records(files / f"{name}.jsonl", BA) for name in ("seeds", "test")}
    plan = Plan(
        base=demo.BASE_MODEL, output=output, examples=(1,), seeds=records["seeds"][:8], test=records["test"][:2],
        search=None, concepts=files / "concepts.txt", n_parallel=1, sampling=Sampling(max_tokens=8),
    )  # fmt: skip
    (tmp_path / "lora.yaml").write_text(CONFIG)
    result = run_bootstrap(metric, replace(plan, config=tmp_path / "lora.yaml"), lambda line: None)
    assert result.rows[0].free.value == 0.5


def test_a_killed_run_goes_on(files: Path, tmp_path: Path) -> None:
    """Killed while it asks, and while it trains."""
    arguments, raw, log = (
        command(files, tmp_path / "out", "--json"),
        tmp_path / "out/v1/raw.jsonl",
        tmp_path / "out/v1/run",
    )
    arguments[arguments.index("6,6")] = "6"
    asking = partial(_has_bytes, raw)
    training = partial(_has_checkpoints, log)
    for reached in (asking, training):
        process = subprocess.Popen([sys.executable, "-m", "cpuft", *arguments], stdout=-3, stderr=-3)
        deadline = time.monotonic() + 240
        while not reached() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert reached()
    lines = raw.read_bytes()
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert raw.read_bytes() == lines
    assert "Step 20/" not in done.stderr  # it is behind the checkpoint
    assert "Step 40/" in done.stderr
    assert [row["name"] for row in json.loads(done.stdout)["rows"]] == ["base", "v1"]


def _has_bytes(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _has_checkpoints(run: Path) -> bool:
    return any(run.glob("checkpoints/step-*"))


def test_without_gain_the_base_is_kept(files: Path, tmp_path: Path) -> None:
    """A training that does nothing: the rounds that are left are not begun, and no adapter is given out."""
    (tmp_path / "lora.yaml").write_text(CONFIG.replace("3e-3", "1e-9"))
    seeds = read_records(files / "seeds.jsonl", BA)[:8]
    test = read_records(files / "test.jsonl", BA)[:2]
    said: list[str] = []
    plan = Plan(
        base=demo.BASE_MODEL, output=tmp_path / "out", examples=(2, 2), seeds=seeds, test=test, search=None,
        config=tmp_path / "lora.yaml", concepts=files / "concepts.txt", n_parallel=1,
    )  # fmt: skip
    result = run_bootstrap(BA, plan, said.append)
    assert (result.best, result.ended_early) == ("base", True)
    assert [row.name for row in result.rows] == ["base", "v1"]
    assert not (tmp_path / "out" / "best.gguf").exists()
    assert any("v1 gains nothing: base is kept" in line for line in said)


def test_a_dry_run_says_how_much(files: Path, tmp_path: Path) -> None:
    done = run(*command(files, tmp_path / "out", "--dry-run", "--json"))
    facts = json.loads(done.stdout)
    assert facts == {"rounds": [6, 6], "seeds": 240, "test": 6, "answers": 12, "measured_answers": 36}
    done = run("bootstrap", "--base", str(demo.BASE_MODEL), "--iterations", "3", "--examples", "10,20", "--dry-run",
               "--json", "--output", str(tmp_path / "out"))  # fmt: skip
    facts = json.loads(done.stdout)
    assert facts["rounds"] == [10, 20, 20]
    assert (facts["seeds"], facts["test"]) == (15, 10)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--examples", "ten"), "expected numbers such as 100,200"),
        (("--examples", "0"), "expected numbers such as 100,200"),
        (("--test", "none.jsonl"), "none.jsonl: no such file"),
        (("--config", "none.yaml"), "none.yaml: no such"),
        (("--concepts", "none.txt"), "none.txt: no such file, expected concepts"),
        (("--examples", "20,20"), "concepts.txt: holds 20 concepts, and --examples asks for 40"),
        (("--output", str(demo.BASE_MODEL)), "a file, expected a folder"),
        (("--base", "none.gguf"), "none.gguf: no such"),
        (("--metric", "no_such_module:f"), "cannot be imported"),
    ],
)
def test_mistakes(more: tuple[str, ...], sentence: str, files: Path, tmp_path: Path) -> None:
    done = run(*command(files, tmp_path / "out", *more))
    assert done.exit_code == 2, done.output
    assert sentence in done.output
    assert not (tmp_path / "out" / "scores").exists()  # it is told before hours of work


def test_a_role_that_is_asked_what_others_answer(files: Path, tmp_path: Path) -> None:
    where = ("--concepts", str(files / "concepts.txt"), "--examples", "2", "--output", str(tmp_path / "out"))
    done = run("bootstrap", "--role", "po", "--base", str(demo.BASE_MODEL), "--own-prompt", *where)
    assert done.exit_code == 2
    assert "the role po is asked what other roles answer: concepts alone cannot bootstrap it" in done.output


def test_seeds_that_the_test_asks_are_not_learned(files: Path, tmp_path: Path) -> None:
    arguments = command(files, tmp_path / "out", "--dry-run", "--json")
    arguments[arguments.index("--test") + 1] = str(files / "seeds.jsonl")
    done = run(*arguments)
    assert "Note: 240 seeds ask what" in done.stderr
    assert json.loads(done.stdout)["seeds"] == 0
