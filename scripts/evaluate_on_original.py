"""`cpuft eval original` under the name and with the options that the specification gives it.

Usage: python scripts/evaluate_on_original.py --model ollama:qwen25-ba-finetuned:v1 --dataset ba_train.jsonl
           --metric metrics:ba_requirements_metric --output artifacts/benchmarks/generalization_test.json

A model that is no path is one of Ollama's, whose file is then run by cpuft itself. Other options are those of
`cpuft eval original`; so is the exit code: 3 where the model is not shown to be good enough.
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cpuft.cli.main import cli
from cpuft.sources.source import named


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--model", required=True, help="A model as for cpuft, or the name of one of Ollama's.")
@click.option("--dataset", required=True, help="Examples that no model wrote.")
@click.pass_context
def main(context: click.Context, model: str, dataset: str) -> None:
    """Say what a model is worth on examples that no model wrote."""
    cli(["eval", "original", "--model", named(model), "--data", dataset, *context.args], prog_name="cpuft")


if __name__ == "__main__":
    main()
