"""Source code that a model wrote: whether it can be parsed, and whether it is finished. Nothing of it is ever run."""

import ast
import json
import re
import tomllib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import yaml

from cpuft.roles.answer import ShallowLoader

PROSE = ("markdown", "md", "text", "txt", "plaintext", "rst")
_PAIRS = {")": "(", "]": "[", "}": "{"}
_C_COMMENT = r"//[^\n]*|/\*(?:.*?\*/|.*)"
_HASH_COMMENT, _DASH_COMMENT, _MARKUP_COMMENT = r"#[^\n]*", r"--[^\n]*", r"<!--(?:.*?-->|.*)"
# A string that is not closed ends with its line: looking further would take quadratic time in a hostile text.
_STRING = r'"(?:\\.|[^"\\\n])*"?'
_BOTH = _STRING + r"|'(?:\\.|[^'\\\n])*'?"
_BACKTICKS = r"|`(?:\\.|[^`\\])*`?"

_TODO = re.compile(r"(?:#|//|--|/\*|<!--|^[ \t]*\*|;)[ \t]*(?:TODO|FIXME|XXX)\b", re.MULTILINE)
_ELISION = re.compile(
    r"^[ \t]*(?:#|//|--|/\*)[ \t]*(?:\.\.\.|…)|\b(?:your|rest of the) (?:code|implementation) here\b", re.M | re.I
)
_NAMES = {
    "py": "python",
    "js": "javascript",
    "jsx": "javascript",
    "ts": "typescript",
    "tsx": "typescript",
    "yml": "yaml",
}
_NAMES |= {"golang": "go", "c++": "cpp", "cs": "c#", "csharp": "c#", "rs": "rust", "kt": "kotlin", "tf": "terraform"}


@dataclass(frozen=True)
class _Lexis:
    """What of a language is no code: strings and comments, as one pattern."""

    skipped: re.Pattern[str]

    @classmethod
    def of(cls, *patterns: str) -> "_Lexis":
        return cls(re.compile("|".join(patterns), re.DOTALL))


_C_LIKE, _SCRIPT = _Lexis.of(_C_COMMENT, _BOTH), _Lexis.of(_C_COMMENT, _BOTH + _BACKTICKS)
# Languages whose brackets are counted.
_BRACKETED = {
    **dict.fromkeys(("java", "kotlin", "c", "cpp", "c#", "swift", "dart", "scss"), _C_LIKE),
    **dict.fromkeys(("javascript", "typescript", "go"), _SCRIPT),
    "css": _Lexis.of(r"/\*(?:.*?\*/|.*)", _BOTH),  # // stands in its addresses
    "rust": _Lexis.of(_C_COMMENT, _STRING),  # ' begins a lifetime
    "php": _Lexis.of(_C_COMMENT, _HASH_COMMENT, _BOTH),
    "terraform": _Lexis.of(_C_COMMENT, _HASH_COMMENT, _STRING),
    "sql": _Lexis.of(_DASH_COMMENT, _C_COMMENT, _BOTH),
    "html": _Lexis.of(_MARKUP_COMMENT, _STRING),  # ' stands in its texts
}


def is_prose(language: str) -> bool:
    """Whether files of a language are for people, so that there is nothing in them to parse."""
    return language.casefold() in PROSE


def parse_fault(language: str, content: str) -> tuple[float, str]:
    """(value from 0 to 1, what is wrong, as the end of a sentence).

    Python, JSON, YAML and TOML are parsed; of other languages that are known, brackets are counted outside of strings
    and comments; a language that is not known gets half a point. The worst text that fits into an answer takes seconds.
    """
    name = _name_of(language)
    if not content.strip():
        return 0.0, "is empty"
    parse = _PARSERS.get(name)
    if parse is None and name not in _BRACKETED:
        return 0.5, f"is in a language that is not known here: {language or 'none'}"
    if parse is None:
        good = _is_balanced(_BRACKETED[name].skipped.sub(" ", content))
        return (1.0, "") if good else (0.0, f"has brackets that do not match, in {name}")
    try:
        with warnings.catch_warnings(action="ignore"):  # of ast, about odd but valid code
            parse(content)
    except Exception as error:  # a parser meets a hostile text: MemoryError, RecursionError and what not
        return 0.0, f"cannot be parsed as {name} ({type(error).__name__})"
    return 1.0, ""


def placeholder_fault(language: str, content: str) -> str:
    """What in a file stands for code that was not written, as the end of a sentence; empty where nothing does."""
    if _TODO.search(content):
        return "has a TODO"
    if _ELISION.search(content):
        return "leaves code out"
    idle = next(_idle_functions(content), None) if _name_of(language) == "python" else None
    return f"has a function that does nothing: {idle}" if idle else ""


def _name_of(language: str) -> str:
    name = language.strip().casefold()
    return _NAMES.get(name, name)


def _parse_yaml(content: str) -> None:
    """Reads YAML without making anything of it: tags of others, such as CloudFormation's !Ref, are valid."""
    for _ in yaml.compose_all(content, ShallowLoader):
        pass


_PARSERS: dict[str, Callable[[str], object]] = {
    "python": ast.parse,
    "json": json.loads,
    "yaml": _parse_yaml,
    "toml": tomllib.loads,
}


def _is_balanced(code: str) -> bool:
    open_ones: list[str] = []
    for character in re.findall(r"[()\[\]{}]", code):
        if character not in _PAIRS:
            open_ones.append(character)
        elif not open_ones or open_ones.pop() != _PAIRS[character]:
            return False
    return not open_ones


def _idle_functions(content: str) -> Iterator[str]:
    """Yields the names of Python functions that hold nothing but pass, ... or NotImplementedError, unless abstract."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(content)
    except Exception:  # what cannot be parsed is told elsewhere
        return
    abstract = {
        id(statement)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and "Protocol" in map(_last_name, node.bases)
        for statement in node.body
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or id(node) in abstract:
            continue
        marked = {_last_name(decorator) for decorator in node.decorator_list} & {"abstractmethod", "overload"}
        if not marked and all(map(_does_nothing, node.body)):
            yield node.name


def _last_name(node: ast.expr) -> str:
    """The c of a.b.c, with or without brackets behind it."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise) and statement.exc is not None:
        error = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return isinstance(error, ast.Name) and error.id == "NotImplementedError"
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )
