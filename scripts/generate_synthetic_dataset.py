"""`cpuft data generate` under the name and with the options that the specification gives it.

Usage: python scripts/generate_synthetic_dataset.py --concepts concepts.jsonl --output raw.jsonl
           --provider ollama --model qwen2.5:3b-instruct [--optimized-program optimized/ba/program.json]

A program may be named as the specification does, program.pkl: cpuft writes program.json in its place, since reading a
pickle runs whatever is in it. A model that is no path is one of Ollama's, whose file is then run by cpuft itself. Other
options are those of `cpuft data generate`.
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
@click.option("--optimized-program", "program", type=FILE, help="What `scripts/tune_dspy.py` wrote.")
@click.option("--provider", type=click.Choice(["ollama", "llama.cpp"]), expose_value=False, help="Whose name it is.")
@click.pass_context
def main(context: click.Context, model: str, program: Path | None) -> None:
    """Let a model answer concepts as a role."""
    if program is not None and program.suffix == ".pkl" and not program.exists():
        program = program.with_suffix(".json")
    asked = [] if program is None else ["--optimized-program", str(program)]
    cli(["data", "generate", "--model", named(model), *asked, *context.args], prog_name="cpuft")


if __name__ == "__main__":
    main()
