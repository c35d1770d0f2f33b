"""The demo by seeds and precisions: a training that only one seed survives proves nothing."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.options import json_option
from benchmarks.precision import Arm, ArmType, default_arms
from benchmarks.report import Row, print_rows
from cpuft.roles import DEFAULT, find_role
from cpuft.toolchain.sources import project_dir
from cpuft.workflow.demo import run_demo

COLUMNS = ("arm", "seed", "base_score", "tuned_score", "tuned_yaml_valid", "passed", "train_seconds", "peak_rss_mb")


@click.command("demo")
@click.option(
    "--arm",
    "arms",
    type=ArmType(),
    multiple=True,
    default=lambda: [arm for arm in default_arms() if arm.isa is None],
    show_default="f32, bf16, and int8 where this CPU has it",
)
@click.option("--seed", "seeds", type=click.IntRange(0), multiple=True, default=range(5), show_default="0 to 4")
@json_option
def main(arms: tuple[Arm, ...], seeds: tuple[int, ...], as_json: bool) -> None:
    """Run the demo once for each seed and precision, and say what the tuned model's answers are worth.

    \b
    Examples:
      cpuft bench demo
      cpuft bench demo --arm int8 --arm avx2:f32 --seed 0 --json
    """
    print_rows("demo", measure(arms, seeds), COLUMNS, as_json)


def measure(arms: Sequence[Arm], seeds: Sequence[int]) -> Iterator[Row]:
    """A row for each arm and seed, with the figures of the demo's result.json."""
    for arm in arms:
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder, _isa(arm.isa):
                config = Path(folder) / "demo.yaml"
                keys = yaml.safe_load((project_dir() / "configs" / "demo.yaml").read_text(encoding="utf-8"))
                keys["training"] |= {"seed": seed, "precision": arm.precision}
                config.write_text(yaml.safe_dump(keys), encoding="utf-8")
                result = run_demo(Path(folder) / "demo", config, find_role(DEFAULT), lambda _: None)
            yield {"arm": str(arm), "seed": seed, **vars(result), "passed": result.passed}


@contextlib.contextmanager
def _isa(name: str | None) -> Iterator[None]:
    """The kernels of the processes that start inside."""
    before = os.environ.get("CPUFT_ISA")
    if name is not None:
        os.environ["CPUFT_ISA"] = name
    try:
        yield
    finally:
        os.environ.pop("CPUFT_ISA", None)
        if before is not None:
            os.environ["CPUFT_ISA"] = before


if __name__ == "__main__":
    from cpuft.cli.main import cli

    cli(["bench", "demo", *sys.argv[1:]], prog_name="cpuft")
