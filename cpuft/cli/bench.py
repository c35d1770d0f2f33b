"""`cpuft bench`: the benchmarks, whose code stands in benchmarks/ of a checkout."""

import importlib
import sys

import click

from cpuft.errors import UserError
from cpuft.toolchain import sources

# Name of the subcommand -> the module whose `main` it is, in the order of the help page.
BENCHMARKS = {
    "train": "benchmarks.train_throughput",
    "gemm": "benchmarks.gemm",
    "attention": "benchmarks.attention",
    "memory": "benchmarks.memory",
    "plan": "benchmarks.plan",
    "scaling": "benchmarks.scaling",
    "profile": "benchmarks.step_profile",
    "prefix": "benchmarks.prefix",
    "merge": "benchmarks.merge",
    "precision": "benchmarks.precision",
    "real": "benchmarks.real",
    "demo": "benchmarks.demo",
    "bootstrap": "benchmarks.bootstrap",
    "synth": "benchmarks.synth_throughput",
}


class CheckoutGroup(click.Group):
    """A group whose subcommands are the benchmarks' own commands, so that their options are written once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The benchmarks in the table's order."""
        return list(BENCHMARKS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A benchmark's command, None if there is none of this name.

        Raises:
            UserError: this package is installed without the source tree that the benchmarks are part of.
        """
        if cmd_name not in BENCHMARKS:
            return None
        checkout = sources.PACKAGE.parent
        if not (checkout / "benchmarks" / "shapes.py").is_file():
            raise UserError(
                f"the benchmarks are not part of the package in {sources.PACKAGE}: "
                "run `cpuft bench` from a checkout of cpuft's source"
            )
        if str(checkout) not in sys.path:
            sys.path.insert(0, str(checkout))
        command = importlib.import_module(BENCHMARKS[cmd_name]).main
        assert isinstance(command, click.Command)
        return command


@click.group("bench", cls=CheckoutGroup)
def bench() -> None:
    """Measure speed and memory, with a ratio to a peer or an error beside every speed, and what rounding costs.

    \b
    Examples:
      cpuft bench train --shape qwen2.5-0.5b --peer peft-bf16    (`make peers` installs PyTorch and PEFT)
      cpuft bench gemm --type q4_k
      cpuft bench profile --shape qwen2.5-3b
      cpuft bench merge --json >> results.jsonl
      cpuft bench precision --part gradients
    """
