"""The C and C++ compilers, CMake and Ninja that the build uses."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cpuft.errors import ToolchainError

_CANDIDATES = {"CC": ("cc", "gcc", "clang"), "CXX": ("c++", "g++", "clang++")}
_LANGUAGE = {"CC": "C", "CXX": "C++"}
# What a user may have set to steer the compiler; CMake reads these too.
_FLAG_VARIABLES = ("CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS")


@dataclass(frozen=True)
class Compilers:
    """The two compilers and what identifies the code they make."""

    c: Path
    cxx: Path
    identity: tuple[str, ...]


def find_compilers() -> Compilers:
    """The compilers of $CC and $CXX, else the first usual ones on the PATH.

    Raises:
        ToolchainError: there is none, or it does not run.
    """
    c, cxx = _find("CC"), _find("CXX")
    flags = (f"{name}={os.environ[name]}" for name in _FLAG_VARIABLES if os.environ.get(name))
    return Compilers(c, cxx, (_version(c), _version(cxx), *flags))


def find_cmake() -> Path:
    """CMake: the one installed with this package, else the system's."""
    import cmake

    return _find_packaged("cmake", cmake.CMAKE_BIN_DIR)


def find_ninja() -> Path:
    """Ninja: the one installed with this package, else the system's."""
    import ninja

    return _find_packaged("ninja", ninja.BIN_DIR)


def _find(variable: str) -> Path:
    named = os.environ.get(variable)
    candidates = (named,) if named else _CANDIDATES[variable]
    for candidate in candidates:
        if path := shutil.which(candidate):
            return Path(path)
    where = f"${variable} is {named!r}, which is not a program" if named else f"tried {', '.join(candidates)}"
    raise ToolchainError(
        f"no {_LANGUAGE[variable]} compiler was found ({where}): install GCC 11 or Clang 19 or newer, "
        f"for example with `apt-get install g++`, or set {variable}"
    )


def _version(compiler: Path) -> str:
    """The first line that the compiler prints about itself."""
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolchainError(f"the compiler {compiler} does not run ({error}): install another one") from error
    return done.stdout.partition("\n")[0].strip()


def _find_packaged(name: str, directory: str) -> Path:
    path = shutil.which(name, path=directory) or shutil.which(name)
    if path is None:
        raise ToolchainError(f"{name} is missing from {directory} and from the PATH: run `pip install {name}`")
    return Path(path)
