"""What CMake and Ninja complain of reaches the user in one sentence, with the place of the whole log."""

from pathlib import Path

import pytest

from cpuft.errors import ToolchainError
from cpuft.toolchain import ninja
from cpuft.toolchain.compiler import find_compilers

LONG = "/a/path/of/more/characters/than/cmake/puts/into/a/line/" + "x" * 40


@pytest.mark.parametrize("cause", ["Something is missing", f"{LONG} is missing"])
def test_what_cmake_says_below_its_heading_is_in_the_sentence(cause: str, tmp_path: Path) -> None:
    """Before a long word CMake breaks the line, so that an empty one stands between the heading and the cause."""
    (tmp_path / "CMakeLists.txt").write_text(
        f'cmake_minimum_required(VERSION 3.24)\nproject(empty NONE)\nmessage(FATAL_ERROR "{cause}")\n'
    )
    log = tmp_path / "log"
    with pytest.raises(ToolchainError, match=rf"configuring {tmp_path.name} failed") as raised:
        ninja.configure(tmp_path, tmp_path / "tree", {}, compilers=find_compilers(), log=log)
    assert f"(message): {cause})" in str(raised.value)
    assert str(log) in str(raised.value)
