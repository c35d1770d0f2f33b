"""The rules of the code's structure: imports run one way, names say what is inside, files and functions stay short."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.rooms import PACKAGE, ROOMS, ROOT, imported_rooms, lines_of, reading_path, room_of

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "other", "shared"}
PYTHON_FILES = sorted(PACKAGE.rglob("*.py"))
NATIVE_FILES = sorted(file for file in (PACKAGE / "native").rglob("*") if file.suffix in (".cpp", ".h"))

MAX_PYTHON_LINES = 400
MAX_NATIVE_LINES = 500
MAX_FUNCTION_LINES = 100
MAX_COMMAND_LINES = 25
MAX_PATH_LINES = 2600  # what a reader who knows the field skims in ten minutes


def test_imports_run_one_way() -> None:
    faults = [
        f"{file.relative_to(ROOT)} imports cpuft.{target}, which lies above it"
        for file in PYTHON_FILES
        if (room := room_of(file)) is not None
        for target in imported_rooms(file)
        if ROOMS.index(target) > ROOMS.index(room)
    ]
    assert not faults, "\n".join(faults)


def test_every_room_has_a_place() -> None:
    assert {room for file in PYTHON_FILES if (room := room_of(file))} == set(ROOMS)


def test_no_room_is_a_drawer_for_odds_and_ends() -> None:
    names = [path for path in [*PACKAGE.rglob("*"), *(ROOT / "tests").rglob("*")] if "__pycache__" not in path.parts]
    assert not [path for path in names if path.stem.lower() in FORBIDDEN_NAMES]


@pytest.mark.parametrize(("files", "limit"), [(PYTHON_FILES, MAX_PYTHON_LINES), (NATIVE_FILES, MAX_NATIVE_LINES)])
def test_files_are_short(files: list[Path], limit: int) -> None:
    lengths = {file.relative_to(ROOT).as_posix(): len(file.read_text().splitlines()) for file in files}
    assert not {name: length for name, length in lengths.items() if length > limit}


def test_functions_are_short() -> None:
    faults = [
        f"{file.relative_to(ROOT)}:{function.lineno} {function.name}"
        for file in PYTHON_FILES
        for function in _functions(file)
        if _length(function) > (MAX_COMMAND_LINES if _is_command(function) else MAX_FUNCTION_LINES)
    ]
    assert not faults, "\n".join(faults)


def test_the_way_of_a_training_example_can_be_read_in_ten_minutes() -> None:
    files = reading_path()
    assert len(files) > 8
    assert sum(map(lines_of, files)) <= MAX_PATH_LINES


def test_every_file_says_what_it_is() -> None:
    files = [*PYTHON_FILES, *sorted((ROOT / "tests").rglob("*.py"))]
    bare = [file for file in files if ast.get_docstring(ast.parse(file.read_text())) is None]
    assert bare == []


def _functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    decorators = (ast.unparse(decorator) for decorator in function.decorator_list)
    return any(".command(" in decorator for decorator in decorators)


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring, which is what a command's help page is made of."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_make_clean_leaves_what_users_made() -> None:
    done = subprocess.run(["make", "-n", "clean"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "build" in done.stdout.split()
    assert not any(word.startswith(("artifacts", "run", "base")) for word in done.stdout.split())
