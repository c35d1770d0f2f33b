"""What `cpuft plan` foretells of a run on a real model is what the run takes."""

from cpuft.gguf.reader import read_gguf
from tests.real.conftest import SETTINGS, Tuned

# Of the peak: a margin of 2 % is in the plan, and what Python holds differs from one process to the next.
MOST_TOO_MUCH = 0.10


def test_the_peak_of_memory(tuned: Tuned) -> None:
    """The run takes no more than was foretold, and at most a tenth less than that without the table of embeddings.

    The plan counts all of the file. Where the head has a matrix of its own, only the rows of the data's tokens are ever
    read of that table, so the rest of it is foretold and not taken.
    """
    memory, tensors = tuned.plan["memory"], read_gguf(tuned.model).tensors
    assert "output.weight" in tensors
    foretold, peak = memory["peak"], tuned.outcome["peak_rss_mb"] * 1e6
    assert memory["fits"]
    assert foretold - tensors["token_embd.weight"].size <= (1 + MOST_TOO_MUCH) * peak
    assert peak <= foretold
    passes = memory["parts"]["activations"] + memory["parts"]["workspace"]
    assert passes > 1.5 * MOST_TOO_MUCH * peak, "the file and Python alone would hide a wrong figure"


def test_the_work(tuned: Tuned) -> None:
    """As many steps and tokens as were foretold, and as much on the disk for the adapter."""
    run = tuned.plan["run"]
    assert run["steps"] == tuned.outcome["n_steps"] == SETTINGS["training.max_steps"]
    assert run["tokens"] == tuned.outcome["n_tokens"]
    assert abs(tuned.plan["disk"]["adapter"] - tuned.adapter.stat().st_size) < 0.01 * tuned.adapter.stat().st_size
