"""What `cpuft plan` predicts of a short run, beside what `cpuft train` then takes, each in a process of its own."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fresh_process import figures_of
from benchmarks.options import json_option, kernel_options, model_options
from benchmarks.report import Row, print_rows
from benchmarks.shapes import model_file

COLUMNS = ("shape", "activations", "planned_mb", "peak_rss_mb", "ratio_mb", "planned_s", "seconds", "ratio_s")
WORDS = "the user can see a list of all open tasks and sort it by date or by name for each team".split()
LENGTHS = (100, 400)  # words of an example: from, to
EXAMPLES_A_STEP = 4


@click.command("plan")
@model_options("qwen2.5-0.5b")
@click.option("--steps", type=click.IntRange(1), default=6, show_default=True, help="Optimizer steps of the run.")
@click.option("--activations", type=click.Choice(["auto", "keep", "recompute"]), default="auto", show_default=True)
@click.option("--max-ram", help="As for `cpuft train`.")
@kernel_options()
@json_option
def main(as_json: bool, **options: Any) -> None:
    """What `cpuft plan` predicts of a short run, and what `cpuft train` then takes, each in a fresh process.

    ratio_mb and ratio_s are planned over taken: memory at its peak, and the whole command's wall time.

    \b
    Examples:
      cpuft bench plan --shape qwen2.5-3b --precision int8 --json
      cpuft bench plan --activations recompute --max-ram 1G
    """
    print_rows("plan", measure(**options), COLUMNS, as_json)


def measure(
    *,
    shape: str,
    base_type: str,
    models: Path,
    steps: int,
    activations: str,
    max_ram: str | None,
    isa: str | None,
    precision: str | None,
    threads: int,
) -> Iterator[Row]:
    """One row."""
    model = model_file(models, shape, base_type)
    environment = {} if isa is None else {"CPUFT_ISA": isa}
    settings = {
        "training.gradient_accumulation_steps": EXAMPLES_A_STEP,
        "training.max_steps": steps,
        "training.num_epochs": steps,
        "training.eval_steps": max(1, steps // 2),
        "training.activations": activations,
        "training.precision": precision or "auto",
        "training.threads": threads,
    }
    with tempfile.TemporaryDirectory(prefix="cpuft-bench-") as name:
        folder = Path(name)
        for file, count in (("train", steps * EXAMPLES_A_STEP), ("val", EXAMPLES_A_STEP)):
            (folder / f"{file}.jsonl").write_text("".join(_examples(count, seed=count)))
        common = ["--model", model, "--train", folder / "train.jsonl", "--val", folder / "val.jsonl", "--json"]
        common += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        common += [] if max_ram is None else ["--max-ram", max_ram]
        cpuft = [sys.executable, "-m", "cpuft"]
        (plan_s, plan), (train_s, trained) = (
            _timed([*cpuft, *command, *common], environment)
            for command in (["plan"], ["train", "--output", folder / "run"])
        )
    yield {
        "shape": shape,
        "base_type": base_type,
        "steps": steps,
        "precision": precision,
        **plan["chosen"],
        "planned_mb": plan["memory"]["peak"] // 10**6,
        "peak_rss_mb": round(trained["peak_rss_mb"]),
        "ratio_mb": round(plan["memory"]["peak"] / trained["peak_rss_mb"] / 1e6, 3),
        "planned_s": round(plan["time"]["total"], 1),
        "seconds": round(train_s, 1),
        "ratio_s": round(plan["time"]["total"] / train_s, 3),
        "planned_tok_s": round(plan["time"]["tok_s"], 1),
        "tok_s": round(trained["tok_s"], 1),
        "plan_seconds": round(plan_s, 1),
        "parts_mb": {part: n_bytes // 10**6 for part, n_bytes in plan["memory"]["parts"].items()},
    }


def _timed(command: list[Any], environment: dict[str, str]) -> tuple[float, dict[str, Any]]:
    started = time.perf_counter()
    figures = figures_of([str(word) for word in command], environment)
    return time.perf_counter() - started, figures


def _examples(count: int, seed: int) -> Iterator[str]:
    """Lines of a dataset, of random words; every example differs from the others from its first words on."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        words = rng.choice(WORDS, rng.integers(*LENGTHS))
        half = len(words) // 2
        yield json.dumps({"prompt": " ".join(words[:half]), "completion": " " + " ".join(words[half:])}) + "\n"


if __name__ == "__main__":
    from cpuft.cli.main import cli

    cli(["bench", "plan", *sys.argv[1:]], prog_name="cpuft")
