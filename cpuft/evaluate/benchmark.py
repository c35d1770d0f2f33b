"""Lets a model answer the concepts of a test set and scores every answer with a role's metric."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from cpuft.backends.generator import GREEDY, Completion, Generator, Message, Sampling
from cpuft.data.records import Chat, read_records
from cpuft.errors import DatasetError

CONCEPT_PREFIX = "Concept:"


class Score(Protocol):
    """What a role's metric says about one answer; 0 is worst and 1 best."""

    @property
    def total(self) -> float:
        """The weighted mean of all criteria."""
        ...

    @property
    def yaml_valid(self) -> bool:
        """Whether the answer is YAML at all."""
        ...

    @property
    def completeness(self) -> float:
        """The share of the wanted fields that are there."""
        ...


Metric = Callable[[str, str], Score]  # (answer, concept)


@dataclass(frozen=True)
class Case:
    """A question of a test set."""

    concept: str
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
        return self._mean(lambda answer: answer.score.total)

    @property
    def yaml_valid_rate(self) -> float:
        """Share of answers that are valid YAML."""
        return self._mean(lambda answer: float(answer.score.yaml_valid))

    @property
    def completeness(self) -> float:
        """Mean share of the wanted fields."""
        return self._mean(lambda answer: answer.score.completeness)

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
            "yaml_valid_rate": round(self.yaml_valid_rate, 4),
            "completeness": round(self.completeness, 4),
            "tokens_per_sec": round(self.tokens_per_second, 1),
            "tokens": self.tokens,
            "unfinished": sum(not answer.completion.finished for answer in self.answers),
        }

    def details(self) -> list[dict[str, Any]]:
        """Every answer with its score, ready for JSON."""
        return [
            {
                "concept": answer.case.concept,
                "score": answer.score.total,
                "yaml_valid": bool(answer.score.yaml_valid),
                "completeness": answer.score.completeness,
                "tokens": answer.completion.tokens,
                "finished": answer.completion.finished,
                "answer": answer.completion.text,
            }
            for answer in self.answers
        ]

    def _mean(self, value: Callable[[Answer], float]) -> float:
        return sum(map(value, self.answers)) / len(self.answers)


def read_cases(path: Path) -> list[Case]:
    """The questions of a test set of conversations. Raises DatasetError, which names the first bad lines."""
    cases, faults = [], []
    for line, record in read_records(path):
        if isinstance(record, Chat) and any(message["role"] == "user" for message in record.messages):
            cases.append(_case(record))
        else:
            wanted = 'expected a conversation {"messages": […]} in which a user asks'
            faults.append(f"{path}:{line}: {record if isinstance(record, Exception) else wanted}")
    if faults:
        raise DatasetError("; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else ""))
    return cases


def run_benchmark(
    generator: Generator,
    cases: Sequence[Case],
    metric: Metric,
    *,
    sampling: Sampling = GREEDY,
    progress: Callable[[Answer], object] | None = None,
) -> Benchmark:
    """Asks all questions, one at a time, so that the speed is what a single user sees."""
    answers = []
    for case in cases:
        completion = generator.generate(case.messages, sampling)
        answers.append(Answer(case, completion, metric(completion.text, case.concept)))
        if progress is not None:
            progress(answers[-1])
    return Benchmark(tuple(answers))


def _case(chat: Chat) -> Case:
    *question, answer = chat.messages
    messages = tuple(cast(Message, {"role": m["role"], "content": m["content"]}) for m in question)
    concept = next(m["content"] for m in reversed(messages) if m["role"] == "user")
    return Case(concept.removeprefix(CONCEPT_PREFIX).strip(), messages, str(answer["content"]))
