"""What it gains that a model writes examples for several concepts at a time: tokens a second, one beside many."""

import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.options import SHAPE_HELP, json_option, models_option
from benchmarks.real_models import MODELS, find_model
from benchmarks.report import Row, print_row
from benchmarks.shapes import SHAPES, model_file
from cpuft.backends.generator import GREEDY, Request, generate_all
from cpuft.backends.llama_server import CONTEXT, FIXED_ARGUMENTS, LlamaServer
from cpuft.chat.message import Completion
from cpuft.errors import CpuftError
from cpuft.gguf.reader import read_gguf
from cpuft.machine.cpu import cpu_model
from cpuft.roles import find_role
from cpuft.roles.yaml_grammar import held_to
from cpuft.synth.concepts import Concept, combine
from cpuft.synth.generation import SAMPLING, generate_records
from cpuft.synth.records import read_records

ROLE = find_role("ba")
BAR = 2.5  # what many in flight should gain over one
RANDOM_TOKENS = 64  # of an answer of random weights, which never comes to an end
THREADS = re.compile(r"n_threads = (\d+)")  # in llama-server's log


@dataclass(frozen=True)
class Work:
    """How a side is asked. in_flight: at a time, each in a slot of its own."""

    model: Path
    in_flight: int
    concepts: Sequence[Concept]
    max_tokens: int
    threads: int
    constrained: bool


@dataclass(frozen=True)
class Measured:
    """Of all answers together. threads: those that llama-server computes with; None where its log does not tell."""

    tokens: int
    seconds: float
    threads: int | None


@click.command("synth")
@click.option("--model", default=MODELS[-1], show_default=True, help="A GGUF's name or path.")
@click.option("--shape", type=click.Choice(list(SHAPES)), help=f"{SHAPE_HELP} In place of --model.")
@click.option("--base-type", default="q4_k_m", show_default=True, help="A file type of llama-quantize, for --shape.")
@models_option
@click.option("--parallel", type=click.IntRange(2, 64), default=16, show_default=True, help="Requests in flight.")
@click.option("--requests", type=click.IntRange(1), default=32, show_default=True, help="Concepts for them.")
@click.option("--alone", type=click.IntRange(1), default=4, show_default=True, help="Concepts for one in flight.")
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    help=f"Of an answer.  [default: {SAMPLING.max_tokens}, and {RANDOM_TOKENS} with --shape]",
)
@click.option("--unconstrained", is_flag=True, help="Do not hold answers to the role's schema.")
@click.option("--threads", type=click.IntRange(0), default=0, show_default=True, help="0: llama.cpp's choice.")
@click.option("--repeats", type=click.IntRange(2), default=2, show_default=True, help="Of both sides, in turn.")
@json_option
def main(model: str, shape: str | None, base_type: str, models: Path, as_json: bool, **options: Any) -> None:
    """Tokens a second of answers to the business analyst's concepts, with one request in flight and with many.

    As `cpuft data generate` asks: held to the role's schema, each answer scored and written to the disk. tok_s: tokens
    of all answers over the time on the clock, prompts included, the median of the repetitions with the slowest and the
    fastest. Each measurement has a llama-server of its own, whose slots have read the system prompt before. One in
    flight is asked fewer concepts, since it has no slots that stand empty at the end. Random weights (--shape) want
    what the schema refuses at nearly every token, which costs time of its own: see them with --unconstrained, too.

    \b
    Examples:
      cpuft bench synth --json
      cpuft bench synth --shape qwen2.5-3b --unconstrained
    """
    path = find_model(model) if shape is None else model_file(models, shape, base_type)
    options["max_tokens"] = options["max_tokens"] or (SAMPLING.max_tokens if shape is None else RANDOM_TOKENS)
    print_row("synth", compare(path, **options), as_json)


def compare(
    model: Path,
    *,
    parallel: int,
    requests: int,
    alone: int,
    max_tokens: int,
    unconstrained: bool,
    threads: int,
    repeats: int,
) -> Row:
    """Both sides' figures, from measurements in turn."""
    base = read_gguf(model)
    concepts = combine(ROLE, max(requests, alone), [], 0)
    many = Work(model, parallel, concepts[:requests], max_tokens, threads, not unconstrained)
    one = replace(many, in_flight=1, concepts=concepts[:alone])
    runs = [(measure(one), measure(many)) for _ in range(repeats)]
    ones, manys = ([pair[side] for pair in runs] for side in (0, 1))
    slow, fast = _rates("one", ones), _rates("many", manys)
    return {
        "model": model.stem,
        "cpu": cpu_model(),
        "threads": manys[0].threads,
        "slots": parallel,
        "slot_context": min(CONTEXT, base.integer(f"{base.architecture}.context_length", CONTEXT)),
        "cache": _cache(),
        "constrained": not unconstrained,
        "max_tokens": max_tokens,
        "repeats": repeats,
        "one_requests": len(one.concepts),
        **slow,
        "many_requests": len(many.concepts),
        **fast,
        "ratio": round(fast["many_tok_s"] / slow["one_tok_s"], 3),
        "bar": BAR,
    }


def measure(work: Work) -> Measured:
    """Asks everything once of a new server. Raises CpuftError where an answer does not come."""
    sampling = replace(SAMPLING, max_tokens=work.max_tokens)
    with tempfile.TemporaryDirectory() as name:
        output, log = Path(name) / "raw.jsonl", Path(name) / "server.log"
        with LlamaServer(work.model, n_parallel=work.in_flight, threads=work.threads, log=log) as server:
            _warm(server, work)
            began = time.perf_counter()
            done = generate_records(
                ROLE, server, work.concepts, output, model=work.model.name, sampling=sampling,
                constrained=work.constrained, n_parallel=work.in_flight,
            )  # fmt: skip
            seconds = time.perf_counter() - began
            found = THREADS.search(log.read_text(errors="replace"))
        if done.failed:
            raise CpuftError(f"{work.model}: {len(done.failed)} answers did not come: {done.failed[0]}")
        tokens = sum(int(record.facts["tokens"]) for record in read_records(output, ROLE))
    return Measured(tokens, seconds, int(found[1]) if found else None)


def _warm(server: LlamaServer, work: Work) -> None:
    """Lets every slot read the system prompt and the schema, as in all but the first moments of a long run."""
    system, user = ROLE.messages({next(iter(ROLE.sources)): "a shop"}, short=False)
    sampling = replace(GREEDY, max_tokens=2)
    request = Request([system, user], held_to(ROLE.schema, server, sampling) if work.constrained else sampling)
    for _, answer in generate_all(server, [request] * work.in_flight, work.in_flight):
        if not isinstance(answer, Completion):
            raise answer


def _rates(side: str, runs: Sequence[Measured]) -> Row:
    """Tokens, seconds and rates of a side, all under its name. Answers are drawn, so tokens differ from run to run."""
    ordered = sorted(run.tokens / run.seconds for run in runs)
    row = {"tok_s": statistics.median(ordered), "tok_s_min": ordered[0], "tok_s_max": ordered[-1]}
    tokens, seconds = sum(run.tokens for run in runs), sum(run.seconds for run in runs)
    return {f"{side}_tokens": tokens, f"{side}_seconds": round(seconds, 2)} | {
        f"{side}_{name}": round(value, 2) for name, value in row.items()
    }


def _cache() -> str:
    """The server's settings for prompts that it has read before: each slot keeps its own, and no others are kept."""
    at = FIXED_ARGUMENTS.index("--cache-ram")
    return f"a prompt a slot, {' '.join(FIXED_ARGUMENTS[at : at + 2])}"


if __name__ == "__main__":
    from cpuft.cli.main import cli

    cli(["bench", "synth", *sys.argv[1:]], prog_name="cpuft")
