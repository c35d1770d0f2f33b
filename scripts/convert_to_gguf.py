"""`cpuft quantize` under the name and with the options that the specification gives it.

Usage: python scripts/convert_to_gguf.py --input DIR --output model-q4_k_m.gguf --quantization q4_k_m

The input is a model as for every command: a folder of `scripts/merge_lora_adapters.py`, a Hugging Face checkpoint, or a
GGUF file; a tensor that has its type already keeps its bytes. Other options are those of `cpuft quantize`.
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cpuft.cli.main import cli
from cpuft.sources.source import named


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--input", "source", required=True, help="A model as for cpuft quantize, or the name of one of Ollama's.")
@click.option("--quantization", default="q4_k_m", show_default=True, help="The type: q4_0, q4_k_m, q5_k_m, q8_0, …")
@click.pass_context
def main(context: click.Context, source: str, quantization: str) -> None:
    """Write a model as a GGUF file of a type."""
    cli(["quantize", "--model", named(source), "--type", quantization, *context.args], prog_name="cpuft")


if __name__ == "__main__":
    main()
