"""Proves that speed is measured one request at a time, of prompts that are really read, by the real llama-server."""

import threading
import time
from collections.abc import Sequence

import pytest

from cpuft import demo
from cpuft.backends.generator import GREEDY, Sampling
from cpuft.backends.llama_server import LlamaServer
from cpuft.chat.message import Completion, Message
from cpuft.errors import TooLongError
from cpuft.evaluate.benchmark import read_cases
from cpuft.evaluate.speed import MAX_TOKENS, NOT_MEASURED, ONE_AT_A_TIME, measure_speed
from cpuft.machine.memory import peak_rss_mb_of
from cpuft.roles import find_role
from tests.progress import Heard

QUESTIONS = [case.messages for case in read_cases(demo.TEST, find_role("ba"))[:3]]


class Telling:
    """A generator that counts who asks it at a time, and tells what a server would."""

    def __init__(self, *, tells: bool = True, too_long: str = "none") -> None:
        self.asked: list[tuple[str, Sampling]] = []
        self._tells, self._too_long, self._busy = tells, too_long, threading.Lock()

    def generate(self, messages: Sequence[Message], sampling: Sampling = GREEDY) -> Completion:
        """51 tokens in a quarter of a second, of a prompt of 40 of which 30 were read in a tenth; the first is slow."""
        assert self._busy.acquire(blocking=False), "asked twice at a time"
        try:
            self.asked.append((str(messages[0]["content"]), sampling))
            if self._too_long in messages[-1]["content"]:
                raise TooLongError("too long")
            seconds = 0.1 if len(self.asked) > 1 else 9.0
            told = {"prompt_seconds": seconds, "prompt_read": 30} if self._tells else {}
            return Completion("text", 51, 0.25, 40, True, **told)  # type: ignore[arg-type]
        finally:
            self._busy.release()


def test_rates_come_of_the_servers_own_times_without_the_first_answer() -> None:
    generator, heard = Telling(), Heard()
    speed = measure_speed(generator, QUESTIONS, progress=heard)
    assert speed.tokens_per_sec == pytest.approx(200), "the first token comes of the prompt"
    assert speed.prompt_tokens_per_sec == pytest.approx(300)
    assert speed.time_to_first_token_s == pytest.approx(0.1)
    assert (speed.n_questions, speed.ram_usage_mb) == (3, None)
    assert heard.steps[-1] == ("speed", 4, 4)
    beginnings = [said[:2] for said, _ in generator.asked]
    assert len(set(beginnings)) == 4, "no prompt begins as another, or what was read of that would be read already"
    assert [sampling.max_tokens for _, sampling in generator.asked] == [1, *[MAX_TOKENS] * 3]


def test_what_a_server_does_not_tell_is_unknown_and_not_0() -> None:
    facts = measure_speed(Telling(tells=False), QUESTIONS).facts()
    assert facts == {**dict.fromkeys(NOT_MEASURED.facts()), "speed_measured": ONE_AT_A_TIME}
    assert set(NOT_MEASURED.facts().values()) == {None}


def test_questions_that_do_not_fit_are_left_out() -> None:
    generator = Telling(too_long=QUESTIONS[0][-1]["content"])
    assert measure_speed(generator, QUESTIONS).n_questions == 2
    assert measure_speed(Telling(too_long=""), QUESTIONS).facts()["speed_measured"] is None
    assert measure_speed(Telling(), []) == NOT_MEASURED


@pytest.mark.usefixtures("built")
def test_the_real_server() -> None:
    with LlamaServer(demo.BASE_MODEL, threads=1) as server:
        first = server.generate(QUESTIONS[0], Sampling(max_tokens=2))
        again = server.generate(QUESTIONS[0], Sampling(max_tokens=2))
        assert (first.prompt_read or 0) > 0.9 * first.prompt_tokens
        assert (again.prompt_read or 99) < 10, "what it has read already it does not read again"
        began = time.monotonic()
        speed = measure_speed(server, QUESTIONS)
        took = time.monotonic() - began
        weights = demo.BASE_MODEL.stat().st_size / 1e6
        assert speed.ram_usage_mb is not None
        assert speed.ram_usage_mb > weights
        assert speed.ram_usage_mb <= (server.peak_rss_mb or 0)
    assert speed.n_questions == 3
    assert 0 < (speed.time_to_first_token_s or 0) < took
    assert (speed.tokens_per_sec or 0) > 10
    assert (speed.prompt_tokens_per_sec or 0) > (speed.tokens_per_sec or 0), "a prompt is read many tokens at a time"
    assert peak_rss_mb_of(2**30) is None
