"""`cpuft eval compare` under the name and with the options that the specification gives it.

Usage: python scripts/compare_models.py --model-base ollama:qwen2.5:3b-instruct
           --model-finetuned ollama:qwen25-ba-finetuned:v1 --dataset artifacts/synthetic/ba_val_v1.jsonl
           --metric metrics:ba_requirements_metric --output artifacts/benchmarks/finetuned_vs_base.json

A model that is no path is one of Ollama's, whose file is then run by cpuft itself. Other options are those of
`cpuft eval compare`.
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cpuft.cli.main import cli
from cpuft.sources.source import named


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--model-base", required=True, help="The model before tuning, as for cpuft, or one of Ollama's.")
@click.option("--model-finetuned", required=True, help="The model after it.")
@click.option("--dataset", required=True, help="The examples that both are asked.")
@click.pass_context
def main(context: click.Context, model_base: str, model_finetuned: str, dataset: str) -> None:
    """Compare a tuned model with its base."""
    where = ["--base", named(model_base), "--tuned", named(model_finetuned), "--data", dataset]
    cli(["eval", "compare", *where, *context.args], prog_name="cpuft")


if __name__ == "__main__":
    main()
