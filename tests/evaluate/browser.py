"""A headless Chromium that tests drive as a person would: its DevTools protocol over a pipe, without other packages."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60.0  # a browser on a busy machine of two CPUs
# Where keys lie that are no letters or digits, and the number by which Windows knows those that write nothing.
CODES = {"?": "Slash", "/": "Slash", "Escape": "Escape"}
NUMBERS = {"Escape": 27}
SHIFT = 8
# Becomes the browser, which reads commands from descriptor 3 and writes to 4, wherever the pipes were before.
WIRE = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for place, end in zip((3, 4), ends):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


@contextmanager
def chromium(folder: Path) -> Iterator["Browser"]:
    """A browser with an empty profile in `folder`; skips where there is none, unless .ci/run says that there is."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        if os.environ.get("CPUFT_BROWSER_REQUIRED"):
            pytest.fail("Chromium is not installed: apt-get install chromium")
        pytest.skip("Chromium is not installed: apt-get install chromium runs these tests")
    browser = Browser(program, folder)
    try:
        yield browser
    finally:
        browser.close()


class Browser:
    """The process and its pipe. Each message is JSON with a zero byte behind it (--remote-debugging-pipe)."""

    def __init__(self, program: str, folder: Path) -> None:
        to_browser, self._to = os.pipe()
        self._from, from_browser = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        quiet = [
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-extensions",
        ]
        command = [program, *options, *quiet, "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]
        wired = [sys.executable, "-c", WIRE, str(to_browser), str(from_browser), *command, "about:blank"]
        self._process = subprocess.Popen(
            wired,
            env={**os.environ, "HOME": str(folder)},
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest, self._numbers, self.events = b"", itertools.count(1), list[dict[str, Any]]()
        self._target = ""

    def open(self, address: str, width: int = 1400, height: int = 900, theme: str = "light") -> "Tab":
        """A new tab of this size that has loaded the address; the one before it is closed."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        if self._target:
            self.call("Target.closeTarget", targetId=self._target)
        self._target = target
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.resize(width, height)
        tab.prefer(theme)
        tab.go(address)
        return tab

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """What the browser answers to a command; the events until then are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self.next_message()
            if found.get("id") == number:
                assert "error" not in found, f"{method}: {found['error']}"
                return dict(found["result"])

    def next_message(self, seconds: float = SECONDS) -> dict[str, Any]:
        """The next answer or event; an event is kept, too."""
        until = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser says nothing"
            block = os.read(self._from, 1 << 20)
            assert block, "the browser has ended"
            self._rest += block
        first, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        if "method" in message:
            self.events.append(message)
        return message

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)


class Tab:
    """A page in the browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command to the page."""
        return self._browser.call(method, self._session, **parameters)

    def go(self, address: str) -> None:
        """Loads an address, whole."""
        seen = len(self._browser.events)
        self.call("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self._events(seen)):
            self._browser.next_message()

    def resize(self, width: int, height: int) -> None:
        """Gives the page another size; below 700 pixels it is a telephone's."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700
        )

    def prefer(self, theme: str) -> None:
        """What the system's setting is, "light" or "dark"."""
        features = [
            {"name": "prefers-color-scheme", "value": theme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript; that of a promise when it is there."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 20) -> Any:
        """The value of an expression as soon as it is true."""
        return wait_until(lambda: self.evaluate(expression), expression, seconds)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Presses a key as a keyboard does."""
        code = CODES.get(key) or (f"Digit{key}" if key.isdigit() else f"Key{key.upper()}")
        typed = {} if len(key) > 1 else {"text": key}
        number = NUMBERS.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            text = typed if kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=code,
                modifiers=SHIFT * shift,
                windowsVirtualKeyCode=number,
                **text,
            )

    def type(self, selector: str, text: str) -> None:
        """Writes into a field."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Clicks with the mouse in the middle of an element."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{found}.scrollIntoView({{block: 'center'}})")
        place = self.evaluate(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({found}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """Writes what is seen, or the whole page, as PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
        return path

    def complaints(self) -> list[str]:
        """Whatever stands in the console, and exceptions that nobody caught."""
        self.evaluate("1")  # so that all that was said before is there
        texts = []
        for event in self._events():
            facts = event["params"]
            if event["method"] == "Log.entryAdded":
                texts.append(str(facts["entry"]["text"]))
            elif event["method"] == "Runtime.exceptionThrown":
                texts.append(json.dumps(facts["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled":
                texts.append(json.dumps(facts["args"]))
        return texts

    def requests(self) -> list[str]:
        """The addresses that the page asked for."""
        self.evaluate("1")
        sent = [event["params"] for event in self._events() if event["method"] == "Network.requestWillBeSent"]
        return [str(facts["request"]["url"]) for facts in sent]

    def _events(self, since: int = 0) -> list[dict[str, Any]]:
        return [event for event in self._browser.events[since:] if event.get("sessionId") == self._session]


def wait_until(check: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """What `check` returns as soon as it is true."""
    until = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < until, f"never true: {what}"
        time.sleep(0.05)
    return found
