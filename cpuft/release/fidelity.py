"""Whether a merged file still is what was trained: its predictions and its weights beside base + adapter."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cpuft.adapters.adapter import Adapter, check_base, read_adapter
from cpuft.adapters.attachment import attach_for_inference
from cpuft.chat.template import ANY_DAY
from cpuft.data.dataset import formatter_of, load_dataset
from cpuft.data.examples import Example
from cpuft.engine import Engine
from cpuft.errors import AdapterError
from cpuft.gguf.description import merges_of
from cpuft.gguf.reader import Gguf, read_gguf
from cpuft.machine.progress import Progress, silent
from cpuft.release.divergence import Divergence, ReferenceLogits
from cpuft.release.survival import Survival, require_same_weights, survivals

# The merged file may be so far from base + adapter, in KL, as a share of how far the base alone is: beyond that,
# rounding undoes a part of the tuning that one can see.
MAX_KL_SHARE = 0.10
# So much of the adapter's change must be left in the weights.
MIN_SURVIVED = 0.90
PRECISION = "f32"  # what is measured is the file's rounding, not the engine's


@dataclass(frozen=True)
class FidelityReport:
    """Everything that `cpuft fidelity` says.

    reference: base + adapter, from which all else is measured.
    survived:  what is left of the adapter's change in all weights together, and `tensors` in each of them.
    """

    merged_path: Path
    n_examples: int
    reference: Divergence
    base: Divergence
    merged: Divergence
    survived: Survival
    tensors: tuple[Survival, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The report, ready for JSON."""
        models = {"base_and_adapter": self.reference, "base": self.base, "merged": self.merged}
        return {
            "merged_path": str(self.merged_path),
            "n_examples": self.n_examples,
            "n_tokens": self.reference.n_tokens,
            **{name: divergence_json(divergence) for name, divergence in models.items()},
            "kl_share": kl_share(self.merged, self.base),
            "survived": asdict(self.survived),
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "warnings": list(self.warnings),
        }


def measure_fidelity(
    model: Path,
    adapter: Path,
    merged: Path,
    validation: Path,
    *,
    limit: int | None = None,
    threads: int = 0,
    progress: Progress = silent,
) -> FidelityReport:
    """Compares a merged file with base + adapter on validation data (its first `limit` examples) and in its weights.

    Raises ModelError, AdapterError (another base or another adapter), DatasetError or ResourceError.
    """
    base, target, lora = read_gguf(model), read_gguf(merged), read_adapter(adapter)
    check_base(lora, base, adapter)
    require_same_weights(base, target)
    _require_merge_of(adapter, base, target)
    tensors, survived = survivals(base, lora, target, progress)
    with adapted_engine(model, lora, threads) as engine:
        examples = validation_examples(base, engine, validation, limit)
        with ReferenceLogits(engine, examples, progress) as reference:
            alone = compare_base(engine, reference)
            engine.close()
            divergence = compare_file(merged, reference, threads)
            own = reference.own
    return FidelityReport(
        merged_path=merged,
        n_examples=len(examples),
        reference=own,
        base=alone,
        merged=divergence,
        survived=survived,
        tensors=tuple(tensors),
        warnings=tuple(_warnings(divergence, alone, survived, target)),
    )


def require_measurable(model: Path, adapter: Path, validation: Path, *, threads: int = 0) -> None:
    """Raises what `measure_fidelity` would, as far as that is known before there is a merged file."""
    base, lora = read_gguf(model), read_adapter(adapter)
    check_base(lora, base, adapter)
    with adapted_engine(model, lora, threads) as engine:
        validation_examples(base, engine, validation, None)


@contextmanager
def adapted_engine(model: Path, adapter: Adapter, threads: int) -> Iterator[Engine]:
    """The base in float32 with the adapter on it."""
    with Engine(model, threads=threads, precision=PRECISION) as engine:
        attach_for_inference(engine, adapter)
        yield engine


def validation_examples(base: Gguf, engine: Engine, path: Path, limit: int | None) -> list[Example]:
    """The first `limit` examples of a data set, as the base's chat template writes them on any day."""
    formatter = formatter_of(base, engine, ANY_DAY)
    most = int(engine.facts["n_ctx_train"])
    dataset = load_dataset(path, formatter, max_length=most, limit="the model's context length", truncate=False)
    return dataset.examples[:limit]


def compare_base(engine: Engine, reference: ReferenceLogits) -> Divergence:
    """How far the base alone is from base + adapter. The engine's adapter is gone after it."""
    engine.parameters[...] = 0
    return reference.compare(engine, "base")


def compare_file(path: Path, reference: ReferenceLogits, threads: int) -> Divergence:
    """How far a model file is from base + adapter."""
    with Engine(path, threads=threads, precision=PRECISION) as engine:
        return reference.compare(engine, path.name)


def kl_share(model: Divergence, base: Divergence) -> float | None:
    """How far a model is from base + adapter, where the base alone is 1 away; None where tuning changed nothing."""
    return model.kl / base.kl if base.kl > 0 else None


def divergence_json(divergence: Divergence) -> dict[str, float]:
    """A divergence, ready for JSON."""
    return {"perplexity": divergence.perplexity, **asdict(divergence)}


def _require_merge_of(adapter: Path, base: Gguf, merged: Gguf) -> None:
    """Refuses a file of which it is written that another adapter was merged into it last."""
    merges = merges_of(merged)
    if len(merges) <= len(merges_of(base)):
        return  # merged by a program that writes nothing down
    digest = hashlib.sha256(adapter.read_bytes()).hexdigest()
    if merges[-1].get("adapter_sha256") != digest:
        raise AdapterError(
            f"{merged.path}: another adapter than {adapter} was merged into it (sha256 "
            f"{str(merges[-1].get('adapter_sha256'))[:12]}…, not {digest[:12]}…): give the one that was"
        )


def _warnings(merged: Divergence, base: Divergence, survived: Survival, file: Gguf) -> list[str]:
    """What a user should worry about, with the way out."""
    found, share = [], kl_share(merged, base)
    if share is not None and share > MAX_KL_SHARE:
        found.append(
            f"the merged file's predictions are {share:.0%} as far from base + adapter as the base's own are "
            f"(KL {merged.kl:.4f} of {base.kl:.4f} nats, limit {MAX_KL_SHARE:.0%})"
        )
    if survived.survived < MIN_SURVIVED:
        found.append(f"{survived.survived:.0%} of the learned change is left in the weights (limit {MIN_SURVIVED:.0%})")
    if found:
        weighed = "quantize.imatrix.file" in file.fields
        advice = ["a type with more bits (--type q8_0)", *([] if weighed else ["an importance matrix (--imatrix)"])]
        found.append(f"try {' or '.join(advice)}, or keep the adapter in a file of its own beside the base")
    return found
