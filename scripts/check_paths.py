"""Checks that every path of this repository that a document or a CMake file names exists.

Exit code 1, and one line a fault, where a link, a `path` or a command in Markdown, or a source in CMake, is gone.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Made by a command of the document itself, or a placeholder.
MADE_BY_USE = re.compile(r"(artifacts|build|runs?)(/|$)")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
PATH = re.compile(r"(?<![\w./~$<{-])([\w.-]+/[\w./-]+)(?![\w*{<])")
CMAKE_SOURCE = re.compile(r"(?<![\w$/{}.-])([\w./-]+\.(?:cpp|h|c))\b")
CMAKE_SUBDIRECTORY = re.compile(r"add_subdirectory\(([\w./-]+)")


def documents() -> list[Path]:
    """The Markdown files whose paths are checked."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def cmake_files() -> list[Path]:
    """The CMake files of this project."""
    folders = ("cpuft/native", "tests/native", "benchmarks")
    return [ROOT / "CMakeLists.txt", *(file for folder in folders for file in (ROOT / folder).rglob("CMakeLists.txt"))]


def missing_in_document(document: Path) -> Iterator[str]:
    """Yields what a document names and does not exist."""
    top = {entry.name for entry in ROOT.iterdir()}
    text = document.read_text(encoding="utf-8")
    for target in LINK.findall(text):
        if "://" not in target and not target.startswith("mailto:") and not (document.parent / target).exists():
            yield target
    for name in PATH.findall(LINK.sub("]", text)):
        inside = name.partition("/")[0] in top and not MADE_BY_USE.match(name)
        if inside and not (ROOT / name.rstrip("./")).exists():
            yield name


def missing_in_cmake(file: Path) -> Iterator[str]:
    """Yields the sources and directories that a CMake file names and do not exist."""
    text = re.sub(r'#.*|"([^"]*)"', _without_prose, file.read_text(encoding="utf-8"))
    for name in CMAKE_SOURCE.findall(text) + CMAKE_SUBDIRECTORY.findall(text):
        if not (file.parent / name).exists():
            yield name


def _without_prose(comment_or_string: re.Match[str]) -> str:
    """A quoted path as it is, and nothing for a comment or a sentence."""
    string = comment_or_string[1] or ""
    return "" if " " in string else string


def main() -> int:
    """Prints the faults and returns the exit code."""
    faults = [(file, name) for file in documents() for name in missing_in_document(file)]
    faults += [(file, name) for file in cmake_files() for name in missing_in_cmake(file)]
    for file, name in faults:
        print(f"{file.relative_to(ROOT)} names {name}, which does not exist")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
