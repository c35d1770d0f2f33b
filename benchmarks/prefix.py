"""What it saves that examples of a pass compute the beginning that they share, such as a system prompt, once."""

import datetime
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.options import json_option, kernel_options, repeats_option
from benchmarks.report import Row, print_rows, rates
from cpuft import demo
from cpuft.config.keys import TrainConfig
from cpuft.data.batches import passes, step_examples
from cpuft.data.dataset import formatter_of, load_dataset
from cpuft.data.examples import Example
from cpuft.engine import Engine
from cpuft.gguf.reader import read_gguf

# How the examples of a step go through the model: as in training; as there, but no two of them begin alike, because
# each has another first token; one by one.
WAYS = ("shared", "distinct", "alone")
COLUMNS = ("prefix", "examples", "way", "passes", "tokens", "computed", "tok_s", "tok_s_min", "tok_s_max", "ratio")
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("prefix")
@click.option("--model", type=FILE, default=demo.BASE_MODEL, show_default="the demo's")
@click.option("--data", type=FILE, default=demo.TRAIN, show_default="the demo's training examples")
@click.option(
    "--prefix",
    "prefixes",
    type=click.IntRange(0),
    multiple=True,
    default=(0, 128, 512),
    help="Random tokens in front of every example, for a longer system prompt; repeatedly.",
)
@click.option(
    "--examples", "counts", type=click.IntRange(1), multiple=True, default=(4, 16), help="Of a step; repeatedly."
)
@click.option("--tokens-per-pass", type=click.IntRange(1), default=TrainConfig().tokens_per_pass, show_default=True)
@kernel_options()
@repeats_option
@json_option
def main(
    model: Path,
    data: Path,
    prefixes: tuple[int, ...],
    counts: tuple[int, ...],
    tokens_per_pass: int,
    isa: str | None,
    precision: str | None,
    threads: int,
    repeats: int,
    as_json: bool,
) -> None:
    """What it saves that examples of a pass compute the beginning that they share once.

    Steps of the first epoch, each in three ways in turn: shared, as training takes it; distinct, the same with a first
    token that no other example has, so that nothing is shared; alone, an example a pass. tokens: what a step is given,
    computed: what the engine computes of it, both means; tok_s: tokens given a second; ratio: over "distinct". Prefixes
    are shared in whole blocks of attention, 64 tokens: the demo's own system prompt is shorter.

    \b
    Examples:
      cpuft bench prefix --json
      cpuft bench prefix --prefix 0 --examples 8 --tokens-per-pass 4096 --model model.gguf --data train.jsonl
    """
    with Engine(model, threads=threads, isa=isa, precision=precision) as engine:
        engine.adapter_init(rank=16, alpha=32.0)
        examples = _examples(engine, model, data)
        rows = (
            {"prefix": prefix, **row}
            for prefix, count in product(prefixes, counts)
            for row in measure(engine, _after(prefix, examples, engine), count, tokens_per_pass, repeats)
        )
        print_rows("prefix", rows, COLUMNS, as_json)


@dataclass
class Totals:
    """Of the steps that were taken in one way."""

    passes: int = 0
    tokens: int = 0
    computed: int = 0
    seconds_a_token: list[float] = field(default_factory=list)  # of each step


def measure(
    engine: Engine, examples: Sequence[Example], per_step: int, tokens_per_pass: int, repeats: int
) -> Iterator[Row]:
    """One row a way: `repeats` steps of per_step examples, after a warm-up."""
    totals = {way: Totals() for way in WAYS}
    for number in range(repeats + 1):
        _, indices = step_examples(len(examples), per_step, seed=0, step=number + 1)
        for way in WAYS:
            _take_step(engine, examples, indices, way, tokens_per_pass, Totals() if number == 0 else totals[way])
    speed = {way: rates(1.0, total.seconds_a_token, "tok_s") for way, total in totals.items()}
    for way, total in totals.items():
        yield {
            "examples": per_step,
            "way": way,
            "tokens_per_pass": tokens_per_pass,
            "isa": engine.facts["isa"],
            "precision": engine.facts["precision"],
            "threads": engine.facts["n_threads"],
            "repeats": repeats,
            "passes": total.passes / repeats,
            "tokens": total.tokens / repeats,
            "computed": total.computed / repeats,
            **speed[way],
            "ratio": round(speed[way]["tok_s"] / speed["distinct"]["tok_s"], 3),
        }


def _take_step(
    engine: Engine,
    examples: Sequence[Example],
    indices: npt.NDArray[np.int64],
    way: str,
    tokens_per_pass: int,
    totals: Totals,
) -> None:
    """One step of the optimizer, whose learning rate of 0 leaves the adapter as it is for the next way."""
    chosen = [examples[i] for i in indices]
    if way == "distinct":
        chosen = [replace(example, tokens=_beginning_with(i, example.tokens)) for i, example in enumerate(chosen)]
    most = 1 if way == "alone" else tokens_per_pass
    batches = passes(chosen, np.arange(len(chosen)), most, prefix_block=int(engine.facts["prefix_block"]))
    start, computed = time.perf_counter(), 0
    for batch in batches:
        engine.forward_backward(batch)
        computed += engine.pass_tokens
    engine.step(step=1, learning_rate=0.0)
    tokens = sum(example.tokens.size for example in chosen)
    totals.seconds_a_token.append((time.perf_counter() - start) / tokens)
    totals.passes += len(batches)
    totals.tokens += tokens
    totals.computed += computed


def _beginning_with(token: int, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    return np.concatenate([np.array([token], np.int32), tokens[1:]])


def _after(n_prefix: int, examples: Sequence[Example], engine: Engine) -> list[Example]:
    """The examples with the same n_prefix tokens in front, none of them supervised."""
    prefix = np.random.default_rng(0).integers(0, engine.facts["n_vocab"], n_prefix).astype(np.int32)
    silent = np.zeros(n_prefix, np.uint8)
    return [
        replace(
            example,
            tokens=np.concatenate([prefix, example.tokens]),
            supervised=np.concatenate([silent, example.supervised]),
        )
        for example in examples
    ]


def _examples(engine: Engine, model: Path, data: Path) -> list[Example]:
    formatter = formatter_of(read_gguf(model), engine, datetime.date.today())
    most = int(engine.facts["n_ctx_train"])
    return load_dataset(data, formatter, max_length=most, limit="the model's context length", truncate=False).examples


if __name__ == "__main__":
    from cpuft.cli.main import cli

    cli(["bench", "prefix", *sys.argv[1:]], prog_name="cpuft")
