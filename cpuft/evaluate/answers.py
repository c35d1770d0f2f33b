"""Lets the models of an evaluation answer the same questions in the same way."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cpuft.backends.generator import GREEDY, PARALLEL, Generator, Sampling
from cpuft.backends.llama_server import CONTEXT
from cpuft.errors import ConfigError
from cpuft.evaluate.benchmark import Benchmark, Case, run_benchmark
from cpuft.evaluate.contender import Contender
from cpuft.machine.progress import Progress, silent, titled
from cpuft.roles import Role
from cpuft.roles.yaml_grammar import held_to


@dataclass(frozen=True)
class Asking:
    """The questions of an evaluation, and how they are asked.

    role:        its metric scores the answers. constrained: models are held to its schema, where the backend can.
    n_seeds:     how often each question is asked, with seeds from `sampling.seed` on.
    n_parallel:  requests in flight: llama.cpp's answers depend on it, so all models of an evaluation have the same.
    n_ctx:       tokens of context for each. threads: 0 takes llama.cpp's choice.
    answers:     the file that remembers answers; None takes that of all evaluations.
    """

    role: Role
    cases: Sequence[Case]
    sampling: Sampling = GREEDY
    constrained: bool = False
    n_seeds: int = 1
    n_parallel: int = PARALLEL
    n_ctx: int = CONTEXT
    threads: int = 0
    answers: Path | None = None

    def require(self) -> None:
        """Raises ConfigError where several seeds would give one answer."""
        if self.n_seeds > 1 and self.sampling.temperature == 0:
            raise ConfigError(
                "--seeds is for answers that are drawn: at temperature 0 all of them are the same: give --temperature, "
                "or leave --seeds out"
            )


def answer_all(contender: Contender, asking: Asking, progress: Progress = silent) -> tuple[Benchmark, ...]:
    """A model's answers to all questions, once for each seed. One that was stopped goes on where it was.

    Raises CpuftError where the model cannot be asked.
    """
    threads = 0 if contender.asked.path is None else asking.threads
    with contender.open(asking.n_parallel, threads=threads, n_ctx=asking.n_ctx, answers=asking.answers) as generator:
        return tuple(_answers(contender, generator, asking, i, progress) for i in range(asking.n_seeds))


def _answers(contender: Contender, generator: Generator, asking: Asking, number: int, progress: Progress) -> Benchmark:
    role, sampling = asking.role, replace(asking.sampling, seed=asking.sampling.seed + number)
    if asking.constrained:
        sampling = held_to(role.schema, generator, sampling)
    cases = [contender.case(case, role, as_json=sampling.schema is not None) for case in asking.cases]
    title = contender.name if asking.n_seeds == 1 else f"{contender.name}, seed {sampling.seed}"
    return run_benchmark(
        generator, cases, role.metric, sampling=sampling, n_parallel=asking.n_parallel,
        progress=titled(progress, title),
    )  # fmt: skip
