"""The training loop.

A step of the optimizer sees batch_size x gradient_accumulation_steps examples. The engine returns sums of losses and
counts of tokens, and divides once a step, so nothing depends on how the examples were grouped into passes.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cpuft.config.keys import TrainJob
from cpuft.engine import Engine
from cpuft.errors import ConfigError, EngineError, ModelError
from cpuft.machine.memory import peak_rss_mb
from cpuft.machine.progress import Progress, silent, unfailing
from cpuft.train import checkpoint
from cpuft.train.checkpoint import State, Window
from cpuft.train.initial import load_initial
from cpuft.train.inputs import Inputs, load_inputs
from cpuft.train.interrupt import StopRequest
from cpuft.train.listener import Listener
from cpuft.train.metrics import Recorder, Say
from cpuft.train.objective import CrossEntropy, Objective
from cpuft.train.run import RunFolder, precision_of
from cpuft.train.schedule import learning_rate

TITLE = "Training"


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    ended: Literal["complete", "early", "interrupted"]
    adapter: Path | None  # the best one; None where the run was interrupted before it had one
    step: int
    n_steps: int
    best_step: int
    best_loss: float | None  # of the validation data, in nats per token
    n_tokens: int
    seconds: float  # of this process in the loop, validation and checkpoints included
    tok_s: float  # of this process in optimizer steps
    peak_rss_mb: float


def run_training(job: TrainJob, *, say: Say = print, progress: Progress = silent) -> Outcome:
    """Trains an adapter as `job` says; `say` gets the lines of the log.

    Raises UserError: before anything is written, or later with the last checkpoint in place.
    """
    run, progress = RunFolder(job.output), unfailing(progress)
    run.require(resume=job.resume, overwrite=job.overwrite)
    initial = load_initial(job)
    config = run.settled(job.config if initial is None else initial.config, resume=job.resume)
    with Engine(job.model, threads=config.training.threads, precision=precision_of(config)) as engine:
        inputs = load_inputs(job, config, engine, initial, progress)
        with run.opened(resume=job.resume, overwrite=job.overwrite) as notes, StopRequest() as stop:
            state = State()
            if job.resume:
                found, passed_over = checkpoint.newest(run.checkpoints)
                notes += passed_over
                if found is not None:
                    checkpoint.check_fingerprints(run.path, found.fingerprints, inputs.fingerprints)
                    checkpoint.restore(found.path, engine)
                    state = found.state
                notes.append(f"Resumed after step {state.step}" if found else "No checkpoint yet: begun at step 1")
            run.begin(inputs.config, state.step)
            objective = CrossEntropy(engine, inputs.frozen)
            if inputs.frozen is not None:
                inputs.frozen.progress = progress
            n_epochs, n_steps = inputs.passes.n_epochs, inputs.passes.n_steps
            with Recorder(run, n_epochs, n_steps, first_step=state.step + 1, say=say) as recorder:
                outcome = Trainer(run, inputs, objective, state, stop, [recorder], notes).train(progress)
    if outcome.ended != "interrupted":
        from cpuft.train.plot import plot_losses  # not at the top: matplotlib takes a second and 40 MB to load

        plot_losses(run)  # the engine's memory is free again
    return outcome


class Trainer:
    """A run that is ready to go on after step `state.step`.

    objective: what is minimized over the passes of `inputs`.
    listeners: who hears of it, in their order.
    notes:     what they hear at first, beside what the run is.
    """

    def __init__(
        self,
        run: RunFolder,
        inputs: Inputs,
        objective: Objective,
        state: State,
        stop: StopRequest,
        listeners: Sequence[Listener],
        notes: Sequence[str] = (),
    ) -> None:
        self.folder, self.config, self.inputs, self.state, self.stop = run, inputs.config.training, inputs, state, stop
        self.objective, self.listeners, self.notes = objective, listeners, notes
        self.saved_step = state.step  # of the last checkpoint, 0 where there is none
        self._failed: set[int] = set()  # listeners that were passed over
        self.engine, self.passes = inputs.engine, inputs.passes
        self.n_steps = self.passes.n_steps
        self.validation = self.passes.of_validation()
        self.n_tokens, self.seconds = 0, 0.0  # of this process's optimizer steps

    def train(self, progress: Progress = silent) -> Outcome:
        """Goes on to the last step, to an early stop or to an interruption."""
        started, state = time.monotonic(), self.state
        for line in self._introduction():
            self._note(line)
        progress(TITLE, state.step, self.n_steps, "step")
        while not (self._is_last() or self._is_early_stop() or self.stop.requested):
            epoch, rate, loss, grad_norm = self._optimizer_step()
            self._record(epoch, rate, grad_norm)
            if self._is_due(self.config.save_steps) or self._is_early_stop() or self.stop.requested:
                self._save()
            facts = {"loss": f"{loss:.3f}", "tok_s": f"{self.n_tokens / self.seconds:.0f}"}
            progress(TITLE, state.step, self.n_steps, "step", **facts)
        if self.saved_step < state.step:  # the signal came after the question above
            self._save()
        interrupted = not (self._is_last() or self._is_early_stop())
        if not interrupted:
            self._finish()
        return Outcome(
            ended="interrupted" if interrupted else "complete" if self._is_last() else "early",
            adapter=self.folder.adapter if self.folder.adapter.exists() else None,
            step=state.step,
            n_steps=self.n_steps,
            best_step=state.best_step or state.step,
            best_loss=state.best_loss,
            n_tokens=state.n_tokens,
            seconds=time.monotonic() - started,
            tok_s=self.n_tokens / self.seconds if self.n_tokens else 0.0,
            peak_rss_mb=peak_rss_mb(),
        )

    def _optimizer_step(self) -> tuple[int, float, float, float]:
        """Returns the epoch (from 1), the learning rate, the mean loss and the gradient's norm of the next step."""
        config, step, started = self.config, self.state.step + 1, time.monotonic()
        loss, n_supervised, n_tokens = 0.0, 0, 0
        epoch, batches = self.passes.of_step(step)
        for batch in batches:
            pass_loss, pass_supervised = self.objective.add_gradient(batch)
            loss += pass_loss
            n_supervised += pass_supervised
            n_tokens += batch.tokens.size
        if not math.isfinite(loss):
            raise self._diverged(step, f"the loss is {loss}")
        rate = learning_rate(step, self.n_steps, config)
        try:
            grad_norm = self.engine.step(
                step=step,
                learning_rate=rate,
                beta1=config.adam_beta1,
                beta2=config.adam_beta2,
                epsilon=config.adam_epsilon,
                weight_decay=config.weight_decay,
                max_grad_norm=config.max_grad_norm,
            )
        except (EngineError, ModelError) as error:
            if np.isfinite(self.engine.gradients).all():
                raise
            raise self._diverged(step, "the gradient is not finite") from error
        seconds = time.monotonic() - started
        self.state.step, self.state.n_tokens = step, self.state.n_tokens + n_tokens
        self.state.window.add(loss, n_supervised, n_tokens, seconds)
        self.n_tokens, self.seconds = self.n_tokens + n_tokens, self.seconds + seconds
        return epoch + 1, rate, loss / n_supervised, grad_norm

    def _record(self, epoch: int, rate: float, grad_norm: float) -> None:
        """Logs and validates where this step is due for it, and always at the last."""
        state, window, validation_loss = self.state, self.state.window, None
        logs = self._is_due(self.config.logging_steps)
        loss, where = window.loss / window.n_supervised, {"step": state.step, "epoch": epoch}
        if logs:
            speed = {"tokens": state.n_tokens, "tok_s": round(window.n_tokens / window.seconds, 1)}
            values = {**where, "loss": loss, "lr": rate, "grad_norm": grad_norm, **speed}
            self._tell(lambda listener: listener.training(values))
            state.window = Window()
        if self.validation and self._is_due(self.config.eval_steps):
            validation_loss, n_supervised = self._validate()
            found = {**where, "val_loss": validation_loss, "val_tokens": n_supervised}
            self._tell(lambda listener: listener.validation(found))
        if logs or validation_loss is not None:
            self._tell(lambda listener: listener.progress(epoch, state.step, loss, validation_loss))

    def _validate(self) -> tuple[float, int]:
        """Mean loss in nats and number of tokens of the validation data; keeps the adapter if it is the best so far."""
        results = [self.objective.loss(batch) for batch in self.validation]
        n_supervised = sum(n for _, n in results)
        loss = sum(loss for loss, _ in results) / n_supervised
        if not math.isfinite(loss):
            raise self._diverged(self.state.step, f"the validation loss is {loss}")
        state, best = self.state, self.state.best_loss
        improved = best is None or loss < best - self.config.early_stopping_threshold
        state.validations_since_best = 0 if improved else state.validations_since_best + 1
        if best is None or loss < best:
            state.best_step, state.best_loss = state.step, loss
            checkpoint.save_adapter(self.folder.adapter, self.engine, self.inputs.shape)
        return loss, n_supervised

    def _tell(self, what: Callable[[Listener], None]) -> None:
        """Lets every listener hear something; one that cannot, such as a closed terminal, ends no run."""
        for listener in self.listeners:
            try:
                what(listener)
            except (OSError, ValueError) as error:
                if id(listener) not in self._failed:
                    self._failed.add(id(listener))
                    self._note(f"Who listens can no longer be told ({error}): training goes on")

    def _note(self, line: str) -> None:
        self._tell(lambda listener: listener.note(line))

    def _save(self) -> None:
        self._tell(lambda listener: listener.sync())
        checkpoint.save(
            self.folder.checkpoints,
            self.engine,
            self.state,
            self.inputs.fingerprints,
            self.inputs.shape,
            limit=self.config.save_total_limit,
        )
        self.saved_step = self.state.step

    def _finish(self) -> None:
        if not self.validation:
            checkpoint.save_adapter(self.folder.adapter, self.engine, self.inputs.shape)

    def _is_last(self) -> bool:
        return self.state.step >= self.n_steps

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self._is_last()

    def _is_early_stop(self) -> bool:
        return 0 < self.config.early_stopping_patience <= self.state.validations_since_best

    def _diverged(self, step: int, what: str) -> ConfigError:
        last = self.saved_step
        kept = f"the checkpoint of step {last} is kept" if last else "there is no checkpoint yet"
        return ConfigError(
            f"step {step}: {what}, so training stopped ({kept}): lower training.learning_rate "
            f"(now {self.config.learning_rate:g}) or raise training.warmup_steps (now {self.config.warmup_steps})"
        )

    def _introduction(self) -> list[str]:
        """What the log begins with."""
        facts, validation = self.engine.facts, self.inputs.validation
        model = f"{facts['architecture']}, {facts['n_params'] / 1e6:,.1f} M parameters"
        arithmetic = f"{facts['isa']}, {facts['precision']}, {facts['n_threads']} threads"
        lines = [
            f"Model: {model}, an adapter of {self.engine.parameters.size / 1e6:,.2f} M; {arithmetic}",
            f"Training data: {self.inputs.training.size}",
            f"Validation data: {'none' if validation is None else validation.size}",
            f"Steps: {self.n_steps} of {self.config.examples_per_step} examples",
            *self.inputs.notes,
        ]
        if self.config.warmup_steps >= self.n_steps:
            lines.append(f"The warm-up of {self.config.warmup_steps} steps is not over when training ends")
        return [*lines, *self.notes]
