"""The C++ tests hold: every kernel equals its slow twin, every layer's backward pass is its derivative."""

import os
import subprocess
from pathlib import Path

import pytest

from cpuft.machine import cache
from cpuft.machine.locks import waiting_lock
from cpuft.toolchain import Toolchain, build, ninja, sources
from cpuft.toolchain.compiler import find_compilers
from tests.engine.golden import CASES
from tests.engine.random_model import write_model


@pytest.fixture(scope="module")
def program(built: Toolchain) -> Path:
    """The compiled test program, brought up to date in the tree where the engine was compiled."""
    tree = build.engine_tree(cache.cache_dir(), built.root)
    log = tree / "tests.log"
    options = {**build.engine_options(built.source, built.lib_dir), "CPUFT_BUILD_TESTS": "ON"}
    with waiting_lock(cache.cache_dir() / sources.LOCK, lambda: None) as lock:
        ninja.configure(sources.project_dir(), tree, options, compilers=find_compilers(), log=log, lock=lock)
        target = ["cpuft_native_test"]
        ninja.compile_targets(tree, target, jobs=build.default_jobs(), title="native tests", log=log, lock=lock)
    return tree / "tests" / "native" / "cpuft_native_test"


def test_native(program: Path) -> None:
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.parametrize("case_name", ["qwen3", "phi3", "gemma2", "gemma3", "smollm3"])
@pytest.mark.parametrize("test", ["a_pass_takes", "later_steps_allocate_nothing"])
def test_memory_of_other_architectures(test: str, case_name: str, program: Path, tmp_path: Path) -> None:
    """What a pass takes is foretold array by array, and a second step allocates nothing."""
    model = write_model(tmp_path / "model.gguf", CASES[case_name].model)
    done = subprocess.run(
        [program, test], capture_output=True, text=True, timeout=300, env=os.environ | {"CPUFT_TEST_MODEL": str(model)}
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_program_can_fail(program: Path) -> None:
    """No test of that name: a run that checks nothing is no success."""
    assert subprocess.run([program, "no such test"], capture_output=True).returncode == 1
