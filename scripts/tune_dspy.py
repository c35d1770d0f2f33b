"""`cpuft data optimize-prompt` under the name and with the options that the specification gives it.

Usage: python scripts/tune_dspy.py --role ba --trainset ba_train.jsonl --metric metrics:ba_requirements_metric
           --num-candidates 8 --num-trials 10 --max-bootstrapped-demos 6 --seed 0 --output artifacts/dspy/optimized
           --provider ollama --model qwen2.5:3b-instruct

The program stands in OUTPUT/ROLE/program.json. A model that is no path is one of Ollama's, whose file is then run by
cpuft itself. Other options are those of `cpuft data optimize-prompt`.
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cpuft.cli.main import cli
from cpuft.cli.options.configuration import FILE
from cpuft.roles import DEFAULT
from cpuft.sources.source import named


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--role", default=DEFAULT, show_default=True, help="Whose prompt.")
@click.option("--output", required=True, type=FILE, help="The folder that gets a folder of the role's name.")
@click.option("--model", required=True, help="A model as for cpuft, or the name of one of Ollama's.")
@click.option("--provider", type=click.Choice(["ollama", "llama.cpp"]), expose_value=False, help="Whose name it is.")
@click.pass_context
def main(context: click.Context, role: str, output: Path, model: str) -> None:
    """Look for a better prompt for a role."""
    where = ["--role", role, "--model", named(model), "--output", str(output / Path(role).name)]
    cli(["data", "optimize-prompt", *where, *context.args], prog_name="cpuft")


if __name__ == "__main__":
    main()
