"""What a model lost by being tuned: how well it predicts text that has nothing to do with its task, and what it still
knows and can do when it is asked something else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpuft.evaluate.contender import Contender
from cpuft.evaluate.general_questions import SAMPLING, Question, QuestionChange, Reply, ask_questions, share_right
from cpuft.evaluate.neutral_text import TextChange, TextLoss, compare_text, text_loss
from cpuft.evaluate.result import MADE_BY, UNMEASURED, Result, origin
from cpuft.machine.progress import Progress, silent, titled


@dataclass(frozen=True)
class Forgetting:
    """A tuned model beside its base, where it was not tuned."""

    base: Contender
    tuned: Contender
    text: TextChange
    questions: QuestionChange

    def result(self, text: Path, n_parallel: int) -> Result:
        """What a result file holds. text: the file of the neutral passages."""
        models = {
            self.base.name: _entry(self.base, self.text.base, self.questions.base),
            self.tuned.name: _entry(self.tuned, self.text.tuned, self.questions.tuned),
        }
        section = {
            "base": self.base.name,
            "tuned": self.tuned.name,
            "text": self.text.facts(),
            "questions": self.questions.facts(),
        }
        made = {**origin(text, len(self.text.base.losses), SAMPLING), "n_parallel": n_parallel}
        return Result(models, {"forgetting": section, MADE_BY: made})


def measure_forgetting(
    base: Contender,
    tuned: Contender,
    passages: Sequence[str],
    questions: Sequence[Question],
    *,
    n_parallel: int,
    threads: int = 0,
    answers: Path | None = None,
    progress: Progress = silent,
) -> Forgetting:
    """Lets both models read the passages, then answer the questions, one model after the other.

    Both must be files that cpuft itself runs. answers: as `Contender.open` takes it.
    Raises ModelError, AdapterError, ResourceError, or what the server raises.
    """
    before, after = (_loss(one, passages, threads, progress) for one in (base, tuned))
    text = compare_text(before, after, tuned.name)
    replies = []
    for one in (base, tuned):
        with one.open(n_parallel, threads=threads, answers=answers) as generator:
            told = titled(progress, f"{one.name}: questions")
            replies.append(ask_questions(generator, questions, n_parallel=n_parallel, progress=told))
    return Forgetting(base, tuned, text, QuestionChange(*replies))


def _loss(contender: Contender, passages: Sequence[str], threads: int, progress: Progress) -> TextLoss:
    told = titled(progress, f"{contender.name}: neutral text")
    assert contender.asked.path is not None
    return text_loss(contender.asked.path, contender.adapter, passages, threads=threads, progress=told)


def _entry(contender: Contender, loss: TextLoss, replies: Sequence[Reply]) -> dict[str, Any]:
    right = share_right(replies)
    return {
        "avg_score": round(right.value, 4),
        "interval": right.facts(),
        "n_examples": right.n,
        "tokens": sum(reply.tokens for reply in replies),
        **UNMEASURED,
        "val_loss": round(loss.mean, 5),
        "perplexity": round(loss.perplexity, 4),
        "digest": contender.asked.digest,
        "adapter_digest": contender.adapter_digest,
        "answers": [reply.facts() for reply in replies],
    }
