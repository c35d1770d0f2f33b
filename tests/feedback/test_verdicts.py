"""Verdicts keep their form, and what was kept stays, whatever happens to the process."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from cpuft.errors import ConfigError, ResourceError
from cpuft.feedback.migrations import open_database
from cpuft.feedback.tables import APPLICATION, STEPS
from cpuft.feedback.verdicts import KIND, Judged, Rivals, Verdict, VerdictStore, read_verdicts, verdict_of

PAIR = Rivals(Judged("base", "aa"), Judged("tuned", "bb+cc"))
NOW = "2026-11-30T12:00:00.123Z"
SAMPLE = "0123456789abcdef"
GOOD = Verdict(SAMPLE, "tuned", 2, 5, "clear \N{SNOWMAN}\x00", True, "Ann", NOW)


def test_a_verdict_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    with VerdictStore(tmp_path / "new" / "feedback.sqlite") as store:
        store.keep(PAIR, Verdict(SAMPLE, "base", reviewer="Ann", at=NOW))
        store.keep(PAIR, GOOD)
        store.keep(PAIR, Verdict(SAMPLE, None, None, 3, reviewer="Bob", at=NOW))
        store.keep(Rivals(PAIR.tuned, PAIR.base), GOOD)
    with VerdictStore(tmp_path / "new" / "feedback.sqlite") as store:
        (first, verdicts), (second, _) = store.all()
        assert (first, second) == (PAIR, Rivals(PAIR.tuned, PAIR.base))
        assert verdicts == [GOOD, Verdict(SAMPLE, None, None, 3, reviewer="Bob", at=NOW)]
        assert store.of(PAIR, [SAMPLE]) == verdicts
        assert store.of(PAIR, ["f" * 16]) == []


def test_models_are_told_by_digest_and_only_without_one_by_name() -> None:
    assert Judged("a", "1").same(Judged("b", "1"))
    assert not Judged("a", "1").same(Judged("a", "2"))
    assert Judged("a").same(Judged("a", "2"))
    assert not Judged("a").same(Judged("b", "2"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sample": "../../etc"}, "sample: found '../../etc', expected 16 hexadecimal digits"),
        ({"sample": None}, "sample"),
        ({"picked": "left"}, "picked: found 'left', expected one of base, tuned, tie, or null"),
        ({"picked": ["base"]}, "picked"),
        ({"base_rating": 6}, "base_rating: found '6', expected a whole number from 1 to 5"),
        ({"base_rating": 0}, "base_rating"),
        ({"tuned_rating": True}, "tuned_rating"),
        ({"tuned_rating": 4.5}, "tuned_rating"),
        ({"note": "x" * 4001}, "note: expected a text of at most 4000"),
        ({"note": 3}, "note"),
        ({"reviewer": "x" * 81}, "reviewer"),
        ({"blind": 1}, "blind: found '1', expected true or false"),
        ({"at": "yesterday"}, "at: found 'yesterday', expected a time such as"),
        ({"pair": 1}, "'pair': no such key"),
    ],
)
def test_what_is_no_verdict_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="^" + said.replace("[", r"\[")):
        verdict_of({**GOOD.facts(), **change})


def test_halves_of_characters_are_kept_as_what_they_are() -> None:
    assert verdict_of({**GOOD.facts(), "note": json.loads('"\\ud800"')}).note == "?"
    assert verdict_of(GOOD.facts()) == GOOD
    with pytest.raises(ValueError, match="found no object"):
        verdict_of([])


def exported(path: Path, **change: Any) -> Path:
    """A file as the page writes it."""
    facts: dict[str, Any] = {
        "kind": KIND,
        "base": vars(PAIR.base),
        "tuned": vars(PAIR.tuned),
        "verdicts": [GOOD.facts()],
    }
    path.write_text(json.dumps({**facts, **change}))
    return path


def test_verdicts_are_read_from_both_kinds_of_file(tmp_path: Path) -> None:
    file = exported(tmp_path / "verdicts.json")
    with VerdictStore(tmp_path / "feedback.sqlite") as store:
        store.keep(PAIR, GOOD)
        store.keep(Rivals(PAIR.base, Judged("another", "zz")), Verdict(SAMPLE, "base", at=NOW))
    assert read_verdicts(file, PAIR) == read_verdicts(tmp_path / "feedback.sqlite", PAIR) == [GOOD]


def test_files_that_hold_no_such_verdicts_are_named(tmp_path: Path) -> None:
    other = Rivals(Judged("base", "aa"), Judged("tuned", "other"))
    with pytest.raises(ConfigError, match=r"no verdicts on base and tuned; those in it are about: base and tuned$"):
        read_verdicts(exported(tmp_path / "v.json"), other)
    bad = [{**GOOD.facts(), "picked": "me"}, GOOD.facts(), {}]
    with pytest.raises(ConfigError, match=r"verdict 1: picked.*verdict 3: sample"):
        read_verdicts(exported(tmp_path / "v.json", verdicts=bad), PAIR)
    with pytest.raises(ConfigError, match=r"v.json: no verdicts .*expected the JSON file that the page's Export"):
        read_verdicts(exported(tmp_path / "v.json", kind="else"), PAIR)
    for text in ("", "[]", "{", "[" * 100_000, '{"kind": "cpuft verdicts", "base": 3}'):
        (tmp_path / "v.json").write_text(text)
        with pytest.raises(ConfigError, match="no verdicts"):
            read_verdicts(tmp_path / "v.json", PAIR)
    (tmp_path / "v.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no verdicts"):
        read_verdicts(tmp_path / "v.json", PAIR)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_verdicts(tmp_path / "gone.json", PAIR)


def test_tables_change_step_by_step_and_keep_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "feedback.sqlite"
    with VerdictStore(path) as store:
        store.keep(PAIR, GOOD)
    later = (*STEPS, ("ALTER TABLE verdict ADD COLUMN mood TEXT", "CREATE TABLE rating (stars INTEGER) STRICT"))
    open_database(path, later, APPLICATION).close()
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT note, mood FROM verdict").fetchall() == [(GOOD.note, None)]
        assert file.execute("PRAGMA user_version").fetchone() == (2,)
    file.close()
    with pytest.raises(ConfigError, match=r"written by a newer cpuft .version 2 of its tables, this one knows 1"):
        VerdictStore(path)


def test_a_step_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "feedback.sqlite"
    VerdictStore(path).close()
    broken = (*STEPS, ("CREATE TABLE rating (stars INTEGER) STRICT", "CREATE TABLE rating (stars INTEGER) STRICT"))
    with pytest.raises(ResourceError, match="rating"):
        open_database(path, broken, APPLICATION)
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT count(*) FROM sqlite_master WHERE name = 'rating'").fetchone() == (0,)
        assert file.execute("PRAGMA user_version").fetchone() == (1,)
    file.close()


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as file:
        file.execute("CREATE TABLE mine (x)")
    file.close()
    before = other.read_bytes()
    with pytest.raises(ConfigError, match="a database of another kind"):
        VerdictStore(other)
    assert other.read_bytes() == before
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(ConfigError, match=r"no database of cpuft's"):
        VerdictStore(tmp_path / "text")
    with pytest.raises(ResourceError, match="cannot be opened"):
        VerdictStore(tmp_path)
