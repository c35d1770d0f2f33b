"""Whether code can be parsed and is finished is told without running it, and without taking long over hostile code."""

import time

import pytest

from cpuft.roles.answer import MAX_CHARACTERS
from cpuft.roles.source_code import parse_fault, placeholder_fault

GOOD = [
    ("python", "x = '\\d'\n"),  # odd, but valid
    ("Python ", "async def f():\n    await g()\n"),
    ("json", '{"a": [1, 2]}'),
    ("yaml", "base: &base {a: 1}\nuse: *base\ntag: !Ref Bucket\n---\nsecond: 2\n"),
    ("toml", "[a]\nb = 1\n"),
    ("typescript", 'const smile = ":-)"; // :-)\n/* ( */ call(`${"{"}`);\n'),
    ("javascript", "f({a: [1, 2]});"),
    ("go", "func f() { g(`(`) }"),
    ("rust", "fn f<'a>(x: &'a str) -> &'a str { x }"),
    ("sql", "SELECT f(a) -- :)\nFROM t WHERE b = 'it''s ('"),
    ("css", "a { background: url(https://example.com/a.png) }"),
    ("html", "<p>Don't <!-- ( --></p>"),
    ("php", "# )\nf(1);"),
    ("java", 'char c = \'(\'; f("\\"(");'),
]
BAD = [
    ("python", "def f(:\n", "cannot be parsed as python (SyntaxError)"),
    ("python", "a\0b", "cannot be parsed as python"),
    ("json", "{'a': 1}", "cannot be parsed as json"),
    ("yaml", "a: [", "cannot be parsed as yaml"),
    ("toml", "a = ", "cannot be parsed as toml"),
    ("typescript", "f((1);", "has brackets that do not match, in typescript"),
    ("java", "f(a];", "has brackets that do not match, in java"),
    ("sql", ")(", "has brackets that do not match, in sql"),
    ("python", " \n", "is empty"),
]
DEEP = [
    *("(" * MAX_CHARACTERS, "-" * MAX_CHARACTERS + "1", "a+" * 49_000 + "a", "x" + ".a" * 20_000, "[" * MAX_CHARACTERS),
    *(
        "/*" * 50_000,
        "'\"" * 50_000,
        "\\'" * 50_000,
        "\n" * MAX_CHARACTERS,
        "#" + " " * MAX_CHARACTERS,
        "<!--" * 25_000,
    ),
    *(
        "-" * MAX_CHARACTERS,
        "`\\" * 50_000,
        "{" * 50_000 + "}" * 50_000,
        "class A(x" + "[a]" * 3000 + "):\n def f(self): pass\n",
    ),
]


@pytest.mark.parametrize(("language", "code"), GOOD)
def test_good_code_is_found_good(language: str, code: str) -> None:
    assert parse_fault(language, code) == (1.0, "")


@pytest.mark.parametrize(("language", "code", "fault"), BAD)
def test_bad_code_is_told(language: str, code: str, fault: str) -> None:
    value, said = parse_fault(language, code)
    assert value == 0
    assert fault in said


def test_an_unknown_language_gets_half_a_point() -> None:
    assert parse_fault("brainfuck", "+[") == (0.5, "is in a language that is not known here: brainfuck")


@pytest.mark.parametrize(
    ("language", "code", "fault"),
    [
        ("python", "def f():\n    pass\n", "has a function that does nothing: f"),
        ("python", "class A:\n    def f(self):\n        '''Says.'''\n        ...\n", "nothing: f"),
        ("python", "def f():\n    raise NotImplementedError('later')\n", "nothing: f"),
        ("python", "x = 1  # FIXME\n", "has a TODO"),
        ("javascript", "// TODO: all\n", "has a TODO"),
        ("java", "/**\n * TODO all\n */", "has a TODO"),
        ("javascript", "f();\n  // ... the other cases\n", "leaves code out"),
        ("go", "// your code here\n", "leaves code out"),
    ],
)
def test_placeholders_are_found(language: str, code: str, fault: str) -> None:
    assert fault in placeholder_fault(language, code)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "class Empty(Exception):\n    pass\n"),
        ("python", "from abc import abstractmethod\n\nclass A:\n    @abstractmethod\n    def f(self): ...\n"),
        ("python", "import typing\n\nclass A(typing.Protocol[int]):\n    def f(self): ...\n"),
        ("python", "status = 'TODO'\n"),
        ("javascript", "const all = [\n  ...some,\n];\n"),
        ("python", "def f(:"),
    ],
)
def test_what_looks_like_a_placeholder_and_is_none(language: str, code: str) -> None:
    assert placeholder_fault(language, code) == ""


@pytest.mark.parametrize("code", DEEP, ids=range(len(DEEP)))
def test_hostile_code_takes_seconds_at_most(code: str) -> None:
    """A pattern that looked back would take minutes; the bound is far above what is measured (3 s)."""
    began = time.process_time()
    for language in ("python", "json", "yaml", "toml", "javascript", "html", "sql", "css"):
        parse_fault(language, code)
        placeholder_fault(language, code)
    assert time.process_time() - began < 30
