"""`cpuft data concepts` under the name and with the options that the specification gives it.

Usage: python scripts/generate_business_concepts.py --seed-file ba_train.jsonl --num-concepts 200
           --domains fintech,healthcare --output concepts.jsonl [--provider ollama --model qwen2.5:3b-instruct]

Without --model no model is asked. A model that is no path is one of Ollama's, whose file is then run by cpuft itself.
Other options are those of `cpuft data concepts`.
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cpuft.cli.main import cli
from cpuft.cli.options.configuration import FILE
from cpuft.sources.source import named


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--seed-file", type=FILE, help="Examples of the role, to be varied.")
@click.option("--num-concepts", default="200", help="How many.")
@click.option("--model", help="A model as for cpuft, or the name of one of Ollama's.")
@click.option("--provider", type=click.Choice(["ollama", "llama.cpp"]), expose_value=False, help="Whose name it is.")
@click.pass_context
def main(context: click.Context, seed_file: Path | None, num_concepts: str, model: str | None) -> None:
    """Write diverse business concepts."""
    seeds = [] if seed_file is None else ["--seeds", str(seed_file)]
    asked = [] if model is None else ["--model", named(model)]
    cli(["data", "concepts", "--num", num_concepts, *seeds, *asked, *context.args], prog_name="cpuft")


if __name__ == "__main__":
    main()
