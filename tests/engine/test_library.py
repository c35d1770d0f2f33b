"""A library that is not this version's engine is refused with one sentence, before its functions are looked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpuft.toolchain.compiler import find_compilers

PROGRAM = """
from pathlib import Path
from cpuft.engine import Engine
from cpuft.errors import UserError
try:
    Engine(Path("model.gguf"))
except UserError as error:
    print(error)
"""


def said_of(library: Path) -> str:
    """What becomes of opening a model with `library` as the engine."""
    environment = os.environ | {"CPUFT_LIBRARY": str(library)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_older_library(tmp_path: Path) -> None:
    source, library = tmp_path / "old.c", tmp_path / "libold.so"
    source.write_text("unsigned cpuft_abi_version(void) { return 1; }\n")
    subprocess.run([find_compilers().c, "-shared", "-fPIC", source, "-o", library], check=True)
    assert f"{library} has version 1 of the engine's interface, expected " in said_of(library)


@pytest.mark.parametrize("content", [None, b"", b"no library"])
def test_no_library(content: bytes | None, tmp_path: Path) -> None:
    library = tmp_path / "libcpuft.so"
    if content is not None:
        library.write_bytes(content)
    assert f"{library} cannot be used as the engine (" in said_of(library)


def test_another_library(tmp_path: Path) -> None:
    source, library = tmp_path / "other.c", tmp_path / "libother.so"
    source.write_text("int other(void) { return 1; }\n")
    subprocess.run([find_compilers().c, "-shared", "-fPIC", source, "-o", library], check=True)
    assert f"{library} cannot be used as the engine (" in said_of(library)
