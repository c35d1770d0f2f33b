"""What the lock file names is fetched whole and verified; each way to fail is one sentence and leaves nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toolchain.tiny import TinyCheckout


@pytest.fixture
def locked(tiny: TinyCheckout) -> TinyCheckout:
    """A checkout whose lock names a source distribution on this disk."""
    archive = tiny.pack()
    tiny.write_lock(archive)
    tiny.environment["PIP_FIND_LINKS"] = str(archive.parent)
    return tiny


def test_fetches_verifies_and_builds(locked: TinyCheckout) -> None:
    (locked.cache / "sources" / ".fetch-killed" / "tree").mkdir(parents=True)  # a killed process left it
    done = locked.run("build")
    assert done.returncode == 0, done.stderr
    (tree,) = (locked.cache / "sources").iterdir()
    assert tree.name.startswith("tiny-llama-1.0-")
    assert (tree / "include" / "llama.h").is_file()
    shutil.rmtree(locked.directory / "index")
    assert "up to date" in locked.run("build").stdout


def test_wrong_checksum(locked: TinyCheckout) -> None:
    archive = locked.directory / "index" / "tiny_llama-1.0.tar.gz"
    locked.write_lock(archive, sha256="0" * 64)
    sentence = _refused(locked)
    assert "expects 0000000000" in sentence
    assert "nothing of it was used" in sentence


def test_truncated_archive(locked: TinyCheckout) -> None:
    archive = locked.directory / "index" / "tiny_llama-1.0.tar.gz"
    archive.write_bytes(archive.read_bytes()[:100])
    assert "has sha256" in _refused(locked)


def test_no_network(locked: TinyCheckout) -> None:
    """A loopback port where nothing listens stands for an index that cannot be reached."""
    del locked.environment["PIP_NO_INDEX"], locked.environment["PIP_FIND_LINKS"]
    locked.environment.update(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="1")
    sentence = _refused(locked)
    assert "package index cannot be reached" in sentence
    assert "--source DIR" in sentence


def test_index_without_the_package(locked: TinyCheckout) -> None:
    locked.environment["PIP_FIND_LINKS"] = str(locked.project)
    assert "your package index has no source distribution of tiny-llama 1.0" in _refused(locked)


def test_archive_without_the_tree(locked: TinyCheckout) -> None:
    lock = locked.project / "vendor" / "llama.cpp.lock"
    lock.write_text(lock.read_text().replace("vendor/llama.cpp", "vendor/elsewhere"))
    assert "has nothing under vendor/elsewhere" in _refused(locked)


def test_damaged_lock(locked: TinyCheckout) -> None:
    (locked.project / "vendor" / "llama.cpp.lock").write_text("package: 1\n")
    assert "must hold exactly the keys package, version, sha256, path" in _refused(locked)


MEND = {"why": "three is too few", "file": "ggml.c", "find": "return 0", "replace": "return 3"}


def test_what_is_fetched_is_mended_and_compiled_anew(locked: TinyCheckout) -> None:
    locked.run("build")
    locked.write_mends([MEND])
    assert "Compiled llama.cpp and the engine." in locked.run("build").stdout
    bare, mended = sorted((locked.cache / "sources").iterdir(), key=lambda tree: "3" in (tree / "ggml.c").read_text())
    assert "return 0" in (bare / "ggml.c").read_text()
    assert "return 3" in (mended / "ggml.c").read_text()
    locked.write_mends([{**MEND, "why": "said otherwise"}])
    assert "up to date" in locked.run("build").stdout


def test_the_users_own_tree_is_not_mended(tiny: TinyCheckout) -> None:
    tiny.write_mends([MEND])
    assert tiny.run("build", "--source", tiny.llama).returncode == 0
    assert "return 0" in (tiny.llama / "ggml.c").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"find": "return 1"}, "ggml.c has 'return 1' 0 times, expected once"),
        ({"find": "g"}, "ggml.c has 'g' 2 times, expected once"),
        ({"file": "gone.c"}, "gone.c has 'return 0' 0 times, expected once"),
    ],
)
def test_mend_that_does_not_fit(change: dict[str, str], said: str, locked: TinyCheckout) -> None:
    locked.write_mends([{**MEND, **change}])
    sentence = _refused(locked)
    assert "vendor/llama.cpp.mends.yaml does not fit this llama.cpp" in sentence
    assert said in sentence


@pytest.mark.parametrize("text", ["find: this", "- find: this", "- {why: '', file: a, find: b, replace: c}"])
def test_damaged_mends(text: str, locked: TinyCheckout) -> None:
    (locked.project / "vendor" / "llama.cpp.mends.yaml").write_text(text)
    assert "must be a list of entries with the keys why, file, find, replace" in _refused(locked)


@pytest.mark.parametrize("variable", ["CC", "CXX"])
def test_no_compiler(locked: TinyCheckout, variable: str) -> None:
    locked.environment[variable] = "no-such-compiler"
    sentence = _refused(locked)
    assert f"${variable} is 'no-such-compiler', which is not a program" in sentence
    assert "apt-get install g++" in sentence


def test_no_compiler_on_the_path(locked: TinyCheckout) -> None:
    for variable in ("CC", "CXX"):
        del locked.environment[variable]
    locked.environment["PATH"] = str(locked.project)
    assert "no C compiler was found (tried cc, gcc, clang)" in _refused(locked)


def test_compiler_that_does_not_run(locked: TinyCheckout) -> None:
    locked.environment["CXX"] = shutil.which("false") or "/bin/false"
    assert "does not run" in _refused(locked)


def test_cache_that_is_a_file(locked: TinyCheckout) -> None:
    locked.cache.write_text("in the way")
    assert "cannot write here" in _refused(locked)


def test_full_disk_is_seen_before_anything_starts(locked: TinyCheckout) -> None:
    done = _on_small_disk(locked, [sys.executable, "-m", "cpuft", "build"])
    assert done.returncode == 2, done.stderr
    assert "MB free and the build needs" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_disk_that_fills_up_while_compiling(locked: TinyCheckout) -> None:
    """Ninja runs for real on a disk of two megabytes, where a step writes four."""
    project = locked.directory / "filler"
    project.mkdir()
    (project / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.24)\nproject(filler LANGUAGES NONE)\n"
        "add_custom_target(fill COMMAND dd if=/dev/zero of=${CMAKE_BINARY_DIR}/fill bs=1M count=4)\n"
    )
    code = f"""
from pathlib import Path
from cpuft.toolchain import ninja
from cpuft.toolchain.compiler import find_compilers
tree, log = Path({str(locked.cache)!r}) / "tree", Path({str(locked.directory)!r}) / "build.log"
ninja.configure(Path({str(project)!r}), tree, {{}}, compilers=find_compilers(), log=log)
ninja.compile_targets(tree, ["fill"], jobs=1, title="filler", log=log, lock=None)
"""
    done = _on_small_disk(locked, [sys.executable, "-c", code])
    assert ": free some space or point CPUFT_CACHE at another disk" in done.stderr.splitlines()[-1]


def _refused(checkout: TinyCheckout) -> str:
    """Runs `cpuft build`, which must fail with one sentence and leave no source and no build behind; returns it."""
    done = checkout.run("build")
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    if checkout.cache.is_dir():
        assert not list(checkout.cache.glob("sources/*"))
        assert not list(checkout.cache.glob("llama/*/complete.json"))
    assert checkout.locate().returncode != 0
    return lines[0]


def _on_small_disk(checkout: TinyCheckout, command: list[str]) -> "subprocess.CompletedProcess[str]":
    """Runs a command with the cache on a file system of two megabytes that only it sees."""
    checkout.cache.mkdir(exist_ok=True)
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small disk in a namespace of his own")
    mount = 'mount -t tmpfs -o size=2m tmpfs "$1" && shift && exec "$@"'
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(checkout.cache), *command],
        cwd=checkout.project, env=checkout.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_lock_and_pyproject_name_one_version() -> None:
    import tomllib

    from cpuft.toolchain.fetch import read_lock
    from tests.conftest import ROOT

    lock = read_lock(ROOT / "vendor" / "llama.cpp.lock")
    project = tomllib.loads(Path(ROOT / "pyproject.toml").read_text())["project"]
    assert f"{lock.package}=={lock.version}" in project["dependencies"]
