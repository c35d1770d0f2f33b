"""How fast a model answers one user, and what memory that takes.

A few questions are asked one at a time, and nothing of one is left that would make the next faster. How long a test set
took says neither: there many requests share the CPUs, and their prompts begin alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from cpuft.backends.generator import GREEDY, Generator, Sampling
from cpuft.backends.llama_server import LlamaServer
from cpuft.chat.message import Completion, Message
from cpuft.errors import TooLongError
from cpuft.evaluate.answers import Asking
from cpuft.evaluate.contender import Contender
from cpuft.machine.progress import Progress, silent, titled
from cpuft.roles.yaml_grammar import held_to

QUESTIONS = 3  # that are asked, where nobody says otherwise
MAX_TOKENS = 256  # of an answer: what more would say of the speed is little
ONE_AT_A_TIME = "one request at a time"


@dataclass(frozen=True)
class Speed:
    """What was measured; None for what the server does not tell.

    tokens_per_sec:        of generation, without reading the prompt and without the first token, which comes of that.
    prompt_tokens_per_sec: of reading the prompt.
    time_to_first_token_s: median over the questions, seconds.
    ram_usage_mb:          the most that the server's process held, MB (10^6 bytes), the model's file included.
    n_questions:           that were answered.
    """

    tokens_per_sec: float | None = None
    prompt_tokens_per_sec: float | None = None
    time_to_first_token_s: float | None = None
    ram_usage_mb: float | None = None
    n_questions: int = 0

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "tokens_per_sec": _rounded(self.tokens_per_sec, 1),
            "prompt_tokens_per_sec": _rounded(self.prompt_tokens_per_sec, 1),
            "time_to_first_token_s": _rounded(self.time_to_first_token_s, 3),
            "ram_usage_mb": _rounded(self.ram_usage_mb, 1),
            "speed_measured": ONE_AT_A_TIME if self.n_questions else None,
        }


NOT_MEASURED = Speed()


def speed_of(contender: Contender, asking: Asking, n_questions: int = QUESTIONS, progress: Progress = silent) -> Speed:
    """How fast a model answers the first questions, past the remembered answers, which take no time.

    0 questions: it is not measured. Raises CpuftError where the model cannot be asked.
    """
    if not n_questions:
        return NOT_MEASURED
    role, threads = asking.role, 0 if contender.asked.path is None else asking.threads
    with contender.asked.open(1, adapter=contender.adapter, threads=threads, n_ctx=asking.n_ctx) as server:
        sampling = held_to(role.schema, server, asking.sampling) if asking.constrained else asking.sampling
        as_json = sampling.schema is not None
        asked = [contender.case(case, role, as_json=as_json).messages for case in asking.cases[:n_questions]]
        return measure_speed(server, asked, sampling=sampling, progress=titled(progress, f"{contender.name}: speed"))


def measure_speed(
    generator: Generator,
    questions: Sequence[Sequence[Message]],
    *,
    sampling: Sampling = GREEDY,
    progress: Progress = silent,
) -> Speed:
    """Asks the questions one after another.

    generator: opened for one request at a time; nothing else may ask it meanwhile.
    Questions that do not fit into the context are left out. Raises CpuftError where the model fails to answer.
    """
    short = replace(sampling, max_tokens=min(sampling.max_tokens, MAX_TOKENS))
    answers: list[Completion] = []
    # The first answer is not counted: until then the model's file may not be in memory.
    for number, question in enumerate([*questions[:1], *questions]):
        asked = short if number else replace(short, max_tokens=1)
        try:
            answer = generator.generate(_unlike_others(question, number), asked)
        except TooLongError:
            continue
        finally:
            progress("speed", number + 1, len(questions) + 1, "answer")
        answers += [answer] if number else []
    return Speed(
        tokens_per_sec=_generation(answers),
        prompt_tokens_per_sec=_reading(answers),
        time_to_first_token_s=median(times) if (times := _first_tokens(answers)) else None,
        ram_usage_mb=generator.peak_rss_mb if isinstance(generator, LlamaServer) else None,
        n_questions=len(answers),
    )


def _unlike_others(question: Sequence[Message], number: int) -> list[Message]:
    """The question beginning otherwise than any other: servers keep what they have read, up to the first difference."""
    first, *rest = question
    return [{**first, "content": f"{number}. {first['content']}"}, *rest]


def _generation(answers: Sequence[Completion]) -> float | None:
    """Tokens a second, of servers that tell the time which writing took."""
    timed = [answer for answer in answers if answer.prompt_seconds is not None and answer.tokens > 1]
    seconds = sum(answer.seconds for answer in timed)
    return sum(answer.tokens - 1 for answer in timed) / seconds if seconds > 0 else None


def _reading(answers: Sequence[Completion]) -> float | None:
    read = [(answer.prompt_read, answer.prompt_seconds) for answer in answers]
    known = [(tokens, seconds) for tokens, seconds in read if tokens and seconds]
    return sum(tokens for tokens, _ in known) / sum(seconds for _, seconds in known) if known else None


def _first_tokens(answers: Sequence[Completion]) -> list[float]:
    return [answer.prompt_seconds for answer in answers if answer.prompt_seconds is not None]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
