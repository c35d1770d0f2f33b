"""Compares the ways to give a tuned model to others, and writes the merged file that a stated rule picks.

The ways: the adapter beside its quantized base, and one merged file of each type that is asked for, quantized with and
without an importance matrix. Each is measured on the same data; one merged file at a time is on the disk, and the best.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cpuft.backends.generator import Sampling
from cpuft.backends.llama_server import LlamaServer
from cpuft.data.calibration import importance_matrix
from cpuft.errors import ConfigError, ResourceError
from cpuft.evaluate.benchmark import Case, Metric, read_cases, run_benchmark
from cpuft.evaluate.divergence import Divergence, ReferenceLogits
from cpuft.evaluate.fidelity import (
    MAX_KL_SHARE,
    adapted_engine,
    compare_base,
    compare_file,
    divergence_json,
    validation_examples,
)
from cpuft.files import disk_errors, scratch_folder, sync
from cpuft.models.adapter import Adapter, check_base, read_adapter
from cpuft.models.gguf import Gguf, read_gguf
from cpuft.models.imatrix import ImportanceMatrix
from cpuft.models.merge import merge, merged_size, needs_importance, refuse_overwriting

UNWEIGHED = ("f32", "f16", "bf16", "q8_0")  # ggml writes these without a look at an importance matrix
# Where there is no test set, speed is that of the answers to this, so often.
SPEED_QUESTION, SPEED_ANSWERS = "Explain in some sentences why the sky is blue.", 3


@dataclass(frozen=True)
class ShipJob:
    """Everything that `cpuft ship` is told.

    imatrix:        an importance matrix, or data to compute it from; None: every type is tried without only.
    test, metric:   a test set and what scores its answers; None: no score.
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
    metric: Metric | None = None
    max_kl: float = 0.05
    max_kl_share: float = MAX_KL_SHARE
    max_score_loss: float = 0.02
    max_tokens: int = 1024
    limit: int | None = None
    threads: int = 0


@dataclass(frozen=True)
class Way:
    """One way out and what it is worth.

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
    """All ways, first the base alone and the adapter beside it; `picked` is None where no file is good enough."""

    ways: tuple[Way, ...]
    picked: Way | None
    rule: str
    output: Path

    def as_json(self) -> dict[str, Any]:
        """The report, ready for JSON."""
        ways = [
            {
                "name": way.name,
                "file_type": way.file_type,
                "imatrix": way.imatrix,
                "bytes": way.n_bytes,
                **divergence_json(way.divergence),
                "score": way.score,
                "tokens_per_second": way.tokens_per_second,
            }
            for way in self.ways
        ]
        picked = None if self.picked is None else self.picked.name
        return {
            "ways": ways,
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

    def accepts(self, way: Way) -> bool:
        good = self.min_score is None or (way.score is not None and way.score >= self.min_score)
        return way.divergence.kl <= self.max_kl and good

    def __str__(self) -> str:
        score = "" if self.min_score is None else f" and a score of at least {self.min_score:.3f}"
        return f"the smallest merged file with a KL of at most {self.max_kl:.4f} nats{score}"


def compare_ways(job: ShipJob) -> ShipReport:
    """Measures all ways out, and writes the picked file to job.output, whole or not at all.

    Raises UserError before anything is measured: files that do not belong together, an impossible type, a disk without
    room for it all, another process that makes the same file.
    """
    base, lora = read_gguf(job.model), read_adapter(job.adapter)
    check_base(lora, base, job.adapter)
    inputs = (job.model, job.adapter, job.validation, job.test, job.imatrix)
    refuse_overwriting(job.output, [path for path in inputs if path is not None and path.exists()])
    with scratch_folder(job.output) as folder:
        return _compared(job, base, lora, folder)


def _compared(job: ShipJob, base: Gguf, lora: Adapter, folder: Path) -> ShipReport:
    """The report; merged files lie in `folder` meanwhile."""
    cases = None if job.test is None else read_cases(job.test)
    candidates = _candidates(job, base)
    _refuse_full_disk(job.output, candidates)
    with adapted_engine(job.model, lora, job.threads) as engine:
        examples = validation_examples(base, engine, job.validation, job.limit)
        with ReferenceLogits(engine, examples) as reference:
            alone = compare_base(engine, reference)
            engine.close()
            adapter_bytes = base.file_size + job.adapter.stat().st_size
            ways = [
                Way("base", None, False, base.file_size, alone, *_served(job, cases, job.model)),
                Way("base + adapter", None, False, adapter_bytes, reference.own, *_served(job, cases, job.model, True)),
            ]
            rule = _rule(job, ways[0], ways[1])
            picked = _try_all(job, candidates, reference, cases, rule, ways, folder)
    return ShipReport(tuple(ways), picked, str(rule), job.output)


def _candidates(job: ShipJob, base: Gguf) -> list[_Candidate]:
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
        matrix = importance_matrix(job.imatrix, job.model, adapter=job.adapter, threads=job.threads)
    found = []
    for file_type in dict.fromkeys(job.types):
        if file_type in without:
            found.append(_Candidate(file_type, None, merged_size(base, file_type)))
        if matrix is not None and file_type not in UNWEIGHED:
            found.append(_Candidate(file_type, matrix, merged_size(base, file_type, matrix)))
    return found


def _refuse_full_disk(output: Path, candidates: Sequence[_Candidate]) -> None:
    """The best file so far and the one that is tried are on the disk at the same time."""
    needed = sum(sorted(candidate.n_bytes for candidate in candidates)[-2:])
    free = shutil.disk_usage(output.parent).free
    if free < needed:
        raise ResourceError(
            f"{output}: comparing the types needs {needed / 1e6:,.0f} MB and that disk has {free / 1e6:,.0f} MB free: "
            "free some, or leave the largest types out"
        )


def _rule(job: ShipJob, base: Way, adapted: Way) -> _Rule:
    kl = base.divergence.kl
    max_kl = min(job.max_kl, job.max_kl_share * kl) if kl > 0 else job.max_kl
    return _Rule(max_kl, None if adapted.score is None else max(0.0, adapted.score - job.max_score_loss))


def _try_all(
    job: ShipJob,
    candidates: Sequence[_Candidate],
    reference: ReferenceLogits,
    cases: Sequence[Case] | None,
    rule: _Rule,
    ways: list[Way],
    folder: Path,
) -> Way | None:
    """Adds all candidates to `ways` and moves the best to the output."""
    best: tuple[tuple[int, float], Way, Path] | None = None
    with disk_errors(job.output):
        for i, candidate in enumerate(candidates):
            path = folder / f"{i}-{candidate.file_type}.gguf"
            way = _tried(job, candidate, path, reference, cases)
            ways.append(way)
            # Of the weights alone: a note of an importance matrix must not make a file of the same type the larger one.
            order = read_gguf(path).weight_bytes, way.divergence.kl
            if rule.accepts(way) and (best is None or order < best[0]):
                if best is not None:
                    best[2].unlink()
                best = order, way, path
            else:
                path.unlink()
        if best is None:
            return None
        best[2].replace(job.output)
        sync(job.output.parent)
        return best[1]


def _tried(
    job: ShipJob, candidate: _Candidate, path: Path, reference: ReferenceLogits, cases: Sequence[Case] | None
) -> Way:
    """Merges into `path` and measures what came out."""
    with tqdm(unit="B", unit_scale=True, desc=candidate.name, leave=False, disable=None, delay=1) as bar:
        merge(
            job.model,
            path,
            adapter_path=job.adapter,
            file_type=candidate.file_type,
            imatrix=candidate.imatrix,
            threads=job.threads,
            progress=lambda done, _: bar.update(done),
        )
    divergence = compare_file(path, reference, job.threads)
    weighed = candidate.imatrix is not None
    size = path.stat().st_size
    return Way(candidate.name, candidate.file_type, weighed, size, divergence, *_served(job, cases, path))


def _served(
    job: ShipJob, cases: Sequence[Case] | None, model: Path, with_adapter: bool = False
) -> tuple[float | None, float]:
    """(score, generated tokens a second) of llama-server's answers; the score is None where there is no test set."""
    adapter = job.adapter if with_adapter else None
    sampling = Sampling(max_tokens=job.max_tokens)
    with LlamaServer(model, adapter=adapter, threads=job.threads) as server:
        if cases is not None and job.metric is not None:
            with tqdm(total=len(cases), desc=f"{model.name}: answers", leave=False, disable=None) as bar:
                result = run_benchmark(server, cases, job.metric, sampling=sampling, progress=lambda _: bar.update())
            return result.average_score, result.tokens_per_second
        answers = [
            server.generate([{"role": "user", "content": SPEED_QUESTION}], sampling) for _ in range(SPEED_ANSWERS)
        ]
    seconds = sum(answer.seconds for answer in answers)
    return None, sum(answer.tokens for answer in answers) / seconds if seconds > 0 else 0.0
