"""`cpuft eval stress` under the name and with the options that the specification gives it.

Usage: python scripts/stress_test_model.py --model ollama:qwen25-ba-finetuned:v1
           --test-cases configs/stress_test_cases.yaml --output artifacts/validation/stress_test_results.json

A model that is no path is one of Ollama's, whose file is then run by cpuft itself. Other options are those of
`cpuft eval stress`.
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cpuft.cli.main import cli
from cpuft.cli.options.configuration import FILE
from cpuft.sources.source import named


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--model", required=True, help="A model as for cpuft, or the name of one of Ollama's.")
@click.option("--output", type=FILE, help="Where every case and its answer goes; its folder is made.")
@click.pass_context
def main(context: click.Context, model: str, output: Path | None) -> None:
    """Ask a model what is hard to answer well."""
    where = [] if output is None else ["--output", str(output)]
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    cli(["eval", "stress", "--model", named(model), *where, *context.args], prog_name="cpuft")


if __name__ == "__main__":
    main()
