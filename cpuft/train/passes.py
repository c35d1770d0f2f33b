"""Which passes of the engine a run consists of: a function of the configuration and the data alone."""

from collections.abc import Iterator, Sequence

import numpy as np

from cpuft.config.keys import Config
from cpuft.data.batches import dropout_keys, passes, step_examples, steps_per_epoch
from cpuft.data.examples import Example
from cpuft.engine import PASS_SIZE, Batch, Engine, SizeArray


class RunPasses:
    """The passes of a run over some examples.

    prefix_block: as in `cpuft.data.batches.passes`.
    """

    def __init__(
        self, config: Config, training: Sequence[Example], validation: Sequence[Example], *, prefix_block: int
    ) -> None:
        self.training, self.validation = training, validation
        self._config, self._dropout, self._block = config.training, config.lora.dropout > 0, prefix_block
        self.per_epoch = steps_per_epoch(len(training), self._config.examples_per_step)
        self.n_steps = self.per_epoch * self._config.num_epochs
        if self._config.max_steps is not None:
            self.n_steps = min(self.n_steps, self._config.max_steps)
        self.n_epochs = -(-self.n_steps // self.per_epoch)

    def of_step(self, step: int) -> tuple[int, list[Batch]]:
        """The epoch, from 0, of optimizer step `step`, from 1, and its passes."""
        config = self._config
        epoch, indices = step_examples(len(self.training), config.examples_per_step, config.seed, step)
        keys = dropout_keys(config.seed, epoch, indices) if self._dropout else None
        return epoch, passes(self.training, indices, config.tokens_per_pass, keys, prefix_block=self._block)

    def of_validation(self) -> list[Batch]:
        """The passes of a validation; none without data for it."""
        if not self.validation:
            return []
        everything = np.arange(len(self.validation))
        return passes(self.validation, everything, self._config.tokens_per_pass, prefix_block=self._block)

    def training_batches(self) -> Iterator[Batch]:
        """The passes of all steps."""
        for step in range(1, self.n_steps + 1):
            yield from self.of_step(step)[1]


def pass_sizes(run: RunPasses, engine: Engine, *, frozen: bool = False) -> SizeArray:
    """[passes, len(PASS_SIZE)]: the sizes of a run's training passes in their order, then those of one validation.

    frozen: the frozen layers' output is computed apart, for the examples of each of these passes: as many sizes more.
    """
    sizes = [engine.pass_size(batch, training=True) for batch in run.training_batches()]
    validation = run.of_validation()
    sizes += [engine.pass_size(batch, training=False) for batch in validation]
    if frozen:
        batches = [*run.training_batches(), *validation]
        sizes += [engine.pass_size(batch, training=False, frozen=True) for batch in batches]
    return np.array(sizes, np.int64).reshape(-1, len(PASS_SIZE))


def times_due(n_steps: int, every: int) -> int:
    """How often something happens that is due every so many steps, and at the last."""
    return -(-n_steps // every)
