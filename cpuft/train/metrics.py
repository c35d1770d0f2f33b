"""What a run tells about itself while it runs: numbers for programs, words for people, events for TensorBoard."""

import datetime
import json
import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from cpuft.errors import ResourceError
from cpuft.machine.disk import disk_errors
from cpuft.machine.memory import peak_rss_mb
from cpuft.train.run import RunFolder

Say = Callable[[str], None]


class Recorder:
    """A `Listener` that appends to a run's metrics.jsonl, training.log and TensorBoard events.

    Each line is whole once a call returns.

    first_step: the first step that will be recorded; TensorBoard forgets later ones of the run before it was resumed.
    say:        where the lines of the log go beside the file.
    """

    def __init__(self, run: RunFolder, n_epochs: int, n_steps: int, *, first_step: int, say: Say) -> None:
        self._run, self._n_epochs, self._n_steps, self._say = run, n_epochs, n_steps, say
        with disk_errors(run.path):
            run.tensorboard.mkdir(exist_ok=True)
            self._metrics = run.metrics.open("a", encoding="utf-8")
            self._log = run.log.open("a", encoding="utf-8")
            # EventsWriter, not SummaryWriter: it writes in this thread, so a full disk is an error that we can name.
            self._events = EventsWriter(str(run.tensorboard / "events"), filename_suffix=f".{os.getpid()}")
            self._event(first_step, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self._metrics, self._log, self._events):
            try:
                with disk_errors(self._run.path):
                    stream.close()
            except (OSError, ResourceError):
                if error is None:
                    raise

    def training(self, values: Mapping[str, Any]) -> None:
        """A logged step: step, epoch, loss, lr, grad_norm, tokens, tok_s; rss_mb is added."""
        self._record("train", {**values, "rss_mb": round(peak_rss_mb(), 1)})

    def validation(self, values: Mapping[str, Any]) -> None:
        """A validation: step, epoch, val_loss, val_tokens."""
        self._record("validation", values)

    def progress(self, epoch: int, step: int, loss: float, val_loss: float | None) -> None:
        """A line of the log on how far the run is."""
        validation = "" if val_loss is None else f" - Val Loss: {val_loss:.3f}"
        self.note(f"Epoch {epoch}/{self._n_epochs} - Step {step}/{self._n_steps} - Loss: {loss:.3f}{validation}")

    def note(self, line: str) -> None:
        """A line of the log. Raises what `say` raises once the line is in the file."""
        with disk_errors(self._run.log):
            self._log.write(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")
            self._log.flush()
        self._say(line)

    def sync(self) -> None:
        """Waits until the metrics are on the disk, as they must be before a checkpoint that follows them."""
        with disk_errors(self._run.metrics):
            os.fsync(self._metrics.fileno())

    def _record(self, group: str, values: Mapping[str, Any]) -> None:
        with disk_errors(self._run.metrics):
            self._metrics.write(json.dumps(dict(values)) + "\n")
            self._metrics.flush()
            for name, value in values.items():
                if name not in ("step", "epoch"):
                    self._event(values["step"], summary=scalar(f"{group}/{name}", value))
            self._events.flush()

    def _event(self, step: int, **content: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))
