"""How good a developer's answer is, ten points in all.

0.5  the answer is one valid YAML document
1    both fields are there
1    the share of files that have a path, a language and a content
1    the share of files with a path that is relative, stays inside the project, and is no other file's
2    the share of files whose code can be parsed (`cpuft.roles.source_code` says how); half of one in a language that is
     not known; prose counts neither way, but with nothing else there is no code
1.5  one of the files is a test that checks something
2    the share of files that are finished: no TODO in a comment, no function that does nothing
1    the story's id, or one of its acceptance criteria, is mentioned in a file or in the notes

Without a story that can be read, the last is left out of the total.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from cpuft.errors import list_faults
from cpuft.roles.answer import read_fields
from cpuft.roles.checks import (
    LEFT_OUT,
    filled_fields,
    items_of,
    missing_texts,
    normalized,
    point,
    read_input,
    share_of,
    text_of,
    texts_of,
    valid_yaml,
)
from cpuft.roles.role import Inputs, Part, Score
from cpuft.roles.source_code import is_prose, parse_fault, placeholder_fault

FIELDS = ("files", "notes")
_TEST_PATH = re.compile(r"(^|[/_.-])(test|tests|spec|specs)([/_.-]|$)|Tests?\.\w+$")
_CHECK = re.compile(r"\b(assert\w*|expect\w*|should\w*|raises|require)\b")
_UNSAFE = re.compile(r"^[/~\\]|^[A-Za-z]:|[\\\x00-\x1f]")


def score(answer: str, inputs: Inputs) -> Score:
    """The score of a developer's answer."""
    fields = read_fields(answer)
    files = items_of(fields.get("files"))
    return Score.of(
        {
            "yaml_valid": valid_yaml(answer, 0.5),
            "fields": filled_fields(fields, FIELDS, 1.0),
            "files": share_of(files, _file_fault, 1.0, "files", 1),
            "paths": _paths(files),
            "code": _code(files),
            "tests": point(any(map(_is_test, files)), 1.5, "no file is a test that checks something"),
            "complete": share_of(files, _completeness_fault, 2.0, "files", 1),
            "story": _story(files, text_of(fields.get("notes")), read_input(inputs, "story")),
        }
    )


def _file_fault(i: int, file: Mapping[str, Any]) -> str:
    fault = missing_texts(file, ("path", "language", "content"))
    return f"file {i + 1} {fault}" if fault else ""


def _paths(files: Sequence[Mapping[str, Any]]) -> Part:
    seen: set[PurePosixPath] = set()

    def fault_of(i: int, file: Mapping[str, Any]) -> str:
        path = text_of(file.get("path"))
        parts = PurePosixPath(path)
        if not path or path.endswith("/") or _UNSAFE.search(path) or ".." in parts.parts or not parts.parts:
            return f"file {i + 1} has a path that is not inside the project: {path or 'none'}"
        if parts in seen:
            return f"file {i + 1} has the path of an earlier one: {path}"
        seen.add(parts)
        return ""

    return share_of(files, fault_of, 1.0, "files", 1)


def _code(files: Sequence[Mapping[str, Any]]) -> Part:
    code = [(text_of(file.get("path")), text_of(file.get("language")), _content(file)) for file in files]
    code = [(path, language, content) for path, language, content in code if not is_prose(language)]
    if not code:
        return Part(0.0, 2.0, "there is no code")
    values, faults = [], []
    for path, language, content in code:
        value, fault = parse_fault(language, content)
        values.append(value)
        if fault:
            faults.append(f"{path or 'a file without a path'} {fault}")
    return Part(sum(values) / len(values), 2.0, list_faults(faults))


def _is_test(file: Mapping[str, Any]) -> bool:
    return bool(_TEST_PATH.search(text_of(file.get("path"))[-200:]) and _CHECK.search(_content(file)))


def _completeness_fault(i: int, file: Mapping[str, Any]) -> str:
    content = _content(file)
    fault = placeholder_fault(text_of(file.get("language")), content) if content.strip() else "is empty"
    return f"file {i + 1} {fault}" if fault else ""


def _story(files: Sequence[Mapping[str, Any]], notes: str, story: Mapping[str, Any]) -> Part:
    identity, criteria = text_of(story.get("id")), texts_of(story.get("acceptance_criteria"))
    if not identity and not criteria:
        return LEFT_OUT
    said = "\n".join([notes, *map(_content, files)])
    words = normalized(said)
    mentioned = bool(identity and re.search(rf"\b{re.escape(identity)}\b", said))
    mentioned = mentioned or any(normalized(criterion) in words for criterion in criteria if normalized(criterion))
    return point(mentioned, 1.0, "neither the story's id nor one of its acceptance criteria is mentioned")


def _content(file: Mapping[str, Any]) -> str:
    content = file.get("content")
    return content if isinstance(content, str) else ""
