"""What a run works on: the model with an adapter attached, and the datasets as its tokens, all checked."""

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cpuft.adapters.adapter import adapter_name
from cpuft.config.keys import Config, TrainJob
from cpuft.data.batches import epoch_order
from cpuft.data.dataset import Dataset, formatter_of, load_dataset
from cpuft.data.examples import Example
from cpuft.engine import Engine
from cpuft.errors import AdapterError
from cpuft.gguf.reader import Gguf, read_gguf
from cpuft.machine.files import file_digest
from cpuft.machine.progress import Progress, silent
from cpuft.train.checkpoint import AdapterShape, put_adapter
from cpuft.train.disk import require_room
from cpuft.train.frozen import FrozenCache, open_frozen, require_frozen_layers
from cpuft.train.initial import InitialAdapter
from cpuft.train.memory import Fit, fit, moments, require_fit
from cpuft.train.passes import RunPasses


@dataclass(frozen=True)
class Inputs:
    """A run's model and data.

    config: as the run goes, with fewer tokens_per_pass than given where max_ram asks for that.
    passes: of the engine, whose memory is reserved.
    frozen: the frozen layers' output on disk, None where it is computed in every pass.
    fingerprints: digests of all that a resumed run must be given again.
    notes: what a user should know about how the datasets were read, and where the frozen layers' output is kept.
    """

    engine: Engine
    config: Config
    training: Dataset
    validation: Dataset | None
    passes: RunPasses
    shape: AdapterShape
    frozen: FrozenCache | None
    fingerprints: Mapping[str, str]
    notes: list[str]


@dataclass(frozen=True)
class Data:
    """The examples of a run as a model's tokens, and what a user should know about how they were read."""

    training: Dataset
    validation: Dataset | None
    notes: list[str]

    def passes(self, config: Config, engine: Engine) -> RunPasses:
        """The passes that a run over these examples has."""
        validation = [] if self.validation is None else self.validation.examples
        return RunPasses(config, self.training.examples, validation, prefix_block=int(engine.facts["prefix_block"]))


def load_data(job: TrainJob, config: Config, engine: Engine, model: Gguf) -> Data:
    """Reads and tokenizes the datasets. Raises DatasetError or ModelError."""
    assert config.training.date is not None
    formatter = formatter_of(model, engine, datetime.date.fromisoformat(config.training.date))
    most, limit = min(
        (config.training.max_seq_length, "training.max_seq_length"),
        (int(engine.facts["n_ctx_train"]), "the model's context length"),
    )
    load = partial(load_dataset, formatter=formatter, max_length=most, limit=limit, truncate=config.training.truncate)
    training, validation = load(job.train), None if job.val is None else load(job.val)
    notes = list(formatter.notes)
    for dataset in filter(None, (training, validation)):
        if dataset.n_truncated:
            notes.append(f"{dataset.path}: {dataset.n_truncated} examples were cut to {most} tokens ({limit})")
    if validation is not None and (n_shared := _n_shared(training, validation)):
        notes.append(f"{n_shared} of the validation examples are in the training data, too: val_loss looks too good")
    return Data(training, validation, notes)


def load_inputs(
    job: TrainJob,
    config: Config,
    engine: Engine,
    initial: InitialAdapter | None = None,
    progress: Progress = silent,
) -> Inputs:
    """Reads the datasets, attaches an adapter to the engine, fresh or with the values of `initial`, and reserves
    the memory of the run.

    Raises ConfigError, DatasetError, AdapterError, ModelError or ResourceError.
    """
    model = read_gguf(job.model)
    require_layers(config, engine, job.model)
    data = load_data(job, config, engine, model)
    fitted = fit(config, engine, lambda changed: data.passes(changed, engine), job.model, resume=job.resume)
    require_fit(fitted)
    config, passes = fitted.config, data.passes(fitted.config, engine)
    require_room(job.output, config, fitted.memory, passes.n_steps)
    shape = attach_for_training(config, engine, model, initial)
    take_memory(engine, fitted)
    training, validation, notes = data.training, data.validation, data.notes
    fingerprints = {"model": file_digest(job.model, progress), "training data": _digest(training)}
    if validation is not None:
        fingerprints["validation data"] = _digest(validation)
    if initial is not None:
        fingerprints["initial adapter"] = initial.digest
        notes.append(initial.note)
    if config.training.tokens_per_pass != job.config.training.tokens_per_pass and not job.resume:
        notes.append(f"Passes of {config.training.tokens_per_pass} tokens, to stay within training.max_ram")
    frozen = None
    if config.training.cache_frozen:
        frozen = open_frozen(engine, model, first_adapted_layer(config, engine))
        notes.append(frozen.require(_seen(config, training) + ([] if validation is None else validation.examples)))
    return Inputs(engine, config, training, validation, passes, shape, frozen, fingerprints, notes)


def require_layers(config: Config, engine: Engine, model: Path) -> None:
    """Raises AdapterError or ConfigError where lora.layers does not suit the model or training.cache_frozen."""
    n_layer = int(engine.facts["n_layer"])
    if config.lora.layers is not None and config.lora.layers > n_layer:
        raise AdapterError(f"lora.layers is {config.lora.layers}, but {model} has {n_layer} layers")
    require_frozen_layers(config, n_layer)


def take_memory(engine: Engine, fitted: Fit) -> None:
    """Sets the policy that was chosen and reserves what the passes take, for an engine that has its adapter."""
    engine.set_activations(fitted.policy)
    engine.reserve(fitted.sizes)


def first_adapted_layer(config: Config, engine: Engine) -> int:
    """The layers from this one on have the adapter; those before it are frozen."""
    return 0 if config.lora.layers is None else int(engine.facts["n_layer"]) - config.lora.layers


def attach_for_training(config: Config, engine: Engine, model: Gguf, initial: InitialAdapter | None) -> AdapterShape:
    """Attaches the adapter that a run trains. Raises AdapterError."""
    lora = config.lora
    engine.adapter_init(
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=lora.targets_in(engine.facts["targets"]),
        first_layer=first_adapted_layer(config, engine),
        seed=config.training.seed,
        moments=moments(config),
    )
    if initial is not None:
        put_adapter(initial.adapter, initial.path, engine)
    return AdapterShape(lora.alpha, model.architecture, {"general.name": adapter_name(model)})


def _seen(config: Config, training: Dataset) -> list[Example]:
    """The training examples that a run will see: all of them, unless max_steps ends it in the first epoch."""
    order = epoch_order(len(training.examples), config.training.seed, epoch=0)
    most = len(order) if config.training.max_steps is None else config.training.max_steps
    return [training.examples[i] for i in order[: most * config.training.examples_per_step]]


def _n_shared(training: Dataset, validation: Dataset) -> int:
    """How many validation examples the model is trained on, token for token."""
    known = {example.tokens.tobytes() for example in training.examples}
    return sum(example.tokens.tobytes() in known for example in validation.examples)


def _digest(dataset: Dataset) -> str:
    """Of the tokens and of what is supervised: files that give the same training have the same digest."""
    digest = hashlib.sha256()
    for example in dataset.examples:
        digest.update(example.tokens.size.to_bytes(8, "little"))
        digest.update(example.tokens.tobytes())
        digest.update(example.supervised.tobytes())
    return digest.hexdigest()
