"""Looks for the prompt and the examples with which a model answers best as a role: MIPROv2 or GEPA, both of DSPy."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dspy

from cpuft.backends.generator import GREEDY, Generator
from cpuft.errors import BackendError, CpuftError, ServerError, UserError
from cpuft.roles import Role, Score
from cpuft.roles.yaml_grammar import held_to
from cpuft.synth.filter import Criteria
from cpuft.synth.language_model import ANSWER, LanguageModel, RoleProgram
from cpuft.synth.program import Program
from cpuft.synth.records import RoleRecord
from cpuft.synth.search import REFLECTED, Found, Search, Trial

EXAMPLES_SHOWN = 2  # of the data to a model that describes them, at a time: whole documents are long
PROPOSAL_TEMPERATURE = 0.7  # small models write nonsense at DSPy's 1.0


def optimize(
    role: Role,
    generator: Generator,
    name: str,
    train: Sequence[RoleRecord],
    validation: Sequence[RoleRecord],
    search: Search,
    log: Path,
) -> Found:
    """Searches. The same seed, data and model ask the same questions, so with remembered answers it can be resumed.

    train: what examples are taken from. validation: on what they are tried. log: gets what DSPy says.
    Raises BackendError where the model can no longer be asked.
    """
    facts: dict[str, Any] = {"seed": search.seed}
    held = held_to(role.schema, generator) if search.constrained else GREEDY
    task = LanguageModel(generator, name, max_tokens=search.max_tokens, held=held, **facts)
    proposer = LanguageModel(generator, name, temperature=PROPOSAL_TEMPERATURE, **facts)
    student = RoleProgram(role, Program(role.prompt), as_json=held.schema is not None)
    judge = _Judge(role, (task, proposer))
    judge.try_once(train[0])
    run = _gepa if search.optimizer == "gepa" else _mipro
    best, trials, ended = student, list[Trial](), None
    with _quiet(log), dspy.context(lm=task, adapter=dspy.JSONAdapter(), disable_history=True):
        try:
            best, trials = run(judge, student, task, proposer, _examples(train), _examples(validation), search)
        except Exception as error:  # DSPy wraps what the model or the metric raised in errors of its own
            ended = error
    for failure in filter(None, (judge.failure, task.failure, proposer.failure, ended)):
        raise _told(failure) from failure
    return Found(best.program, tuple(trials))


def _mipro(
    judge: "_Judge",
    student: RoleProgram,
    task: LanguageModel,
    proposer: LanguageModel,
    train: list[dspy.Example],
    validation: list[dspy.Example],
    search: Search,
) -> tuple[RoleProgram, list[Trial]]:
    """MIPROv2 (Opsahl-Ong et al. 2024): proposes prompts and sets of examples, and searches pairs of them by TPE."""
    teleprompter = dspy.MIPROv2(
        metric=judge.score,
        prompt_model=proposer,
        task_model=task,
        max_bootstrapped_demos=search.demos,
        max_labeled_demos=search.demos,
        auto=None,
        num_candidates=search.candidates,
        num_threads=search.n_parallel,
        max_errors=10**6,  # a failure of the model itself is kept by LanguageModel
        seed=search.seed,
        init_temperature=PROPOSAL_TEMPERATURE,
        metric_threshold=Criteria.min_score,
    )
    best = teleprompter.compile(
        student,
        trainset=train,
        valset=validation,
        num_trials=search.trials,
        minibatch=False,
        view_data_batch_size=EXAMPLES_SHOWN,
    )
    return best, [_trial(number, log) for number, log in sorted(best.trial_logs.items())]


def _trial(number: int, log: dict[str, Any]) -> Trial:
    score = round(float(log["full_eval_score"]) / 100.0, 4)  # DSPy's are percent
    return Trial(number, score, log.get("0_predictor_instruction"), log.get("0_predictor_demos"))


def _gepa(
    judge: "_Judge",
    student: RoleProgram,
    task: LanguageModel,  # noqa: ARG001 - the model in DSPy's context
    proposer: LanguageModel,
    train: list[dspy.Example],
    validation: list[dspy.Example],
    search: Search,
) -> tuple[RoleProgram, list[Trial]]:
    """GEPA (Agrawal et al. 2025): the model reads what is wrong with answers and writes a better prompt."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DSPy calls it experimental
        teleprompter = dspy.GEPA(
            metric=judge.feedback,
            max_metric_calls=search.requests(len(train), len(validation)),
            reflection_minibatch_size=REFLECTED,
            reflection_lm=proposer,
            num_threads=search.n_parallel,
            track_stats=True,
            seed=search.seed,
        )
        best = teleprompter.compile(student, trainset=train, valset=validation)
    scores = best.detailed_results.val_aggregate_scores
    return best, [Trial(number, round(float(score), 4), number - 1) for number, score in enumerate(scores, 1)]


def _told(failure: Exception) -> Exception:
    """A failure in the words of who runs the search."""
    if not isinstance(failure, BackendError):
        return failure
    kind = ServerError if isinstance(failure, UserError) else BackendError
    return kind(f"the search ended early: {failure}; run it again to go on")


class _Judge:
    """The role's metric for DSPy, which takes any failure of it for a bad answer: so it is kept here, and ends all."""

    def __init__(self, role: Role, models: Sequence[LanguageModel]) -> None:
        self._role, self._models = role, models
        self.failure: CpuftError | None = None

    def try_once(self, record: RoleRecord) -> None:
        """Raises what the metric raises, before a model is asked."""
        self._role.metric(record.answer, record.inputs)

    def score(self, example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> float:
        """From 0 to 1."""
        return self._score(example, prediction).total

    def feedback(self, example: dspy.Example, prediction: dspy.Prediction, *_: object) -> dspy.Prediction:
        """The score with its sentences, which GEPA gives to the model."""
        score = self._score(example, prediction)
        said = ". ".join(score.faults) or "Nothing is wrong with this answer"
        return dspy.Prediction(score=score.total, feedback=f"{said}.")

    def _score(self, example: dspy.Example, prediction: dspy.Prediction) -> Score:
        inputs = {name: str(example[name]) for name in self._role.sources}
        try:
            return self._role.metric(prediction[ANSWER], inputs)
        except CpuftError as error:
            self.failure = error
            for model in self._models:
                model.stop(error)
            raise


def _examples(records: Sequence[RoleRecord]) -> list[dspy.Example]:
    return [dspy.Example(**one.inputs, **{ANSWER: one.answer}).with_inputs(*one.inputs) for one in records]


@contextlib.contextmanager
def _quiet(path: Path) -> Iterator[None]:
    """What DSPy logs, prints and draws goes to a file: the command draws its own bar."""
    logger = logging.getLogger("dspy")
    handlers, propagate, level = logger.handlers, logger.propagate, logger.level
    with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
        logger.handlers, logger.propagate = [logging.StreamHandler(stream)], False
        logger.setLevel(logging.INFO)
        try:
            with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
                yield
        finally:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
