"""Prints the rooms of the package with their lines and the imports between them, and how long the reading path is.

Examples:
  python scripts/rooms.py            each room, from the lowest on: files, lines, and the rooms that it imports
  python scripts/rooms.py --path     the files that one training example passes, as docs/ARCHITECTURE.md lists them
"""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cpuft"
# Each room may import from those before it. A new room must be given its place here.
ROOMS = (
    *("errors", "demo", "machine", "config", "toolchain", "engine", "gguf", "chat", "adapters", "ollama", "sources"),
    *("data", "backends", "roles", "synth", "train", "plan", "feedback", "evaluate", "release"),
    *("workflow", "api", "cli"),
)
READING_PATH = "## The way of one training example"


def room_of(file: Path) -> str | None:
    """The room of a file of the package; None for the package's own __init__ and __main__."""
    name = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return None if name.startswith("__") else name


def imported_rooms(file: Path) -> Iterator[str]:
    """Yields the rooms that a file imports from, wherever in the file the import stands."""
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            modules = [f"{module}.{alias.name}" for alias in node.names]
        for module in modules:
            parts = module.split(".")
            if parts[0] == "cpuft" and len(parts) > 1 and _is_room(parts[1]):
                yield parts[1]


def reading_path() -> list[Path]:
    """The files of the table below READING_PATH in docs/ARCHITECTURE.md, in its order."""
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition(READING_PATH)[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [ROOT / path for row in rows for path in re.findall(r"`(cpuft/[\w./]+)`", row)]


def lines_of(file: Path) -> int:
    """How many lines a file has."""
    return len(file.read_text(encoding="utf-8").splitlines())


def _is_room(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def _rooms() -> Iterator[str]:
    yield f"{'room':<10} {'files':>5} {'lines':>6}  imports"
    for room in ROOMS:
        single = PACKAGE / f"{room}.py"
        files = [single] if single.is_file() else sorted((PACKAGE / room).rglob("*.py"))
        found = {target for file in files for target in imported_rooms(file)} - {room, "errors"}
        imports = ", ".join(name for name in ROOMS if name in found)
        yield f"{room:<10} {len(files):>5} {sum(map(lines_of, files)):>6}  {imports}"
    native = [file for file in (PACKAGE / "native").rglob("*") if file.suffix in (".cpp", ".h")]
    yield f"{'native':<10} {len(native):>5} {sum(map(lines_of, native)):>6}  (C++; Python sees it through engine)"


def _path() -> Iterator[str]:
    files = reading_path()
    for file in files:
        yield f"{lines_of(file):>5}  {file.relative_to(ROOT)}"
    yield f"{sum(map(lines_of, files)):>5}  in all"


def main() -> None:
    """Prints what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", action="store_true", help="the reading path instead of the rooms")
    print("\n".join(_path() if parser.parse_args().path else _rooms()))


if __name__ == "__main__":
    main()
