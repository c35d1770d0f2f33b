"""`cpuft eval samples` under the name and with the options that the specification gives it.

Usage: python scripts/generate_comparison_samples.py --concepts artifacts/synthetic/business_concepts.jsonl
           --model-base ollama:qwen2.5:3b-instruct --model-finetuned ollama:qwen25-ba-finetuned:v1 --num-samples 10
           --output artifacts/validation/side_by_side_comparison.html

A model that is no path is one of Ollama's, whose file is then run by cpuft itself. Other options are those of
`cpuft eval samples`.
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
@click.pass_context
def main(context: click.Context, model_base: str, model_finetuned: str) -> None:
    """Write two models' answers side by side into a page."""
    models = ["--base", named(model_base), "--tuned", named(model_finetuned)]
    cli(["eval", "samples", *models, *context.args], prog_name="cpuft")


if __name__ == "__main__":
    main()
