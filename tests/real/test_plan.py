"""What `cpuft plan` foretells of a run on a real model is what the run takes."""

import pytest

from tests.real.conftest import SETTINGS, Tuned

# Of the peak. The plan adds a margin of 2 %, and what Python takes differs by some MB from one process to the next.
MEMORY_WITHIN = 0.05


def test_the_peak_of_memory(tuned: Tuned) -> None:
    """The peak that was foretold is the peak that the kernel counted, to 5 %."""
    memory = tuned.plan["memory"]
    assert memory["fits"]
    assert memory["peak"] == pytest.approx(tuned.outcome["peak_rss_mb"] * 1e6, rel=MEMORY_WITHIN)
    passes = memory["parts"]["activations"] + memory["parts"]["workspace"]
    assert passes > 2 * MEMORY_WITHIN * memory["peak"], "the file and Python alone would hide a wrong figure"


def test_the_work(tuned: Tuned) -> None:
    """As many steps and tokens as were foretold, and as much on the disk for the adapter."""
    run = tuned.plan["run"]
    assert run["steps"] == tuned.outcome["n_steps"] == SETTINGS["training.max_steps"]
    assert run["tokens"] == tuned.outcome["n_tokens"]
    assert tuned.plan["disk"]["adapter"] == pytest.approx(tuned.adapter.stat().st_size, rel=0.01)
