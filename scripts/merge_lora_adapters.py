"""`cpuft merge` under the name and with the options that the specification gives it.

Usage: python scripts/merge_lora_adapters.py --base-model DIR --lora-adapters RUN --output DIR --quantize-output 4bit

The merged model stands in OUTPUT/model.gguf, so that the folder is a model for every command. A base that is no path is
one of Ollama's. Other options are those of `cpuft merge`.
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cpuft.cli.main import cli, error_boundary
from cpuft.cli.options.configuration import FILE
from cpuft.machine.disk import disk_errors
from cpuft.machine.files import require_folder
from cpuft.sources.source import PREPARED, named

TYPES = {"4bit": "q4_k_m", "8bit": "q8_0", "none": "f16"}


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--base-model", required=True, help="A model as for cpuft merge, or the name of one of Ollama's.")
@click.option("--lora-adapters", required=True, help="The folder of a run, or an adapter.")
@click.option("--output", required=True, type=FILE, help="The folder of the merged model.")
@click.option("--quantize-output", type=click.Choice(list(TYPES)), default="4bit", show_default=True)
@click.pass_context
def main(context: click.Context, base_model: str, lora_adapters: str, output: Path, quantize_output: str) -> None:
    """Merge a LoRA adapter into its base model."""
    with error_boundary(), disk_errors(output):
        require_folder(output, "the merged model")
        output.mkdir(parents=True, exist_ok=True)
    files = ["--model", named(base_model), "--adapter", lora_adapters, "--output", str(output / PREPARED)]
    cli(["merge", *files, "--type", TYPES[quantize_output], *context.args], prog_name="cpuft")


if __name__ == "__main__":
    main()
