"""Proves that a user's file keeps everything but the one key that is set, and is left alone where that cannot be."""

from pathlib import Path

import pytest
import yaml

from cpuft.config.edit import set_key
from cpuft.errors import ConfigError

KEY, VALUE = "LOCAL_BASE_MODEL", "ollama:qwen2.5:3b-instruct"
SET = f"{KEY}: {VALUE}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"{SET}\n"),
        ("# only a comment\n", f"# only a comment\n{SET}\n"),
        ("# a\nroles:\n  ba: {model: x}  # b", f"# a\nroles:\n  ba: {{model: x}}  # b\n{SET}\n"),
        (f"a: 1\n{KEY}: old  # mine\nb: 2\n", f"a: 1\n{SET}  # mine\nb: 2\n"),
        (f"a: 1\n'{KEY}': \"old: one\"\nb: 2", f"a: 1\n{SET}\nb: 2"),
        (f"{KEY}:\nb: 2\n", f"{SET}\nb: 2\n"),
        (f"{KEY}:  # none yet\nb: 2\n", f"{SET}  # none yet\nb: 2\n"),
        (f"{KEY}: null\n", f"{SET}\n"),
        (f"a: 1\r\n{KEY}: old\r\nb: 2\r\n", f"a: 1\r\n{SET}\r\nb: 2\r\n"),
        ("a: 1\r\n", f"a: 1\r\n{SET}\r\n"),
        (f"text: |\n  {KEY}: not this\nday: 2024-01-02\n", f"text: |\n  {KEY}: not this\nday: 2024-01-02\n{SET}\n"),
        (f"{{a: 1, {KEY}: old, b: 2}}\n", f"{{a: 1, {SET}, b: 2}}\n"),
        (f"\ufeff{KEY}: old\nñ: ü\n", f"\ufeff{SET}\nñ: ü\n"),
    ],
)
def test_only_the_key_changes(before: str, after: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(before.encode())
    path.chmod(0o600)
    set_key(path, KEY, VALUE)
    assert path.read_bytes().decode() == after
    assert path.stat().st_mode & 0o777 == 0o600
    set_key(path, KEY, VALUE)
    assert path.read_bytes().decode() == after, "twice is once"


@pytest.mark.parametrize("value", ["a b: c # d", "- x", "'\"", "12", "null", "/models/naïve model.gguf", "", "a\nb"])
def test_any_value_is_read_back(value: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for _ in range(2):  # new, then changed
        set_key(path, KEY, value)
        assert yaml.safe_load(path.read_text()) == {KEY: value}


@pytest.mark.parametrize(
    ("before", "sentence"),
    [
        ("- a\n", "it holds list, expected keys and values"),
        ("a: [\n", ":2: not valid YAML"),
        ("a: 1\na: 2\n", "key 'a' stands twice"),
        ("{a: 1}\n", f"cannot be set without changing more than its line: write `{SET}` into it yourself"),
        (f"{KEY}:\n  name: x\n", "cannot be set without changing more"),
        (f"{KEY}: |\n  x\n", "cannot be set without changing more"),
        (f"{KEY}: &x old\nb: *x\n", "cannot be set without changing more"),
        ("a: 1\n...\n", "cannot be set without changing more"),
    ],
)
def test_a_file_that_cannot_be_changed_so_is_left_alone(before: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(before)
    with pytest.raises(ConfigError) as failure:
        set_key(path, KEY, VALUE)
    assert sentence in str(failure.value)
    assert str(failure.value).startswith(str(path))
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]


def test_a_link_is_followed_and_a_folder_refused(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("a: 1\n")
    (tmp_path / "config.yaml").symlink_to("real.yaml")
    set_key(tmp_path / "config.yaml", KEY, VALUE)
    assert (tmp_path / "real.yaml").read_text() == f"a: 1\n{SET}\n"
    assert (tmp_path / "config.yaml").is_symlink()
    with pytest.raises(ConfigError, match="a folder"):
        set_key(tmp_path, KEY, VALUE)
    with pytest.raises(ConfigError, match="no such folder"):
        set_key(tmp_path / "none" / "config.yaml", KEY, VALUE)
