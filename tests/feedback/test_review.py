"""The server of the page lets in whoever has the token and comes from its page, and loses no verdict that it took."""

import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cpuft.evaluate.side_by_side import make_page, page_html
from cpuft.feedback.verdicts import VerdictStore
from tests.evaluate.browser import wait_until
from tests.evaluate.side_by_side import hostile, usual

Sent = dict[str, Any]


@contextmanager
def served(*files: Path, store: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """(address, process) of `cpuft review`."""
    command = [sys.executable, "-m", "cpuft", "review", *map(str, files), "--store", str(store)]
    process = subprocess.Popen([*command, "--no-browser", "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = json.loads(process.stdout.readline())
        assert said["store"] == str(store)
        yield said["address"], process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a comparison."""
    path = tmp_path_factory.mktemp("result") / "result.json"
    path.write_text(json.dumps(usual()))
    return path


@pytest.fixture(scope="module")
def page(result: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of its page."""
    with served(result, store=tmp_path_factory.mktemp("store") / "v.sqlite") as (address, _), client() as browser:
        yield str(browser.get(address).url)


def client() -> httpx.Client:
    """What asks on loopback."""
    return httpx.Client(trust_env=False, follow_redirects=True, timeout=30)


def verdict(number: int = 0, **change: Any) -> Sent:
    """What the page sends about a sample of the result."""
    sample = make_page(usual()).samples[number]
    return {"sample": sample, "picked": "tuned", "blind": True, "at": "2026-11-30T12:00:00.000Z", **change}


def post(page: str, body: Any, **headers: str) -> httpx.Response:
    """Sends a verdict as the page does, with other headers where given; an empty one is left out."""
    usually = {"origin": page[: page.index("/", 8)], "content-type": "application/json"}
    sent = {name.replace("_", "-"): value for name, value in {**usually, **headers}.items() if value}
    content = body if isinstance(body, bytes) else json.dumps(body)
    with client() as browser:
        return browser.post(f"{page}verdicts", content=content, headers=sent)


def test_verdicts_are_kept_and_shown_again(page: str) -> None:
    assert post(page, verdict(note="</script><b>")).status_code == 204
    assert post(page, verdict(1, picked="tie", reviewer="Ann")).status_code == 204
    with client() as browser:
        answer = browser.get(page)
    shown = json.loads(answer.text.partition('id="comparison">')[2].partition("</script>")[0])
    kept = {(one["picked"], one["reviewer"], one["note"]) for one in shown["served"]["verdicts"]}
    assert kept == {("tuned", "", "</script><b>"), ("tie", "Ann", "")}
    assert shown["blind"] is True
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "evil.example:PORT"}, 421),
        ({"host": "127.0.0.1"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_what_comes_from_elsewhere_is_refused(page: str, headers: dict[str, str], status: int) -> None:
    port = str(httpx.URL(page).port)
    sent = {name: value.replace("PORT", port) for name, value in headers.items()}
    answer = post(page, verdict(2), **sent)
    assert answer.status_code == status
    assert "qwen" not in answer.text


def test_a_foreign_name_that_leads_here_reads_nothing(page: str) -> None:
    with client() as browser:
        answer = browser.get(page, headers={"host": "rebound.example"})
        assert (answer.status_code, "qwen" in answer.text) == (421, False)
        assert (
            browser.get(page, headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}).status_code == 403
        )
        assert browser.get(page.replace("127.0.0.1", "localhost")).status_code == 200


def test_without_the_token_nothing_is_shown(page: str) -> None:
    origin, token, name = page[: page.index("/", 8)], *page[page.index("/", 8) :].strip("/").split("/")
    ways = [
        "/",
        f"/{name}/",
        f"/{token[:-1]}/{name}/",
        f"/{token}x/{name}/",
        f"//{name}/",
        f"/%00/{name}/",
        f"/é/{name}/",
    ]
    with client() as browser:
        for way in ways:
            answer = browser.get(origin + way)
            assert (answer.status_code, "qwen" in answer.text) == (403, False), way
        assert browser.get(f"{origin}/{token}/{'0' * 16}/").status_code == 404
        assert browser.get(f"{origin}/{token}/docs").status_code == 404
    assert post(f"{origin}/{token[::-1]}/{name}/", verdict(2)).status_code == 403


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[1]", 400),
        (b"[" * 60_000, 400),
        (b"\xff", 400),
        (b" " * 70_000, 413),
        (json.dumps(verdict(sample="f" * 16)).encode(), 400),
        (json.dumps(verdict(picked="left")).encode(), 400),
    ],
)
def test_what_is_no_verdict_is_refused(page: str, body: bytes, status: int) -> None:
    assert post(page, body).status_code == status


def test_several_pages_have_a_list_of_them(result: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.html"
    other.write_text(page_html(make_page(hostile())))
    with served(result, other, store=tmp_path / "v.sqlite") as (address, _), client() as browser:
        text = browser.get(address).text
        assert "&lt;/title&gt;&lt;script&gt;" in text
        assert "<script" not in text
        links = [part.partition('"')[0] for part in text.split('<a href="')[1:]]
        assert [browser.get(address + link).status_code for link in links] == [200, 200]


def test_a_killed_server_has_kept_what_it_confirmed(result: Path, tmp_path: Path) -> None:
    """It is killed, again and again, while verdicts come as fast as it takes them."""
    store, confirmed = tmp_path / "v.sqlite", list[str]()
    for life in range(6):
        with served(result, store=store) as (address, process), client() as browser:
            page = str(browser.get(address).url)
            sender = threading.Thread(target=send_until_dead, args=(browser, page, life, confirmed))
            before = len(confirmed)
            sender.start()
            wait_until(lambda known=before + 3 * life: len(confirmed) > known, "a few are confirmed")  # type: ignore[misc]
            process.kill()
            sender.join(30)
            assert not sender.is_alive()
    with VerdictStore(store) as kept:
        ((_, verdicts),) = kept.all()
    assert len(confirmed) > 40
    assert set(confirmed) <= {one.reviewer for one in verdicts}
    assert len(verdicts) <= len(confirmed) + 6  # of each life, the one that was under way may be there, too


def send_until_dead(browser: httpx.Client, page: str, life: int, confirmed: list[str]) -> None:
    """Sends verdicts and notes whose were confirmed."""
    headers = {"origin": page[: page.index("/", 8)]}
    for n in itertools.count():
        name = f"{life} {n}"
        try:
            assert browser.post(f"{page}verdicts", json=verdict(reviewer=name), headers=headers).status_code == 204
        except httpx.TransportError:
            return
        confirmed.append(name)


def test_ctrl_c_ends_it_well(result: Path, tmp_path: Path) -> None:
    with served(result, store=tmp_path / "v.sqlite") as (address, process):
        with client() as browser:
            assert browser.get(address).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_what_cannot_be_served_is_said(result: Path, tmp_path: Path, run_cpuft: Any) -> None:
    (tmp_path / "bad.html").write_text("<html>")
    done = run_cpuft("review", tmp_path / "bad.html", "--no-browser")
    assert (done.returncode, "no page of `cpuft eval samples`" in done.stderr) == (2, True)
    assert not (tmp_path / "feedback.sqlite").exists()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_cpuft("review", result, "--no-browser", "--port", str(taken.getsockname()[1]))
    assert (done.returncode, "cannot be listened on" in done.stderr) == (2, True)
