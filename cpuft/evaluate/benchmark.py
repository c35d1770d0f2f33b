"""Lets a model answer the questions of a test set and scores every answer with a role's metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from cpuft.backends.generator import GREEDY, Generator, Request, Sampling, generate_all
from cpuft.chat.message import Completion, Message
from cpuft.chat.normalization import Taken, normalized
from cpuft.data.records import Chat, Record, read_records
from cpuft.errors import CpuftError, DatasetError, ExampleError
from cpuft.machine.progress import Progress, silent
from cpuft.roles import Inputs, Metric, Role, Score
from cpuft.roles.answer import as_yaml


@dataclass(frozen=True)
class Case:
    """A question of a test set."""

    inputs: Inputs  # what is asked, without the role's words around it
    messages: tuple[Message, ...]  # without the reference answer
    reference: str


@dataclass(frozen=True)
class Answer:
    """A case, what the model said to it, and what that is worth."""

    case: Case
    completion: Completion
    score: Score


@dataclass(frozen=True)
class Benchmark:
    """All answers of a model to a test set."""

    answers: tuple[Answer, ...]

    @property
    def average_score(self) -> float:
        """Mean of the total scores."""
        return mean(self.scores)

    @property
    def scores(self) -> list[float]:
        """The total scores, in the order of the test set."""
        return [answer.score.total for answer in self.answers]

    @property
    def average_parts(self) -> dict[str, float]:
        """Mean of each part of the scores."""
        sums: dict[str, float] = {}
        for answer in self.answers:
            for name, part in answer.score.parts.items():
                sums[name] = sums.get(name, 0.0) + part.value
        return {name: total / len(self.answers) for name, total in sums.items()}

    @property
    def tokens(self) -> int:
        """Tokens generated in all."""
        return sum(answer.completion.tokens for answer in self.answers)

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens over the time spent generating them, without reading prompts."""
        seconds = sum(answer.completion.seconds for answer in self.answers)
        return self.tokens / seconds if seconds > 0 else 0.0

    def summary(self) -> dict[str, Any]:
        """The averages, ready for JSON."""
        return {
            "n_examples": len(self.answers),
            "avg_score": round(self.average_score, 4),
            "parts": {name: round(value, 4) for name, value in self.average_parts.items()},
            "tokens_per_sec": round(self.tokens_per_second, 1),
            "tokens": self.tokens,
            "unfinished": sum(not answer.completion.finished for answer in self.answers),
        }

    def details(self) -> list[dict[str, Any]]:
        """Every answer with its score, ready for JSON."""
        return [
            {
                "inputs": dict(answer.case.inputs),
                "score": answer.score.total,
                "parts": {name: part.value for name, part in answer.score.parts.items()},
                "faults": answer.score.faults,
                "tokens": answer.completion.tokens,
                "finished": answer.completion.finished,
                "answer": answer.completion.text,
            }
            for answer in self.answers
        ]


def read_cases(path: Path, role: Role) -> list[Case]:
    """The questions of a test set of conversations. Raises DatasetError, which names the first bad lines."""
    cases, faults = [], []
    for line, record in read_records(path):
        try:
            cases.append(_case(record, role))
        except ExampleError as fault:
            faults.append(f"{path}:{line}: {fault}")
    if faults:
        raise DatasetError("; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else ""))
    return cases


def run_benchmark(
    generator: Generator,
    cases: Sequence[Case],
    metric: Metric,
    *,
    sampling: Sampling = GREEDY,
    n_parallel: int = 1,
    progress: Progress = silent,
) -> Benchmark:
    """Asks all questions.

    n_parallel: how many at a time; only one at a time shows the speed that a single user sees.
    Raises CpuftError where the model fails to answer.
    """
    answers: dict[int, Answer] = {}
    requests = [Request(case.messages, sampling) for case in cases]
    for number, completion in generate_all(generator, requests, n_parallel):
        if isinstance(completion, CpuftError):
            raise completion
        case = cases[number]
        text = completion.text if sampling.schema is None else as_yaml(completion.text)
        answers[number] = Answer(case, completion, metric(text, case.inputs))
        score = mean(answer.score.total for answer in answers.values())
        progress("answers", len(answers), len(cases), "answer", score=f"{score:.3f}")
    return Benchmark(tuple(answers[number] for number in range(len(cases))))


def _case(record: Record | ExampleError, role: Role) -> Case:
    if isinstance(record, ExampleError):
        raise record
    if not isinstance(record, Chat) or not any(message["role"] == "user" for message in record.messages):
        raise ExampleError('expected a conversation {"messages": […]} in which a user asks')
    if record.tools:
        raise ExampleError("tools: found descriptions of tools, which models are asked without here: take them out")
    *question, answer = normalized(record.messages, Taken(developer=True))
    user = next(message["content"] for message in reversed(question) if message["role"] == "user")
    return Case(role.inputs_of(user), tuple(question), str(answer["content"]))
