"""The page of two models' answers in a browser: it filters, takes verdicts, hides what a blind reviewer must not know.

And nothing that a model or a data set says is more than text in it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cpuft.cli.main import cli
from cpuft.errors import ConfigError
from cpuft.evaluate.side_by_side import make_page, page_html, read_page, script_safe
from cpuft.evaluate.verdicts import read_win_rate
from cpuft.feedback.verdicts import Judged, VerdictStore, read_verdicts
from tests.evaluate.browser import Browser, Tab, chromium, wait_until
from tests.evaluate.side_by_side import BASE, HOSTILE, TUNED, hostile, usual
from tests.feedback.test_review import served
from tests.gguf.tiny import write_tiny_model

SHOWN = "[...document.querySelectorAll('article')].filter(a => !a.hidden).map(a => a.querySelector('h2').textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests; what pages keep in it is taken away between them."""
    with chromium(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Tab]:
    """The page of six samples, opened as a file; when the test is over, it has complained of nothing."""
    path = tmp_path / "page.html"
    path.write_text(page_html(make_page(usual())))
    tab = browser.open(path.as_uri())
    tab.evaluate("localStorage.clear()")
    tab.go(path.as_uri())
    yield tab
    assert tab.complaints() == []
    assert set(tab.requests()) == {path.as_uri()}
    tab.evaluate("localStorage.clear()")


def choose(page: Tab, name: str, value: str) -> None:
    """Chooses in the list of this label."""
    page.evaluate(
        f"(() => {{ const labels = [...document.querySelectorAll('.tools label')];"
        f"const list = labels.find(l => l.textContent.startsWith({name!r})).querySelector('select');"
        f"list.value = {value!r}; list.dispatchEvent(new Event('change')); }})()"
    )


def numbers(page: Tab) -> list[int]:
    """Which samples are shown."""
    return [int(title.partition(".")[0]) for title in page.evaluate(SHOWN)]


def current(page: Tab) -> int:
    """Which sample the keys are about."""
    return int(page.evaluate("document.querySelector('article.current h2').textContent").partition(".")[0])


def verdicts(page: Tab) -> list[dict[str, Any]]:
    """What the browser keeps."""
    return list(
        page.evaluate(
            "JSON.parse(localStorage.getItem(Object.keys(localStorage).find(k => k.includes('verdicts')))).verdicts"
        )
    )


def test_filters_show_what_is_like_that(page: Tab) -> None:
    assert numbers(page) == [1, 2, 3, 4, 5, 6]
    for outcome, wanted in (("better", [1, 2, 3]), ("worse", [4, 5]), ("equal", [6]), ("", [1, 2, 3, 4, 5, 6])):
        choose(page, "Tuned is", outcome)
        assert numbers(page) == wanted
    choose(page, "Differs in", "item constraints")
    assert numbers(page) == [1, 2, 3, 4, 5]
    choose(page, "Differs in", "part constraints")
    choose(page, "Tuned is", "worse")
    assert numbers(page) == [4, 5]
    choose(page, "Tuned is", "")
    choose(page, "Differs in", "")
    page.type("input[type=search]", "Pollen BEEKEEPERS")
    assert numbers(page) == [1]
    page.type("input[type=search]", " nowhere")
    assert numbers(page) == []
    assert "No sample is like that" in page.evaluate("document.querySelector('main').innerText")
    assert "0 of 6 shown" in page.evaluate("document.querySelector('.state').innerText")


def test_differing_words_are_marked_and_can_be_unmarked(page: Tab) -> None:
    marks = "[...document.querySelectorAll('article:first-of-type :is(del, ins)')].map(m => m.textContent)"
    assert {"R-1", "FR001", "urgent", "High"} <= set(page.evaluate(marks))
    shown = "getComputedStyle(document.querySelector('del')).textDecorationLine"
    assert page.evaluate(shown) == "underline"
    page.press("d")
    assert page.evaluate(shown) == "none"


def test_scores_and_faults_are_shown_by_part(page: Tab) -> None:
    text = page.evaluate("document.querySelector('article .scores').innerText")
    facts = usual()
    answer = facts[BASE]["answers"][0]
    assert all(name in text for name in answer["parts"])
    assert all(fault in text for fault in answer["faults"])
    assert "better +1.000" in text
    assert f"{facts[BASE]['avg_score']:.3f}" in page.evaluate("document.querySelector('header').innerText")


def test_keys_move_pick_and_rate(page: Tab) -> None:
    for key, place in (("j", 2), ("j", 3), ("k", 2), ("k", 1), ("k", 1)):
        page.press(key)
        assert current(page) == place
    page.press("3")
    assert "Pick the better one first" in page.evaluate("document.querySelector('.state').innerText")
    page.press("b")
    page.press("5")
    page.press("2", shift=True)
    page.press("j")
    page.press("t")
    page.press("4")
    one, two = verdicts(page)
    assert (one["picked"], one["base_rating"], one["tuned_rating"], one["blind"]) == ("tuned", 2, 5, False)
    assert (two["picked"], two["base_rating"], two["tuned_rating"]) == ("tie", 4, 4)
    page.press("?", shift=True)
    assert page.evaluate("document.querySelector('dialog').open") is True
    page.press("a")  # not while the list is open
    page.press("Escape")
    page.wait("!document.querySelector('dialog').open")
    page.press("/")
    page.press("a")  # is written
    assert page.evaluate("document.activeElement.value") == "a"
    page.press("Escape")
    assert [one["picked"] for one in verdicts(page)] == ["tuned", "tie"]


def test_what_was_said_is_there_again(page: Tab) -> None:
    page.press("a")
    page.type("article textarea", 'a note, "quoted" </script>')
    page.press("Escape")
    address = page.requests()[0]
    page.go(address)
    assert page.evaluate("document.querySelector('article input[value=left]').checked") is True
    assert page.evaluate("document.querySelector('article textarea').value") == 'a note, "quoted" </script>'
    choose(page, "Judged", "no")
    assert numbers(page) == [2, 3, 4, 5, 6]


def press_blind(page: Tab) -> None:
    """Enters or leaves the blind mode."""
    page.click(".buttons button")


def test_the_blind_mode_tells_nothing_until_it_is_asked_to(page: Tab, browser: Browser, tmp_path: Path) -> None:
    press_blind(page)
    samples = make_page(usual()).data["samples"]
    assert {sample["swapped"] for sample in samples} == {True, False}
    text = page.evaluate("document.querySelector('main').innerText")
    assert not any(word in text for word in (BASE, TUNED, "tuned better", "tuned worse", "0.500", "1.000", "fault"))
    assert page.evaluate("[...document.querySelectorAll('select')][0].disabled") is True
    left = page.evaluate(
        "document.querySelector('article .answers .left').innerText.includes('FR001') || "
        "document.querySelectorAll('article')[0].querySelectorAll('.left')[3].innerText.includes('FR001')"
    )
    assert left == samples[0]["swapped"]
    assert page.evaluate("document.querySelector('.reveal button').disabled") is True
    page.press("r")
    assert BASE not in page.evaluate("document.querySelector('main').innerText")
    page.press("a")
    page.press("4")
    assert BASE not in page.evaluate("document.querySelector('main').innerText")
    page.press("r")
    first = page.evaluate("document.querySelector('article').innerText")
    assert BASE in first
    assert TUNED in first
    assert BASE not in page.evaluate("document.querySelectorAll('article')[1].innerText")
    page.press("b")  # too late
    page.press("1")
    for key in "jb3jt":
        page.press(key)
    folder = tmp_path / "downloads"
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    page.click("button.main")
    file = wait_until(lambda: next(folder.glob("*.json"), None), "the export is there")
    picked = [
        "tuned" if sample["swapped"] == (side == "a") else "base" for sample, side in zip(samples, "ab", strict=False)
    ]
    pair = make_page(usual()).rivals
    given = {one.sample: one for one in read_verdicts(file, pair)}
    one, two, three = (given[sample["id"]] for sample in samples[:3])
    assert [one.picked, two.picked, three.picked] == [*picked, "tie"]
    assert (getattr(one, f"{one.picked}_rating"), getattr(two, f"{two.picked}_rating")) == (4, 3)
    assert all(verdict.blind for verdict in given.values())
    assert read_win_rate(file, pair.base, pair.tuned).n_samples == 3


def test_a_verdict_in_the_open_is_not_blind(page: Tab) -> None:
    press_blind(page)
    page.press("a")
    assert [one["blind"] for one in verdicts(page)] == [True]
    press_blind(page)
    page.press("t")
    assert [one["blind"] for one in verdicts(page)] == [False]


def test_reviewers_have_verdicts_of_their_own(page: Tab) -> None:
    page.press("a")
    page.type(".tools label:nth-of-type(5) input", "Ann")
    page.press("Escape")
    assert page.evaluate("document.querySelector('article input:checked')") is None
    page.press("b")
    assert sorted((one["reviewer"], one["picked"]) for one in verdicts(page)) == [("", "base"), ("Ann", "tuned")]


def test_a_screen_reader_finds_its_way(page: Tab) -> None:
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    said = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    roles = [role for role, _ in said]
    assert {"main", "banner", "region", "article", "status", "insertion", "deletion"} <= set(roles)
    assert ("article", "1. Friendly pollen exchange platform for beekeepers") in said
    assert ("radio", "A is better") in said
    assert ("radio", "5 of 5 for B") in said
    unnamed = [
        role for role, name in said if role in ("button", "radio", "textbox", "searchbox", "combobox") and not name
    ]
    assert unnamed == []


def colours(page: Tab) -> tuple[str, str]:
    """(text, background) of the page."""
    style = "getComputedStyle(document.body)"
    return page.evaluate(f"{style}.color"), page.evaluate(f"{style}.backgroundColor")


def contrast(page: Tab) -> float:
    """The ratio of WCAG 2 between the fainter text and its ground."""

    def luminance(name: str) -> float:
        found = page.evaluate(
            f"(() => {{ const e = document.createElement('i'); e.style.color = 'var({name})'; document.body.append(e);"
            "const c = getComputedStyle(e).color; e.remove(); return c.match(/[\\d.]+/g).map(Number); })()"
        )
        linear = [c / 12.92 if (c := one / 255) <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for one in found[:3]]
        return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])

    light, dark = sorted((luminance("--faint"), luminance("--page")), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_dark_and_light_follow_the_system_or_the_button(page: Tab) -> None:
    assert contrast(page) >= 4.5
    light = colours(page)
    page.prefer("dark")
    dark = colours(page)
    assert contrast(page) >= 4.5
    assert light != dark
    page.click(".buttons button:nth-of-type(3)")
    assert colours(page) == light
    page.click(".buttons button:nth-of-type(3)")
    page.prefer("light")
    assert colours(page) == dark


@pytest.mark.parametrize("width", [320, 390, 760, 1400])
@pytest.mark.parametrize("name", ["usual", "hostile"])
def test_nothing_is_wider_than_the_screen(browser: Browser, tmp_path: Path, width: int, name: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(page_html(make_page({"usual": usual, "hostile": hostile}[name]())))
    tab = browser.open(path.as_uri(), width=width)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    heads = "[...document.querySelectorAll('.heads > *')].map(e => e.getBoundingClientRect().top)"
    beside = f"(([a, b]) => a === b)({heads})"
    assert tab.evaluate(beside) == (width > 760)


@pytest.mark.parametrize("blind", [False, True])
def test_hostile_answers_do_nothing_but_stand_there(browser: Browser, tmp_path: Path, blind: bool) -> None:
    path = tmp_path / "page.html"
    path.write_text(page_html(make_page(hostile(), blind=blind)))
    tab = browser.open(path.as_uri())
    tab.press("b")
    tab.press("r")
    assert tab.evaluate("window.hacked") is None
    assert tab.evaluate("document.title").startswith("Side by side: ")
    assert (
        tab.evaluate("document.querySelectorAll('script, img, svg, iframe, object, link, style, [onerror]').length")
        == 4
    )
    texts = tab.evaluate("[...document.querySelectorAll('pre')].map(e => e.textContent)")
    for text in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[5]):
        assert text in texts
    assert any("U+0000" in text and "U+202E" in text and "U+001B" in text for text in texts)
    assert tab.complaints() == []
    assert tab.requests() == [path.as_uri()]


def test_a_script_that_got_in_would_not_run(browser: Browser, tmp_path: Path) -> None:
    """The policy holds even if text became markup: a second wall."""
    path = tmp_path / "page.html"
    more = "<script>window.hacked = 1</script><img src='http://127.0.0.1:9/x' onerror='window.hacked = 1'>"
    path.write_text(page_html(make_page(usual())).replace("</body>", f"{more}</body>"))
    tab = browser.open(path.as_uri())
    assert tab.evaluate("window.hacked") is None
    assert len([text for text in tab.complaints() if "Content Security Policy" in text]) >= 2
    tab.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
    assert tab.evaluate("(() => { try { document.body.innerHTML = 'x' } catch { return 'refused' } })()") == "refused"


def test_a_served_page_stores_what_is_said(browser: Browser, tmp_path: Path) -> None:
    result, store = tmp_path / "result.json", tmp_path / "v.sqlite"
    result.write_text(json.dumps(usual()))
    with served(result, store=store) as (address, process):
        tab = browser.open(address)
        tab.wait("document.querySelector('article') !== null")
        assert BASE not in tab.evaluate("document.querySelector('main').innerText")
        tab.press("a")
        tab.press("4")
        tab.wait("document.querySelector('.state').innerText.includes('stored in')")
        with VerdictStore(store) as kept:
            ((pair, (one,)),) = kept.all()
        assert (pair.base.name, one.blind, one.picked is not None) == (BASE, True, True)
        origin = address[: address.index("/", 8)]
        assert all(request.startswith((origin, "data:")) for request in tab.requests())
        assert tab.complaints() == []
        tab.go(address)
        assert tab.evaluate("document.querySelector('article .pick input[value=left]').checked") is True
        process.kill()
        process.wait()
        tab.press("t")
        tab.wait("document.querySelector('.state').innerText.includes('Not stored')")
        assert [verdict["picked"] for verdict in verdicts(tab)] == ["tie"]


def test_a_page_is_read_back_without_what_else_is_in_its_file(tmp_path: Path) -> None:
    page, path = make_page(hostile(), seed=3), tmp_path / "page.html"
    path.write_text(page_html(page).replace("</body>", "<script>alert(1)</script></body>"))
    again = read_page(path)
    assert again.rivals == page.rivals
    assert json.loads(json.dumps({**page.data, "served": None})) == again.data
    assert "alert(1)" not in page_html(again)
    for text in ("", "<script id='comparison'>{}</script>", "<script id='comparison'>" + "[" * 99_999 + "</script>"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"page\.html: no page of `cpuft eval samples`"):
            read_page(path)


def test_data_cannot_leave_their_element() -> None:
    evil = {"a": "</script><!--<script>&amp;\u2028\u2029\ud800"}
    text = script_safe(evil)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == evil


def test_sides_and_samples_are_drawn_by_the_seed() -> None:
    one, same, other = (make_page(usual(), limit=3, seed=seed).data["samples"] for seed in (0, 0, 1))
    assert one == same
    assert [sample["id"] for sample in one] != [sample["id"] for sample in other]
    whole = [sample["id"] for sample in make_page(usual()).data["samples"]]
    assert [sample["id"] for sample in one] == [name for name in whole if name in {sample["id"] for sample in one}]


def test_results_without_a_pair_of_answers_are_refused() -> None:
    alone = {name: value for name, value in usual().items() if name in (BASE, "made_by")}
    with pytest.raises(ConfigError, match="found answers of 1 models"):
        make_page(alone)
    shorter = usual()
    shorter[TUNED]["answers"].pop()
    with pytest.raises(ConfigError, match=r"6 answers and .* 5, expected both to be asked the same"):
        make_page(shorter)
    mixed = usual()
    mixed[TUNED]["answers"].reverse()
    with pytest.raises(ConfigError, match=r"answer 1 of .* is to another question"):
        make_page(mixed)
    damaged = usual()
    del damaged[TUNED]["answers"][2]["score"]
    with pytest.raises(ConfigError, match="the result is damaged"):
        make_page(damaged)


@pytest.mark.usefixtures("own_answers", "one_cpu")
def test_the_command_asks_both_models_and_takes_results(tmp_path: Path) -> None:
    base, tuned = (write_tiny_model(tmp_path / f"{seed}.gguf", n_ctx=1024, seed=seed) for seed in (0, 1))
    concepts, output = tmp_path / "c.jsonl", tmp_path / "new" / "page.html"
    concepts.write_text("".join(f"A shop for things of kind {n}\n" for n in range(6)))
    command = ["eval", "samples", "--base", base, "--tuned", tuned, "--concepts", concepts, "--num-samples", 2]
    more = ["--max-tokens", 20, "--threads", 1, "--output", output, "--json", "--blind"]
    done = CliRunner().invoke(cli, list(map(str, [*command, *more])))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["samples"] == 2
    page = read_page(output)
    assert page.data["blind"] is True
    assert [sample["base"]["tokens"] for sample in page.data["samples"]] == [20, 20]
    assert page.rivals.base == Judged(str(base), page.rivals.base.key)
    for wrong, said in (
        (["--output", output], "nothing to show: give --result"),
        (["--base", base, "--tuned", base, "--concepts", concepts, "--output", output], "--tuned is the base itself"),
        (["--result", output, "--base", base, "--output", tmp_path / "p.html"], "--result has answers already"),
        (["--result", output, "--output", tmp_path / "p.html"], "cannot be read as JSON"),
    ):
        done = CliRunner().invoke(cli, list(map(str, ["eval", "samples", *wrong])))
        assert (done.exit_code, said in done.output) == (2, True), done.output
    result = tmp_path / "result.json"
    result.write_text(json.dumps(usual()))
    done = CliRunner().invoke(cli, ["eval", "samples", "--result", str(result), "--output", str(output)])
    assert "6 samples, the tuned model's answers are 3 better, 1 equal, 2 worse" in done.output
