"""What a run will take, before it starts: memory by part, time after a short calibration on this machine, and disk."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cpuft.chat.template import ANY_DAY
from cpuft.config.keys import Config, TrainJob
from cpuft.engine import Engine
from cpuft.gguf.reader import read_gguf
from cpuft.machine.cpu import CpuLoad
from cpuft.machine.progress import Progress, silent
from cpuft.plan.timing import TRAINING, Times, time_run
from cpuft.train.disk import folder_bytes
from cpuft.train.frozen import cached_bytes
from cpuft.train.initial import load_initial
from cpuft.train.inputs import Data, attach_for_training, load_data, require_layers, take_memory
from cpuft.train.memory import Fit, fit
from cpuft.train.run import precision_of

BUSY = 0.1  # from this share of the CPUs on, what other programs use is told; less is within what times vary by


@dataclass(frozen=True)
class Plan:
    """What a run will take. Sizes are bytes, times seconds.

    run:    what it consists of: steps, passes, tokens, examples.
    chosen: what was left to cpuft: activations and tokens_per_pass.
    disk:   by part.
    times:  None where the run does not fit, so that it cannot be tried.
    """

    run: Mapping[str, int]
    chosen: Mapping[str, Any]
    fitted: Fit
    times: Times | None
    disk: Mapping[str, int]
    notes: list[str]

    def document(self) -> dict[str, Any]:
        """The plan ready for JSON."""
        fitted, times = self.fitted, self.times
        return {
            "run": dict(self.run),
            "chosen": dict(self.chosen),
            "memory": {
                "parts": dict(fitted.memory.parts),
                "peak": fitted.memory.total,
                "limit": fitted.limit.n_bytes,
                "limit_source": fitted.limit.source,
                "fits": fitted.fits,
                "advice": None if fitted.fits or fitted.advice is None else dict(fitted.advice),
            },
            "time": None
            if times is None
            else {**vars(times), "total": times.total, "tok_s": self.run["tokens"] / times.training},
            "disk": {**self.disk, "total": sum(self.disk.values())},
            "notes": self.notes,
        }


def plan_run(job: TrainJob, progress: Progress = silent) -> Plan:
    """What `run_training` will take for this job. Nothing is left behind.

    Raises UserError as `run_training` does for inputs that cannot be used.
    """
    started = time.monotonic()
    initial = load_initial(job)
    config = dated(job.config if initial is None else initial.config)
    with Engine(job.model, threads=config.training.threads, precision=precision_of(config)) as engine:
        model = read_gguf(job.model)
        require_layers(config, engine, job.model)
        data = load_data(job, config, engine, model)
        return plan_data(job, config, engine, data, started, progress)


def plan_data(
    job: TrainJob, config: Config, engine: Engine, data: Data, started: float, progress: Progress = silent
) -> Plan:
    """The plan of a run over data that are there already; `started` is the monotonic time when their reading began."""
    fitted = fit(config, engine, lambda changed: data.passes(changed, engine), job.model)
    config, passes = fitted.config, data.passes(fitted.config, engine)
    times, notes = None, list(data.notes)
    if fitted.fits:
        shape = attach_for_training(config, engine, read_gguf(job.model), None)
        take_memory(engine, fitted)
        start = time.monotonic() - started
        load = CpuLoad()
        times = time_run(passes, config, engine, fitted.sizes, shape, start, progress)
        notes += _busy_notes(load.others())
    examples = data.training.examples
    run = {
        "examples": len(examples),
        "steps": passes.n_steps,
        "passes": int((fitted.sizes[:, TRAINING] == 1).sum()),
        "tokens": sum(batch.tokens.size for batch in passes.training_batches()),
    }
    chosen = {"activations": fitted.policy, "tokens_per_pass": config.training.tokens_per_pass}
    return Plan(run, chosen, fitted, times, _disk(config, fitted, data, engine, passes.n_steps), notes)


def _disk(config: Config, fitted: Fit, data: Data, engine: Engine, n_steps: int) -> dict[str, int]:
    disk = folder_bytes(config, fitted.memory, n_steps)
    if config.training.cache_frozen:
        validation = [] if data.validation is None else data.validation.examples
        disk["frozen_cache"] = cached_bytes([*data.training.examples, *validation], int(engine.facts["n_embd"]))
    return disk


def _busy_notes(others: float) -> list[str]:
    if others < BUSY:
        return []
    used = f"other programs used {others:.0%} of the CPUs while this was timed"
    return [f"{used}: the time is right if they go on like that, and shorter without them"]


def dated(config: Config) -> Config:
    """With a day for chat templates that ask for one."""
    return replace(config, training=replace(config.training, date=config.training.date or ANY_DAY.isoformat()))
