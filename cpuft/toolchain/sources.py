"""Where the files that the build needs lie, in a checkout and in an installed package."""

import sysconfig
from pathlib import Path

from cpuft.errors import ToolchainError
from cpuft.toolchain.cache import hash_files

PACKAGE = Path(__file__).resolve().parents[1]
NATIVE = PACKAGE / "native"


def project_dir() -> Path:
    """Return the directory of CMakeLists.txt and vendor/."""
    for directory in (PACKAGE.parent, Path(sysconfig.get_path("data")) / "share" / "cpuft"):
        if (directory / "CMakeLists.txt").is_file() and (directory / "vendor" / "llama.cpp.lock").is_file():
            return directory
    raise ToolchainError(f"the build files that belong to {PACKAGE} are missing: install cpuft again")


def engine_hash() -> str:
    """Return a digest of everything the engine is compiled from, llama.cpp apart."""
    native = [file for file in NATIVE.rglob("*") if file.suffix in (".h", ".cpp", ".txt")]
    project = project_dir()
    return hash_files(PACKAGE, native) + hash_files(project, [project / "CMakeLists.txt"])
