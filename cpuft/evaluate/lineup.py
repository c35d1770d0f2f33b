"""Several models, one after another, over the same questions: how good each is, how fast, and in how much memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cpuft.errors import BackendError, ModelError, OllamaError
from cpuft.evaluate.answers import Asking, answer_all
from cpuft.evaluate.contender import Contender
from cpuft.evaluate.result import SECTIONS, model_entry
from cpuft.evaluate.speed import QUESTIONS, speed_of
from cpuft.machine.progress import Progress, silent
from cpuft.sources.source import OLLAMA

# What one model's failure looks like; anything else would happen to the next one, too.
FAULTS = (ModelError, OllamaError, BackendError)


@dataclass(frozen=True)
class Measured:
    """What became of the models.

    entries: of each that answered, its part of a result file. failed: of each other, why.
    """

    entries: Mapping[str, Mapping[str, Any]]
    failed: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Lineup:
    """How models are measured.

    asking:  by what quality is measured, with many requests in flight. Speed is measured apart, one request at a time.
    n_speed: questions by which it is; 0: it is not.
    """

    asking: Asking
    n_speed: int = QUESTIONS
    progress: Progress = field(default=silent)

    def measure(self, contenders: Sequence[Contender]) -> Measured:
        """Measures all of them; one that fails does not stop the others."""
        entries, failed = {}, {}
        for contender in contenders:
            try:
                entries[contender.name] = self.entry(contender)
            except FAULTS as error:
                failed[contender.name] = str(error)
        return Measured(entries, failed)

    def entry(self, contender: Contender) -> dict[str, Any]:
        """One model's part of a result file. Raises one of FAULTS where it cannot be measured."""
        answered = answer_all(contender, self.asking, self.progress)
        speed = speed_of(contender, self.asking, self.n_speed, self.progress)
        return model_entry(contender, self.asking, answered, speed=speed)


def short_name(reference: str) -> str:
    """What a model is called in results: as the specification names those of Ollama, without where they come from."""
    name = reference.removeprefix(OLLAMA)
    return f"./{name}" if name in SECTIONS else name
