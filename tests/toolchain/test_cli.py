"""Every command explains itself; every failure is one line with the right exit code; `doctor` tells the truth."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import cpuft
from cpuft.cli.main import COMMANDS, cli, error_boundary
from cpuft.engine import Engine
from cpuft.errors import CpuftError, EngineError, ModelError
from cpuft.machine import cpu
from cpuft.toolchain import Toolchain
from tests.conftest import RunCpuft
from tests.engine.random_model import ModelSpec, write_model


def _commands() -> list[list[str]]:
    """The path of every command and subcommand."""
    paths: list[list[str]] = [[]]
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        paths.append([name])
        if isinstance(command, click.Group):
            paths += [[name, child] for child in command.list_commands(context)]
    return paths


@pytest.mark.parametrize("path", _commands(), ids=" ".join)
def test_help_says_what_a_command_does_and_shows_an_example(path: list[str]) -> None:
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage: " in result.output
    assert f"cpuft {' '.join(path)}".strip() in result.output
    is_group = "Commands:" in result.output
    assert ("Example" in result.output) or (is_group and path)


def test_version(run_cpuft: RunCpuft) -> None:
    done = run_cpuft("--version")
    assert done.stdout == f"cpuft, version {cpuft.__version__}\n"


def test_unknown_command(run_cpuft: RunCpuft) -> None:
    done = run_cpuft("trian")
    assert done.returncode == 2
    assert "No such command 'trian'" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_imports_no_command(arguments: list[str]) -> None:
    code = f"import sys; from cpuft.cli.main import cli; cli({arguments}, standalone_mode=False)\n"
    heavy = ("numpy", "gguf", "tqdm", "cpuft.train", "cpuft.engine")
    code += f"print([name for name in sys.modules if name.startswith({heavy})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_planning_imports_no_tensorboard_and_no_plots() -> None:
    code = "import sys, cpuft.cli.plan\n"
    code += "print([name for name in ('tensorboardX', 'matplotlib', 'ollama', 'httpx') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_help_page_says_what_each_command_says_of_itself() -> None:
    context = click.Context(cli)
    for name, (_, says) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert says.split()[:3] == command.get_short_help_str(limit=200).split()[:3], name


@pytest.mark.parametrize(
    ("error", "exit_code", "sentence"),
    [
        (ModelError("model.gguf is missing: check --model"), 2, "model.gguf is missing: check --model"),
        (EngineError("the adapter vanished"), 1, "the adapter vanished (a fault of cpuft; its log is "),
        (CpuftError("odd"), 1, "odd (a fault of cpuft; its log is "),
        (KeyError("blk.0"), 1, "KeyError: 'blk.0' (a fault of cpuft; its log is "),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "the disk is full ("),
        (MemoryError(), 2, "the memory of this machine is exhausted"),
    ],
)
def test_every_failure_is_one_line(
    error: Exception, exit_code: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPUFT_CACHE", str(tmp_path))

    @click.command()
    def failing() -> None:
        with error_boundary():
            raise error

    result = CliRunner().invoke(failing)
    assert result.exit_code == exit_code
    assert result.stderr.startswith(f"Error: {sentence}")
    assert len(result.stderr.splitlines()) == 1
    logs = list(tmp_path.glob("logs/*.log"))
    assert len(logs) == (1 if exit_code == 1 else 0)
    assert all(str(log) in result.stderr and "Traceback" in log.read_text() for log in logs)


def test_doctor_json(built: Toolchain, run_cpuft: RunCpuft) -> None:
    done = run_cpuft("doctor", "--json", env={"CPUFT_ISA": None})
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert list(checks) == [
        "cpu", "instruction set", "memory", "disk", "compiler", "cmake", "ninja", "toolchain", "engine",
        "programs", "training", "ollama",
    ]  # fmt: skip
    assert all(check.keys() == {"name", "status", "found", "mend"} for check in checks.values())
    assert checks["toolchain"]["found"] == str(built.lib_dir)
    assert checks["instruction set"]["found"] == cpu.best_isa(cpu.cpu_features(), cpu.cpu_vendor())
    assert done.returncode == (2 if any(check["status"] == "missing" for check in checks.values()) else 0)


@pytest.mark.usefixtures("built")
def test_the_engine_takes_the_instruction_set_that_doctor_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CPUFT_ISA", raising=False)
    model = tmp_path / "model.gguf"
    write_model(model, ModelSpec("llama"))
    with Engine(model, threads=1) as engine:
        assert engine.facts["isa"] == cpu.best_isa(cpu.cpu_features(), cpu.cpu_vendor())


def test_doctor_says_how_to_mend_what_is_missing(tmp_path: Path, run_cpuft: RunCpuft) -> None:
    env = {"CPUFT_CACHE": str(tmp_path), "CXX": "no-such-compiler", "CPUFT_ISA": "mmx"}
    done = run_cpuft("doctor", env={**env, "OLLAMA_HOST": "127.0.0.1:9"})
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    for name, mend in {
        "compiler": "apt-get install g++",
        "toolchain": "run `cpuft build`",
        "instruction set": "take one of avx512bf16, avx512vnni, avx512, avxvnni, avx2, reference",
    }.items():
        row = next(i for i, line in enumerate(lines) if line.startswith(name))
        assert "missing" in lines[row]
        assert mend in lines[row + 1]


AVX2 = {"avx2", "fma", "f16c"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
ZEN4 = AVX512 | {"avx512_vnni", "avx512_bf16"}


@pytest.mark.parametrize(
    ("features", "vendor", "isa"),
    [
        (set(), "", "reference"),
        ({"avx2"}, "", "reference"),
        (AVX2, "", "avx2"),
        (AVX2 | {"avx_vnni"}, "GenuineIntel", "avxvnni"),
        (AVX512, "", "avx512"),
        (AVX512 | {"avx512_vnni"}, "GenuineIntel", "avx512vnni"),
        (ZEN4, "AuthenticAMD", "avx512bf16"),
        (ZEN4 | {"avx_vnni"}, "GenuineIntel", "avx512vnni"),
    ],
)
def test_best_isa(features: set[str], vendor: str, isa: str) -> None:
    assert cpu.best_isa(frozenset(features), vendor) == isa
