"""Proves that what the system or a library raises reaches the user as one sentence with the exit code of a mistake."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from cpuft.adapters.adapter import write_adapter
from cpuft.cli.main import cli
from tests.conftest import ROOT, RunCpuft
from tests.gguf.tiny import random_adapter, write_tiny_model


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a command is given beside its output."""
    folder = tmp_path_factory.mktemp("given")
    model = write_tiny_model(folder / "model.gguf", half=True)
    write_adapter(folder / "adapter.gguf", random_adapter(model, rank=2), alpha=4, architecture="llama")
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (folder / "data.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    return {"MODEL": str(model), "ADAPTER": str(folder / "adapter.gguf"), "DATA": str(folder / "data.jsonl")}


COMMANDS = [
    "train --model MODEL --train DATA --max-steps 1 --output",
    "train --model MODEL --train DATA --resume --output",
    "quantize --model MODEL --type q8_0 --output",
    "merge --model MODEL --adapter ADAPTER --type f16 --output",
    "merge --model MODEL --adapter ADAPTER --type f16 --val DATA --output",
    "ship --model MODEL --adapter ADAPTER --val DATA --output",
    "prepare --source MODEL --quantization keep --output",
    "demo --output",
    "eval run --model MODEL --data DATA --output",
    "adapter convert ADAPTER --to peft --model MODEL --output",
    "adapter scale ADAPTER 2 --output",
    "adapter combine ADAPTER ADAPTER --output",
    "models show",
    "generate --prompt a --model",
    "train --model MODEL --train DATA --output RUN --config",
    "train --model MODEL --output RUN --train",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_impossible_paths(command: str, given: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    words = [(given | {"RUN": str(tmp_path / "run")}).get(word, word) for word in command.split()]
    for path in (tmp_path / "file" / "below", tmp_path / ("n" * 300), tmp_path / "loop", tmp_path / "loop" / "below"):
        result = CliRunner().invoke(cli, [*words, str(path)])
        assert result.exit_code == 2, (path, result.output)
        assert path.name in result.output or path.parent.name in result.output
        assert "Usage" not in result.output
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "loop"]


@pytest.mark.parametrize("cache", ["file/below", "file", 300 * "n"])
def test_a_cache_that_cannot_be(cache: str, run_cpuft: RunCpuft, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_cpuft("build", env={"CPUFT_CACHE": str(tmp_path / cache)})
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


NOBODY = """
import os, platformdirs, pwd, tempfile, traceback, click
from cpuft.cli.main import error_boundary
from cpuft.errors import EngineError
from cpuft.machine import cache
os.setuid(54321)

@click.command()
@click.argument("what")
def fail(what):
    with error_boundary():
        if what == "cache":
            print(cache.cache_dir())
        raise EngineError("an odd thing")

fail()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without an entry")
def test_a_user_without_an_entry_and_a_home() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    environment.pop("CPUFT_CACHE", None)
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are for nobody else
        Path(folder).chmod(0o777)
        environment["TMPDIR"] = folder
        for what, code, sentence in (
            ("cache", 2, "Error: the home folder of this user is not known, expected it in HOME: set HOME, or CPUFT_C"),
            ("engine", 1, f"Error: an odd thing (a fault of cpuft; its log is {folder}/fault-"),
        ):
            command = [sys.executable, "-c", NOBODY, what]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
            assert done.stderr.startswith(sentence)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ALL_PROXY", "foo://x", "the environment names an impossible proxy (Unknown scheme for proxy URL"),
        (
            "SSL_CERT_FILE",
            "/none.pem",
            "/none.pem: no such certificates, but SSL_CERT_FILE names them: mend or unset it",
        ),
    ],
)
def test_an_environment_that_cannot_be(name: str, value: str, sentence: str, run_cpuft: RunCpuft) -> None:
    done = run_cpuft("models", "pull", "hf:ORG/REPO/model.gguf", env={"HTTPS_PROXY": None, name: value})
    assert (done.returncode, done.stderr.startswith(f"Error: {sentence}")) == (2, True), done.stderr


def test_words_that_are_no_text(given: dict[str, str]) -> None:
    words = ["generate", "--model", given["MODEL"], "--prompt", os.fsdecode(b"\xff"), "--max-tokens", "1"]
    result = CliRunner().invoke(cli, words)
    assert (result.exit_code, "holds bytes that are not UTF-8" in result.output) == (2, True)


@pytest.mark.parametrize("reference", ["hf:ORG/REPO/model.gguf", "ollama:none"])
def test_a_socks_proxy_without_its_package(reference: str, run_cpuft: RunCpuft, tmp_path: Path) -> None:
    proxy = {"ALL_PROXY": "socks5://127.0.0.1:9", "HTTPS_PROXY": None, "https_proxy": None, "HF_HOME": str(tmp_path)}
    done = run_cpuft("models", "pull", reference, env={**proxy, "OLLAMA_HOST": "192.0.2.1:9", "NO_PROXY": None})
    assert done.returncode == 2, done.stderr
    assert "the environment names a SOCKS proxy (ALL_PROXY or HTTPS_PROXY)" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_current_folder_that_is_gone(given: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    code = "import os, sys; from cpuft.cli.main import cli; os.rmdir(os.getcwd()); cli(sys.argv[1:])"
    command = [sys.executable, "-c", code, "quantize", "--model", given["MODEL"], "--output", "q"]
    command += ["--type", "q8_0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path / "gone", env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith("Error: the current folder has been removed")


def test_no_place_for_temporary_files(given: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import sys, tempfile; from cpuft.cli.main import cli; tempfile._candidate_tempdir_list = lambda: ['/proc']; "
    )
    command = [sys.executable, "-c", f"{code}cli(sys.argv[1:])", "fidelity", "--merged", given["MODEL"]]
    command += ["--model", given["MODEL"], "--adapter", given["ADAPTER"], "--val", given["DATA"]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "No usable temporary directory found" in done.stderr
