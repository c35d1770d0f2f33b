"""Where the files that the build needs lie, in a checkout and in an installed package.

Below the cache folder of this machine:

sources/PACKAGE-VERSION-SHA-MENDS/
                                the unpacked and mended llama.cpp, complete if it exists
llama/KEY/                      a build of llama.cpp: bin/ (libraries and tools), build.log, proof.log, and
                                complete.json once its programs have worked
engine/KEY/libcpuft.so          a build of the engine, and proven.json once each kernel table was tried
engine/trees/KEY/               its build tree: one for each checkout, so that an edit recompiles one file
checkouts/KEY.json              what the last `cpuft build` of a checkout chose
lock                            held by the process that builds
"""

import sysconfig
from pathlib import Path

from cpuft.errors import ToolchainError
from cpuft.machine.cache import hash_files

PACKAGE = Path(__file__).resolve().parents[1]
NATIVE = PACKAGE / "native"
LOCK = "lock"  # below the cache folder
DISK_MEND = "free some space or point CPUFT_CACHE at another disk, then run `cpuft build` again"


def project_dir() -> Path:
    """The directory of CMakeLists.txt and vendor/."""
    for directory in (PACKAGE.parent, Path(sysconfig.get_path("data")) / "share" / "cpuft"):
        if (directory / "CMakeLists.txt").is_file() and (directory / "vendor" / "llama.cpp.lock").is_file():
            return directory
    raise ToolchainError(f"the build files that belong to {PACKAGE} are missing: install cpuft again")


def engine_hash() -> str:
    """A digest of everything the engine is compiled from, llama.cpp apart."""
    native = [file for file in NATIVE.rglob("*") if file.suffix in (".h", ".cpp", ".txt")]
    project = project_dir()
    return hash_files(PACKAGE, native) + hash_files(project, [project / "CMakeLists.txt"])
