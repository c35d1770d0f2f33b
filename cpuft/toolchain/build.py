"""`cpuft build`: llama.cpp and the native engine, compiled once per machine."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from cpuft.errors import ToolchainError
from cpuft.machine import cache, cpu
from cpuft.machine.disk import disk_errors, require_space
from cpuft.machine.files import atomic_write, read_json, write_json
from cpuft.machine.locks import waiting_lock
from cpuft.machine.memory import available_memory
from cpuft.machine.progress import Progress, silent
from cpuft.toolchain import ladder, mends, ninja, proof, sources
from cpuft.toolchain.compiler import Compilers, find_compilers
from cpuft.toolchain.fetch import fetch, read_lock
from cpuft.toolchain.locate import PROVEN, Toolchain, record, shared_library
from cpuft.toolchain.sources import DISK_MEND, LOCK

LLAMA_TARGETS = ["llama", "llama-server", "llama-quantize", "llama-imatrix", "llama-perplexity", "llama-bench"]
LLAMA_OPTIONS = {
    "BUILD_SHARED_LIBS": "ON",
    "CMAKE_BUILD_RPATH_USE_ORIGIN": "ON",  # libraries are found beside the program, wherever the cache is moved to
    "GGML_OPENMP": "OFF",  # its threads would fight with the engine's; ggml brings its own
    "LLAMA_ALL_WARNINGS": "OFF",  # they take a tenth of the time and nobody reads them
    "LLAMA_CURL": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_BUILD_NUMBER": "0",  # else read from whatever git repository surrounds the cache
    "LLAMA_BUILD_COMMIT": "cpuft",
}

# Objects, libraries and tools of llama.cpp take 61 MB; the compiler's temporary files some more.
_LLAMA_SPACE = 200_000_000
_ENGINE_SPACE = 30_000_000
# The largest translation unit of llama.cpp takes about this much memory to compile.
_BYTES_PER_JOB = 1_000_000_000


@dataclass(frozen=True)
class Source:
    """A llama.cpp tree: where it is, the name of its builds, and what changes when its content does.

    options: CMake options that were made for this very tree.
    """

    directory: Path
    name: str
    fingerprint: str
    options: dict[str, str] = field(default_factory=dict)


def build(
    *, jobs: int | None = None, source: Path | None = None, force: bool = False, progress: Progress = silent
) -> tuple[Toolchain, list[str]]:
    """Fetches and compiles what is not in the cache yet, and makes this checkout use it.

    jobs: compilers at a time; as many as CPUs and memory allow by default.
    source: a llama.cpp tree to use instead of the locked one.
    force: compile again even what is there.

    Returns:
        The toolchain, and the names of the parts that were compiled.

    Raises:
        ToolchainError: no compiler, no network, wrong checksum, full disk, or a source that does not compile.
    """
    compilers = find_compilers()
    root = cache.cache_dir()
    jobs = jobs or default_jobs()
    with disk_errors(root, full=DISK_MEND, refused=DISK_MEND), waiting_lock(root / LOCK, _say_waiting) as lock:
        llama_source = _local_source(source) if source else _locked_source(root)
        llama, llama_built = build_llama(
            llama_source, root, compilers, jobs=jobs, force=force, lock=lock, progress=progress
        )
        engine, engine_built = build_engine(
            llama_source, llama, root, compilers, jobs=jobs, force=force or llama_built, lock=lock, progress=progress
        )
        toolchain = Toolchain(root=llama, lib_dir=llama / "bin", engine_library=engine, source=llama_source.directory)
        record(toolchain)
    built = [name for name, done in (("llama.cpp", llama_built), ("the engine", engine_built)) if done]
    return toolchain, built


def build_llama(
    source: Source,
    root: Path,
    compilers: Compilers,
    *,
    jobs: int,
    force: bool = False,
    lock: int | None = None,
    progress: Progress = silent,
) -> tuple[Path, bool]:
    """The build of llama.cpp, with its products in bin/, and whether it had to be compiled.

    Its programs work: where one does not, llama.cpp is compiled again for fewer instruction sets, and stderr says so.
    """
    features = cpu.cpu_features()
    key = cache.key_of(
        source=source.name,
        compilers=compilers.identity,
        options=LLAMA_OPTIONS,
        targets=LLAMA_TARGETS,
        machine=platform.machine(),
        features=sorted(features),
    )
    tree, log = root / "llama" / key, root / "llama" / key / "build.log"
    stamp = tree / "complete.json"
    if not force and read_json(stamp).get("fingerprint") == source.fingerprint:
        return tree, False
    stamp.unlink(missing_ok=True)
    if force:
        shutil.rmtree(tree, ignore_errors=True)
    require_space(root, _LLAMA_SPACE, "the build", DISK_MEND)
    fault: proof.Fault | None = None
    for rung in ladder.rungs(features):
        if fault:
            _say(f"{fault}: compiling the part of llama.cpp that computes again, without {rung.without}.")
        options = {**LLAMA_OPTIONS, **source.options, **rung.options}
        ninja.configure(source.directory, tree, options, compilers=compilers, log=log, lock=lock)
        ninja.compile_targets(tree, LLAMA_TARGETS, jobs=jobs, title="llama.cpp", log=log, lock=lock, progress=progress)
        reason, fault = fault, proof.prove_llama(tree / "bin", tree / "proof.log")
        if fault is None:
            because = {"without": rung.without, "because": str(reason)} if reason else {}
            write_json(stamp, {"fingerprint": source.fingerprint, **because})
            return tree, True
    raise ToolchainError(f"{fault}, whatever it is compiled for: set CC and CXX to another compiler (log: {log})")


def build_engine(
    source: Source,
    llama: Path,
    root: Path,
    compilers: Compilers,
    *,
    jobs: int,
    force: bool,
    lock: int | None = None,
    progress: Progress = silent,
) -> tuple[Path, bool]:
    """Libcpuft.so, linked to the build `llama`, and whether it had to be compiled.

    Each of its kernel tables that this CPU runs was tried; what does not work is noted beside it, and stderr says so.

    The library is stored under a digest of its sources, so a checkout never gets the engine of another one's sources;
    the tree that it is compiled in belongs to this checkout and is kept, so that an edit recompiles one file.
    """
    content = sources.engine_hash()
    key = cache.key_of(engine=content, llama=llama.name, compilers=compilers.identity)
    library = root / "engine" / key / shared_library("cpuft")
    if not force and library.exists() and (library.parent / PROVEN).exists():
        return library, False
    tree = engine_tree(root, llama)
    log = tree / "build.log"
    if force:
        shutil.rmtree(tree, ignore_errors=True)
    require_space(root, _ENGINE_SPACE, "the build", DISK_MEND)
    options = engine_options(source.directory, llama / "bin")
    ninja.configure(sources.project_dir(), tree, options, compilers=compilers, log=log, lock=lock)
    ninja.compile_targets(tree, ["cpuft_native"], jobs=jobs, title="engine", log=log, lock=lock, progress=progress)
    if sources.engine_hash() != content:
        raise ToolchainError("the engine's sources changed while they were compiled: run `cpuft build` again")
    library.parent.mkdir(parents=True, exist_ok=True)
    # A new file, renamed: processes that have the old library loaded keep it.
    with atomic_write(library) as temporary:
        shutil.copyfile(tree / "native" / library.name, temporary)
    faults = proof.prove_engine(library, cpu.engine_isas(), library.parent / "proof.log")
    if plain := faults.get("reference"):
        raise ToolchainError(f"{plain}: set CC and CXX to another compiler and run `cpuft build`")
    for fault in faults.values():
        _say(f"{fault}: it will not be used.")
    write_json(library.parent / PROVEN, {"faults": {isa: str(fault) for isa, fault in faults.items()}})
    return library, True


def engine_tree(root: Path, llama: Path) -> Path:
    """The tree in which this checkout's engine, and its native tests, are compiled against the build `llama`."""
    return root / "engine" / "trees" / cache.key_of(checkout=str(sources.PACKAGE), llama=llama.name)


def engine_options(llama_source: Path, lib_dir: Path) -> dict[str, str]:
    """The CMake options with which the top-level CMakeLists.txt finds llama.cpp and the engine's sources."""
    return {
        "CPUFT_LLAMA_SOURCE": str(llama_source),
        "CPUFT_LLAMA_LIB_DIR": str(lib_dir),
        "CPUFT_NATIVE_DIR": str(sources.NATIVE),
    }


def default_jobs() -> int:
    """How many compilers fit into the CPUs and the memory that this process may take."""
    return max(1, min(cpu.available_cpus(), available_memory() // _BYTES_PER_JOB))


def _locked_source(root: Path) -> Source:
    vendor = sources.project_dir() / "vendor"
    lock, changes = read_lock(vendor / "llama.cpp.lock"), mends.read_mends(vendor / mends.FILE)
    set_up = vendor / "llama.cpp.cmake"
    identity = f"{lock.sha256} {mends.digest(changes)} {cache.hash_files(vendor, [set_up])}"
    options = {"CMAKE_PROJECT_llama.cpp_INCLUDE": str(set_up)}
    return Source(fetch(lock, changes, root / "sources"), name=identity, fingerprint=identity, options=options)


def _local_source(directory: Path) -> Source:
    """Takes the user's own tree; sizes and times of its files tell when it changed."""
    directory = directory.resolve()
    if not (directory / "include" / "llama.h").is_file():
        raise ToolchainError(f"{directory} is not a llama.cpp tree (it has no include/llama.h): check --source")
    entries = []
    for folder, subfolders, files in os.walk(directory):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "build")))
        for name in sorted(files):
            status = os.lstat(os.path.join(folder, name))
            entries.append((os.path.relpath(folder, directory), name, status.st_size, status.st_mtime_ns))
    return Source(directory, name=f"directory {directory}", fingerprint=cache.key_of(entries=entries))


def _say_waiting() -> None:
    _say("Another `cpuft build` is at work; waiting for it to end.")


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
