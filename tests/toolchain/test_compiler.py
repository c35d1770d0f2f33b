"""A compiler that cannot make the engine's kernels is refused by its version, before it compiles anything."""

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from cpuft.errors import ToolchainError
from cpuft.toolchain import Toolchain, build, ninja, sources
from cpuft.toolchain.compiler import find_compilers


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other CPUs have no such kernels")
def test_an_old_compiler_is_refused(built: Toolchain, tmp_path: Path) -> None:
    """The one that is there, but for the version that it says it has."""
    real = find_compilers()
    if "clang" in real.identity[1]:
        pytest.skip("the version of Clang is no macro that an option could change")
    old = tmp_path / "g++"
    old.write_text(f'#!/bin/sh\nexec "{real.cxx}" -U__GNUC__ -D__GNUC__=9 "$@"\n')
    old.chmod(0o755)
    options = build.engine_options(built.source, built.lib_dir)
    with pytest.raises(ToolchainError, match=r"g\+\+ is version 9\..*needs GCC 11 or Clang 19 or newer"):
        ninja.configure(
            sources.project_dir(), tmp_path / "tree", options, compilers=replace(real, cxx=old), log=tmp_path / "log"
        )
