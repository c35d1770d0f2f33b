"""The learning rate of each optimizer step."""

import math

from cpuft.config.keys import TrainConfig


def learning_rate(step: int, n_steps: int, config: TrainConfig) -> float:
    """The learning rate of step `step`, from 1 to n_steps.

    It rises linearly and reaches its peak in the last warm-up step. After that it stays, or falls along a line or half
    a cosine that would reach zero in the step after the last.
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    done = (step - 1 - config.warmup_steps) / (n_steps - config.warmup_steps)
    factors = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return config.learning_rate * factors[config.lr_scheduler_type]
