"""Proves the learning rate of each step, for each schedule, against values worked out by hand."""

from dataclasses import replace

import pytest

from cpuft.config.keys import TrainConfig
from cpuft.train.schedule import learning_rate

CONFIG = TrainConfig(learning_rate=1.0, warmup_steps=2)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
    ],
)
def test_schedules(schedule: str, rates: list[float]) -> None:
    config = replace(CONFIG, lr_scheduler_type=schedule)
    assert [learning_rate(step, 6, config) for step in range(1, 7)] == pytest.approx(rates)


def test_no_warm_up_begins_at_the_peak() -> None:
    config = replace(CONFIG, warmup_steps=0)
    assert [learning_rate(step, 4, config) for step in range(1, 5)] == [1, 0.75, 0.5, 0.25]


def test_a_warm_up_longer_than_the_run() -> None:
    config = replace(CONFIG, warmup_steps=8)
    assert [learning_rate(step, 4, config) for step in range(1, 5)] == [0.125, 0.25, 0.375, 0.5]
