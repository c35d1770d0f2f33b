"""Compares the ways to give a tuned model to others, and writes the merged file that a stated rule picks.

The variants: the adapter beside its quantized base, and one merged file of each type that is asked for, quantized
with and without an importance matrix. Each is measured on the same data; one merged file at a time is on the disk,
and the best.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cpuft.adapters.adapter import check_base, read_adapter
from cpuft.backends.generator import Generator, Sampling
from cpuft.backends.llama_server import LlamaServer
from cpuft.chat.message import Message
from cpuft.engine import Engine
from cpuft.errors import ConfigError
from cpuft.evaluate.benchmark import Case, read_cases, run_benchmark
from cpuft.gguf.reader import Gguf, read_gguf
from cpuft.machine.disk import disk_errors, require_space
from cpuft.machine.files import require_regular, sync_folder
from cpuft.machine.locks import scratch_folder
from cpuft.machine.progress import Progress, silent, titled
from cpuft.release.divergence import Divergence, ReferenceLogits
from cpuft.release.fidelity import (
    MAX_KL_SHARE,
    adapted_engine,
    compare_base,
    compare_file,
    divergence_json,
    validation_examples,
)
from cpuft.release.importance import ImportanceMatrix
from cpuft.release.importance_text import importance_matrix
from cpuft.release.merge import merge, merged_size, needs_importance, refuse_overwriting
from cpuft.roles import Role

UNWEIGHED = ("f32", "f16", "bf16", "q8_0")  # ggml writes these without a look at an importance matrix
# Where there is no test set, speed is that of the answers to this, so often.
SPEED_QUESTION, SPEED_ANSWERS = "Explain in some sentences why the sky is blue.", 3


class Serve(Protocol):
    """Starts what answers for a model file; `LlamaServer` is one."""

    def __call__(
        self, model: Path, *, adapter: Path | None = None, threads: int = 0
    ) -> AbstractContextManager[Generator]:
        """Returns what answers between entering and leaving it."""
        ...


@dataclass(frozen=True)
class ShipJob:
    """Everything that `cpuft ship` is told.

    imatrix:        an importance matrix, or data to compute it from; None: every type is tried without only.
    test, role:     a test set and the role whose metric scores its answers; None: no score.
    max_kl:         how far a merged file may be from base + adapter, in nats a token, and
    max_kl_share:   as a share of how far the base alone is from it; the smaller of the two counts.
    max_score_loss: by how much its score may be below that of the adapter beside its base.
    limit:          how many examples of the validation data count.
    """

    model: Path
    adapter: Path
    validation: Path
    output: Path
    types: tuple[str, ...] = ("q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16")
    imatrix: Path | None = None
    test: Path | None = None
    role: Role | None = None
    max_kl: float = 0.05
    max_kl_share: float = MAX_KL_SHARE
    max_score_loss: float = 0.02
    max_tokens: int = Sampling.max_tokens
    limit: int | None = None
    threads: int = 0


@dataclass(frozen=True)
class Variant:
    """A way to give the tuned model away and what it is worth.

    file_type:  None where nothing is merged.
    n_bytes:    of all its files.
    divergence: from base + adapter, in float32.
    score, tokens_per_second: of what llama-server answers with it, on this machine; score is None without a test set.
    """

    name: str
    file_type: str | None
    imatrix: bool
    n_bytes: int
    divergence: Divergence
    score: float | None
    tokens_per_second: float


@dataclass(frozen=True)
class ShipReport:
    """All variants, first the base alone and the adapter beside it; `picked` is None where no file is good enough."""

    variants: tuple[Variant, ...]
    picked: Variant | None
    rule: str
    output: Path

    def as_json(self) -> dict[str, Any]:
        """The report, ready for JSON."""
        variants = [
            {
                "name": variant.name,
                "file_type": variant.file_type,
                "imatrix": variant.imatrix,
                "bytes": variant.n_bytes,
                **divergence_json(variant.divergence),
                "score": variant.score,
                "tokens_per_second": variant.tokens_per_second,
            }
            for variant in self.variants
        ]
        picked = None if self.picked is None else self.picked.name
        return {
            "ways": variants,
            "rule": self.rule,
            "picked": picked,
            "output": None if picked is None else str(self.output),
        }


@dataclass(frozen=True)
class _Candidate:
    """A merged file to try, about how large it gets, and the matrix that quantizes it."""

    file_type: str
    imatrix: ImportanceMatrix | None
    n_bytes: int

    @property
    def name(self) -> str:
        return f"merged {self.file_type}{'' if self.imatrix is None else ' + imatrix'}"


@dataclass(frozen=True)
class _Rule:
    """When a merged file is good enough."""

    max_kl: float
    min_score: float | None

    def accepts(self, variant: Variant) -> bool:
        good = self.min_score is None or (variant.score is not None and variant.score >= self.min_score)
        return variant.divergence.kl <= self.max_kl and good

    def __str__(self) -> str:
        score = "" if self.min_score is None else f" and a score of at least {self.min_score:.3f}"
        return f"the smallest merged file with a KL of at most {self.max_kl:.4f} nats{score}"


def choose_release(job: ShipJob, progress: Progress = silent, serve: Serve = LlamaServer) -> ShipReport:
    """Measures all variants, and writes the picked file to job.output, whole or not at all.

    Raises UserError before anything is measured: files that do not belong together, an impossible type, a disk without
    room for it all, another process that makes the same file.

    serve: starts what answers for a model file, with an adapter or without.
    """
    base, lora = read_gguf(job.model), read_adapter(job.adapter)
    check_base(lora, base, job.adapter)
    inputs = (job.model, job.adapter, job.validation, job.test, job.imatrix)
    refuse_overwriting(job.output, [path for path in inputs if path is not None and path.exists()])
    output = require_regular(job.output, "the picked file")
    cases = None if job.test is None or job.role is None else read_cases(job.test, job.role)
    with scratch_folder(output) as folder:
        candidates = _candidates(job, base, progress)
        needed = sum(
            sorted(candidate.n_bytes for candidate in candidates)[-2:]
        )  # the best so far and one that is tried
        require_space(job.output, needed, "comparing the types", "free some, or leave the largest types out")
        with adapted_engine(job.model, lora, job.threads) as engine:
            examples = validation_examples(base, engine, job.validation, job.limit)
            with ReferenceLogits(engine, examples, progress) as reference:
                comparison = _Comparison(job, reference, cases, serve, progress, folder, output)
                unmerged = comparison.unmerged(engine, base)
                engine.close()
                rule = _rule(job, *unmerged)
                merged, picked = comparison.merged(candidates, rule)
    return ShipReport((*unmerged, *merged), picked, str(rule), job.output)


def _candidates(job: ShipJob, base: Gguf, progress: Progress) -> list[_Candidate]:
    """What will be tried: each type without an importance matrix where that is possible, and with it where given."""
    without = [file_type for file_type in job.types if not needs_importance(base, file_type)]
    if job.imatrix is None and len(without) < len(job.types):
        needing = next(file_type for file_type in job.types if file_type not in without)
        raise ConfigError(
            f"the type {needing} needs an importance matrix: give --imatrix with a file of llama-imatrix or with "
            "training data to compute it from, or leave the type out"
        )
    matrix = None
    if job.imatrix is not None:
        matrix = importance_matrix(job.imatrix, job.model, adapter=job.adapter, threads=job.threads, progress=progress)
    found = []
    for file_type in dict.fromkeys(job.types):
        if file_type in without:
            found.append(_Candidate(file_type, None, merged_size(base, file_type)))
        if matrix is not None and file_type not in UNWEIGHED:
            found.append(_Candidate(file_type, matrix, merged_size(base, file_type, matrix)))
    return found


def _rule(job: ShipJob, base: Variant, adapted: Variant) -> _Rule:
    kl = base.divergence.kl
    max_kl = min(job.max_kl, job.max_kl_share * kl) if kl > 0 else job.max_kl
    return _Rule(max_kl, None if adapted.score is None else max(0.0, adapted.score - job.max_score_loss))


@dataclass(frozen=True)
class _Comparison:
    """What all variants are measured with. Merged files lie in `folder` meanwhile, which is beside `output`."""

    job: ShipJob
    reference: ReferenceLogits
    cases: Sequence[Case] | None
    serve: Serve
    progress: Progress
    folder: Path
    output: Path

    def unmerged(self, engine: Engine, base: Gguf) -> tuple[Variant, Variant]:
        """The base alone, and the adapter beside it. The engine's adapter is gone after it."""
        job, alone = self.job, compare_base(engine, self.reference)
        together = base.file_size + job.adapter.stat().st_size
        return (
            Variant("base", None, False, base.file_size, alone, *self._answers(job.model, None)),
            Variant(
                "base + adapter", None, False, together, self.reference.own, *self._answers(job.model, job.adapter)
            ),
        )

    def merged(self, candidates: Sequence[_Candidate], rule: _Rule) -> tuple[list[Variant], Variant | None]:
        """All candidates, and the best, which is moved to the output."""
        variants: list[Variant] = []
        best: tuple[tuple[int, float], Variant, Path] | None = None
        with disk_errors(self.job.output):
            for i, candidate in enumerate(candidates):
                path = self.folder / f"{i}-{candidate.file_type}.gguf"
                variant = self._merge(candidate, path)
                variants.append(variant)
                # Of the weights alone: a note of an importance matrix must not make a file of the same type larger.
                order = read_gguf(path).weight_bytes, variant.divergence.kl
                if rule.accepts(variant) and (best is None or order < best[0]):
                    if best is not None:
                        best[2].unlink()
                    best = order, variant, path
                else:
                    path.unlink()
            if best is None:
                return variants, None
            best[2].replace(self.output)
            sync_folder(self.output.parent)
            return variants, best[1]

    def _merge(self, candidate: _Candidate, path: Path) -> Variant:
        """Merges into `path` and measures what came out."""
        merge(
            self.job.model,
            path,
            adapter_path=self.job.adapter,
            file_type=candidate.file_type,
            imatrix=candidate.imatrix,
            threads=self.job.threads,
            progress=titled(self.progress, candidate.name),
        )
        divergence, size = compare_file(path, self.reference, self.job.threads), path.stat().st_size
        weighed = candidate.imatrix is not None
        return Variant(candidate.name, candidate.file_type, weighed, size, divergence, *self._answers(path, None))

    def _answers(self, model: Path, adapter: Path | None) -> tuple[float | None, float]:
        """(score, generated tokens a second) of a model's answers; the score is None where there is no test set."""
        job, sampling = self.job, Sampling(max_tokens=self.job.max_tokens)
        with self.serve(model, adapter=adapter, threads=job.threads) as generator:
            if self.cases is not None and job.role is not None:
                told = titled(self.progress, f"{model.name}: answers")
                result = run_benchmark(generator, self.cases, job.role.metric, sampling=sampling, progress=told)
                return result.average_score, result.tokens_per_second
            question: Message = {"role": "user", "content": SPEED_QUESTION}
            answers = [generator.generate([question], sampling) for _ in range(SPEED_ANSWERS)]
        seconds = sum(answer.seconds for answer in answers)
        return None, sum(answer.tokens for answer in answers) / seconds if seconds > 0 else 0.0
