"""`cpuft prepare`."""

import json
from pathlib import Path

import click

from cpuft.cli.options.configuration import FILE
from cpuft.cli.options.model import model_option
from cpuft.cli.progress import Bars
from cpuft.workflow.prepare import prepare as prepare_base

EPILOG = """
\b
Examples:
  cpuft prepare --source model-f16.gguf --quantization q4_k_m --output artifacts/models/base
  cpuft prepare --source ollama:qwen2.5:3b-instruct --quantization keep --output artifacts/models/base

The folder gets model.gguf, its description (model.json), a plan for training it (plan.json) and both in words
(README.txt). Run it again after an interruption: it goes on.
"""


@click.command("prepare", epilog=EPILOG)
@model_option("The model", "--source", "--model-name", "source")
@click.option("--quantization", default="4bit", show_default=True, help="q4_k_m (4bit), q8_0 (8bit), …, or keep.")
@click.option("--output", "--output-dir", "output", required=True, type=FILE, help="The folder of the base.")
@click.option("--threads", type=click.IntRange(0), default=0, show_default=True, help="0: every CPU.")
@click.option("--json", "as_json", is_flag=True, help="Print description and plan as JSON.")
def prepare(source: Path, quantization: str, output: Path, threads: int, as_json: bool) -> None:
    """Make a base model ready for training: quantized, checked, described, with a plan of what training it takes."""
    with Bars() as progress:
        base = prepare_base(source, output, quantization, threads=threads, progress=progress)
    facts = {"model": str(base.model), "description": base.description, "plan": base.plan}
    click.echo(json.dumps(facts, ensure_ascii=False) if as_json else f"{base.text}\nReady in {base.folder}")
