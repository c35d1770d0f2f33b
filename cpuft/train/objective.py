"""What a run minimizes, one pass at a time."""

from typing import Protocol

from cpuft.engine import Batch, Engine, FloatArray
from cpuft.train.frozen import FrozenCache


class Objective(Protocol):
    """A sum of losses over the counted tokens of a pass, so that passes of any size add up to the same step."""

    def add_gradient(self, batch: Batch) -> tuple[float, int]:
        """The sum of losses and how many tokens it counts; the engine's gradient grows by that of the sum."""
        ...

    def loss(self, batch: Batch) -> tuple[float, int]:
        """The same sum and count, without dropout and without a gradient."""
        ...


class CrossEntropy:
    """-log p(token), in nats, over the supervised tokens.

    frozen: where the frozen layers' output is kept; None: they are computed each time.
    """

    def __init__(self, engine: Engine, frozen: FrozenCache | None = None) -> None:
        self._engine, self._frozen = engine, frozen

    def add_gradient(self, batch: Batch) -> tuple[float, int]:
        """See `Objective`."""
        return self._engine.forward_backward(batch, self._rows(batch))

    def loss(self, batch: Batch) -> tuple[float, int]:
        """See `Objective`."""
        return self._engine.forward(batch, self._rows(batch))

    def _rows(self, batch: Batch) -> FloatArray | None:
        return None if self._frozen is None else self._frozen.rows(batch)
