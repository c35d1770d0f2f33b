"""Progress bars on stderr, for whatever tells how far it is (`machine.progress`)."""

import contextlib
import sys
import time
from types import TracebackType
from typing import IO, Any, Self

from tqdm import tqdm

from cpuft.cli.streams import tell

# What takes less is over before anyone wonders.
DELAY_SECONDS = 1.0


class Bars:
    """A `Progress` that draws a bar for each thing that is done; nothing where stderr is no terminal.

    Use it as a context manager. shown: False draws nothing at all. On a terminal that fails, no more is drawn.
    """

    def __init__(self, *, shown: bool = True) -> None:
        self._shown = shown and sys.stderr.isatty()
        self._bars: dict[str, tqdm[Any]] = {}

    def __call__(self, what: str, done: float, total: float, unit: str = "B", /, **facts: str) -> None:
        """Moves the bar of `what` to `done` of `total`."""
        try:
            self._draw(what, done, total, unit, facts)
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._shown = False
            self._bars.clear()

    def _draw(self, what: str, done: float, total: float, unit: str, facts: dict[str, str]) -> None:
        bar = self._bars.get(what)
        if bar is None:
            self._close_finished()
            bar = self._bars[what] = tqdm(
                total=total or None,
                initial=done,  # what was there before is no speed
                desc=what,
                unit=unit,
                unit_scale=unit not in ("step", "part", "answer", "example"),
                delay=DELAY_SECONDS,
                leave=False,
                disable=not self._shown,
            )
        bar.total = total or bar.total
        if facts:
            bar.set_postfix(facts, refresh=False)
        bar.update(done - bar.n)

    def print(self, line: str, stream: IO[str]) -> None:
        """Prints a line above the bars, at once: who reads it at the other end of a pipe waits for it."""
        tqdm.write(line, file=stream)
        stream.flush()

    def _close_finished(self) -> None:
        """A new thing begins: what is at its end, or has none that is known, makes room."""
        for what, bar in list(self._bars.items()):
            if not bar.total or bar.n >= bar.total:
                self._bars.pop(what).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for bar in self._bars.values():
            with contextlib.suppress(OSError, ValueError):
                bar.close()


class Compiling(Bars):
    """Bars; and where stderr is no terminal, a line every tenth of the way, with the time left: it takes minutes."""

    def __init__(self) -> None:
        super().__init__()
        self._began: dict[str, float] = {}

    def __call__(self, what: str, done: float, total: float, unit: str = "B", /, **facts: str) -> None:
        """Moves the bar of `what`, or prints the line that is due."""
        super().__call__(what, done, total, unit, **facts)
        began = self._began.setdefault(what, time.monotonic())
        if self._shown or not total or not (done == total or done * 10 // total > (done - 1) * 10 // total):
            return
        left = (time.monotonic() - began) / done * (total - done)
        until = f", about {left / 60:.0f} min left" if left >= 60 else ""
        tell(f"compiled {done:.0f} of {total:.0f}{until}", sys.stderr)
