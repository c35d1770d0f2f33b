"""Who hears of a run while it goes on: its records on the disk, a dashboard, a test."""

from collections.abc import Mapping
from typing import Any, Protocol


class Listener(Protocol):
    """Hears what the training loop has to say, in the order in which it happens.

    An OSError or ValueError of a listener is passed over, and said once: a closed terminal or a lost connection ends no
    run. A CpuftError ends it, such as that the run's own records cannot be written.
    """

    def note(self, line: str) -> None:
        """A sentence for people."""
        ...

    def training(self, values: Mapping[str, Any]) -> None:
        """A logged step: step, epoch, loss (mean since the last one), lr, grad_norm, tokens so far, tok_s."""
        ...

    def validation(self, values: Mapping[str, Any]) -> None:
        """A validation: step, epoch, val_loss, val_tokens."""
        ...

    def progress(self, epoch: int, step: int, loss: float, val_loss: float | None) -> None:
        """How far the run is, after a logged step or a validation."""
        ...

    def sync(self) -> None:
        """A checkpoint follows: what was heard before it must last as long as it does."""
        ...
