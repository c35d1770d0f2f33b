"""`cpuft build` compiles once, for every checkout, and leaves nothing half-built that is taken for complete."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cpuft import demo
from cpuft.machine.cache import cache_dir, key_of
from cpuft.toolchain import Toolchain, sources
from tests.conftest import RunCpuft
from tests.toolchain.tiny import LIBRARIES, TOOLS, TinyCheckout

ALL_FILES = sorted([*(f"{name}.c" for name in LIBRARIES), *(f"{name}.cpp" for name in TOOLS), "engine.cpp"])


def test_builds_from_nothing_and_is_found(tiny: TinyCheckout) -> None:
    assert "run `cpuft build`" in tiny.locate().stderr
    done = tiny.run("build", "--source", tiny.llama)
    assert done.returncode == 0, done.stderr
    assert "Compiled llama.cpp and the engine." in done.stdout
    assert tiny.compiled_files() == ALL_FILES
    library = Path(tiny.locate().stdout.strip())
    assert library.is_file()
    assert library.is_relative_to(tiny.cache)


def test_second_call_runs_no_compiler(tiny: TinyCheckout) -> None:
    tiny.run("build", "--source", tiny.llama)
    tiny.compiled.unlink()
    done = tiny.run("build", "--source", tiny.llama)
    assert done.returncode == 0, done.stderr
    assert "Everything is up to date." in done.stdout
    assert not tiny.compiled.exists()


def test_llama_cpp_is_not_compiled_for_another_checkout(built: Toolchain, tiny: TinyCheckout) -> None:
    """Another checkout and another path of the same compiler find the real build of llama.cpp."""
    caches = built.root.parents[1]
    for name in ("sources", "llama"):
        tiny.cache.mkdir(exist_ok=True)
        (tiny.cache / name).symlink_to(caches / name)
    done = tiny.run("build")
    assert done.returncode == 0, done.stderr
    assert "Compiled the engine." in done.stdout
    assert tiny.compiled_files() == ["engine.cpp"]


def test_second_checkout_compiles_nothing(tiny: TinyCheckout, tmp_path: Path) -> None:
    tiny.run("build", "--source", tiny.llama)
    (tmp_path / "second").mkdir()
    second = TinyCheckout(tmp_path / "second")
    done = second.run("build", "--source", tiny.llama, CPUFT_CACHE=str(tiny.cache))
    assert done.returncode == 0, done.stderr
    assert "Everything is up to date." in done.stdout
    assert not second.compiled.exists()


def test_edited_engine_is_refused_then_rebuilt_alone(tiny: TinyCheckout) -> None:
    tiny.run("build", "--source", tiny.llama)
    before = tiny.locate().stdout
    engine = tiny.project / "cpuft" / "native" / "engine.cpp"
    engine.write_text(engine.read_text().replace("42", "43"))
    assert "sources have changed" in tiny.locate().stderr
    tiny.compiled.unlink()
    done = tiny.run("build", "--source", tiny.llama)
    assert "Compiled the engine." in done.stdout
    assert tiny.compiled_files() == ["engine.cpp"]
    assert tiny.locate().stdout != before


def test_edited_llama_tree_is_compiled_again(tiny: TinyCheckout) -> None:
    tiny.run("build", "--source", tiny.llama)
    tiny.compiled.unlink()
    (tiny.llama / "ggml.c").write_text("int ggml(void) { return 1; }\n")
    done = tiny.run("build", "--source", tiny.llama)
    assert "Compiled llama.cpp and the engine." in done.stdout
    assert "ggml.c" in tiny.compiled_files()
    assert "llama-server.cpp" not in tiny.compiled_files()


def test_force_compiles_everything_again(tiny: TinyCheckout) -> None:
    tiny.run("build", "--source", tiny.llama)
    tiny.compiled.unlink()
    assert "Compiled llama.cpp and the engine." in tiny.run("build", "--source", tiny.llama, "--force").stdout
    assert tiny.compiled_files() == ALL_FILES


def test_other_compiler_flags_are_another_build(tiny: TinyCheckout) -> None:
    tiny.run("build", "--source", tiny.llama)
    tiny.compiled.unlink()
    tiny.run("build", "--source", tiny.llama, CFLAGS="-O1")
    assert "ggml.c" in tiny.compiled_files()


def test_killed_build_is_not_taken_for_complete(tiny: TinyCheckout) -> None:
    process = tiny.command("build", "--source", tiny.llama, "--jobs", "1", COMPILER_SECONDS="1")
    _wait_for(lambda: len(tiny.compiled_files()) >= 2)
    process.kill()
    process.communicate()
    assert not list(tiny.cache.glob("llama/*/complete.json"))
    assert "run `cpuft build`" in tiny.locate().stderr
    # The compiler that outlived its parent holds the lock, so this waits for it and takes over what it made.
    done = tiny.run("build", "--source", tiny.llama)
    assert done.returncode == 0, done.stderr
    assert tiny.locate().returncode == 0


def test_interrupted_build_stops_and_continues(tiny: TinyCheckout) -> None:
    process = tiny.command("build", "--source", tiny.llama, "--jobs", "1", COMPILER_SECONDS="1")
    _wait_for(lambda: len(tiny.compiled_files()) >= 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in errors
    assert tiny.run("build", "--source", tiny.llama).returncode == 0


def test_two_builds_at_once_compile_once(tiny: TinyCheckout) -> None:
    first = tiny.command("build", "--source", tiny.llama, COMPILER_SECONDS="0.3")
    _wait_for(lambda: len(tiny.compiled_files()) >= 1)
    second = tiny.command("build", "--source", tiny.llama)
    outputs = [process.communicate(timeout=120) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert "waiting" in outputs[1][1]
    assert "Everything is up to date." in outputs[1][0]
    assert tiny.compiled_files() == ALL_FILES


def test_source_that_does_not_compile_is_one_sentence_and_a_log(tiny: TinyCheckout) -> None:
    (tiny.llama / "ggml.c").write_text("this is not C\n")
    done = tiny.run("build", "--source", tiny.llama)
    sentence = _one_sentence(done.stderr)
    assert done.returncode == 2
    assert sentence.startswith("Error: compiling llama.cpp failed (error: ")
    log = Path(sentence.rpartition(" ")[2])
    assert "this is not C" in log.read_text()


def test_source_that_is_no_llama_tree(tiny: TinyCheckout) -> None:
    done = tiny.run("build", "--source", tiny.project)
    assert done.returncode == 2
    assert "is not a llama.cpp tree" in _one_sentence(done.stderr)


def test_toolchain_of_another_cpu_is_refused(tiny: TinyCheckout) -> None:
    tiny.run("build", "--source", tiny.llama)
    (record,) = (tiny.cache / "checkouts").iterdir()
    record.write_text(re.sub(r'"cpu_features": \[', '"cpu_features": ["avx1024",', record.read_text()))
    said = "built on another CPU, which has avx1024"
    assert said in tiny.locate().stderr
    assert said in tiny.run("doctor").stdout
    assert "Everything is up to date." in tiny.run("build", "--source", tiny.llama).stdout
    assert tiny.locate().returncode == 0


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("command", ["demo", "train"])
def test_a_cache_from_another_cpu_is_told_before_anything_runs(
    command: str, tmp_path: Path, run_cpuft: RunCpuft
) -> None:
    record = next((cache_dir() / "checkouts").glob(f"{key_of(package=str(sources.PACKAGE))}.json"))
    moved = tmp_path / "cache" / "checkouts" / record.name
    moved.parent.mkdir(parents=True)
    moved.write_text(record.read_text().replace('"cpu_features": [', '"cpu_features": ["avx1024",'))
    data = ["--model", demo.BASE_MODEL, "--train", demo.TRAIN] if command == "train" else []
    env = {"CPUFT_CACHE": str(tmp_path / "cache")}
    done = run_cpuft(command, *data, "--output", tmp_path / "run", env=env)
    assert done.returncode == 2
    assert "built on another CPU, which has avx1024" in done.stderr.splitlines()[-1]


def test_half_a_build_is_refused(tiny: TinyCheckout) -> None:
    """As `--force` leaves it when it is interrupted: the record of the last build stands, its stamp is gone."""
    tiny.run("build", "--source", tiny.llama)
    for stamp in ("llama/*/complete.json", "engine/*/proven.json"):
        (path,) = tiny.cache.glob(stamp)
        path.unlink()
        assert "was not built to its end, or not proven: run `cpuft build`" in tiny.locate().stderr
        assert tiny.run("build", "--source", tiny.llama).returncode == 0
        assert tiny.locate().returncode == 0


def test_emptied_cache_is_named(tiny: TinyCheckout) -> None:
    tiny.run("build", "--source", tiny.llama)
    Path(tiny.locate().stdout.strip()).unlink()
    assert "is gone from the cache: run `cpuft build`" in tiny.locate().stderr
    assert tiny.run("build", "--source", tiny.llama).returncode == 0
    assert tiny.locate().returncode == 0


@pytest.mark.parametrize("variable", ["CPUFT_CACHE", "XDG_CACHE_HOME"])
def test_cache_is_where_the_environment_says(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CPUFT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_dir() == Path.home() / ".cache" / "cpuft"
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache_dir() == (tmp_path if variable == "CPUFT_CACHE" else tmp_path / "cpuft")


def test_every_tool_of_the_toolchain_runs(built: Toolchain) -> None:
    for name in TOOLS:
        assert os.access(built.tool(name), os.X_OK)


def _one_sentence(errors: str) -> str:
    lines = [line for line in errors.splitlines() if not line.startswith("compiled ")]
    assert len(lines) == 1, errors
    return lines[0]


def _wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what the test waits for did not happen"
        time.sleep(0.02)
