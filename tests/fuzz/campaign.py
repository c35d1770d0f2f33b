"""Hands a fuzzer's inputs to what it tests, until the time is over, and counts what became of them."""

import random
import signal
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import ClassVar

from cpuft.errors import ExampleError, UserError

REFUSED = "refused"
MOST_SECONDS = 20  # for one input
MOST_CHARACTERS = 2400  # of a sentence: a list of eight faults, each cut where it is long


class TooLongError(Exception):
    """An input took longer than anything of its size may."""


class Target(ABC):
    """What a fuzzer tests. folder: where it may write."""

    batch: ClassVar[int] = 1  # inputs at a time

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def spoilt(self, chance: random.Random) -> bytes:
        """The next input."""

    @abstractmethod
    def use(self, data: bytes) -> None:
        """Does with an input what the program would. May raise UserError and ExampleError, and nothing else."""

    def judge(self, inputs: Sequence[bytes]) -> list[str]:
        """For each input "", REFUSED, or what it did that none may do."""
        return [self._outcome(data) for data in inputs]

    def _outcome(self, data: bytes) -> str:
        try:
            with _deadline(), warnings.catch_warnings():
                warnings.simplefilter("error")  # numpy's of an overflow tells of values that are none
                self.use(data)
        except (UserError, ExampleError) as error:
            return sentence_of(type(error).__name__, str(error))
        except Exception as error:
            places = [frame for frame in _frames(error) if "/cpuft/" in frame] or _frames(error)
            return f"{type(error).__name__} at {places[-1]}"
        return ""


@dataclass
class Sample:
    """One kind of finding: the first input that had it, and how many did."""

    number: int
    data: bytes
    times: int = 1


@dataclass
class Report:
    """What became of all inputs."""

    inputs: int = 0
    refused: int = 0
    findings: dict[str, Sample] = field(default_factory=dict)


def campaign(target: Target, *, seconds: float, seed: int, most: int | None = None) -> Report:
    """Tries inputs for `seconds`, or `most` of them. The same seed gives the same inputs in the same order."""
    chance, report, end = random.Random(seed), Report(), time.monotonic() + seconds
    while time.monotonic() < end and (most is None or report.inputs < most):
        inputs = [target.spoilt(chance) for _ in range(target.batch)]
        for data, outcome in zip(inputs, target.judge(inputs), strict=True):
            report.inputs += 1
            if outcome == REFUSED:
                report.refused += 1
            elif outcome in report.findings:
                report.findings[outcome].times += 1
            elif outcome:
                report.findings[outcome] = Sample(report.inputs, data)
    return report


def sentence_of(error: str, message: str) -> str:
    """REFUSED where a refusal is one line of a bearable length, or what it is instead.

    Characters that could steer a terminal are replaced by whoever prints it (`machine.terminal.printable`).
    """
    if "\n" in message:
        return f"{error} of several lines"
    return REFUSED if len(message) <= MOST_CHARACTERS else f"{error} of more than {MOST_CHARACTERS} characters"


@contextmanager
def _deadline() -> Iterator[None]:
    def raise_it(_signal: int, _frame: FrameType | None) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, raise_it)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _frames(error: BaseException) -> list[str]:
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    return frames
