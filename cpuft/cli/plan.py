"""`cpuft plan`."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from cpuft.cli.options.configuration import FILE, configuration_options, read_configuration
from cpuft.cli.options.model import model_option
from cpuft.cli.progress import Bars
from cpuft.config.keys import TrainJob
from cpuft.errors import ResourceError
from cpuft.plan.plan import plan_run
from cpuft.plan.text import plan_text

EPILOG = """
\b
Examples:
  cpuft plan --model qwen2.5-3b-instruct-q4_k_m.gguf --train train.jsonl --val val.jsonl --config configs/lora.yaml
  cpuft plan … --max-ram 4G        choose what fits in 4 GB, or say which setting would
  cpuft plan … --json              for scripts

It tokenizes the data and runs a few passes of the run, then forgets them. The exit code is 2 where the run does not
fit, as it is of `cpuft train`.
"""


@click.command("plan", epilog=EPILOG)
@model_option("The base model, of any quantization")
@click.option("--train", "train_file", required=True, type=FILE, help="The training data, JSON lines.")
@click.option("--val", "val_file", type=FILE, help="The validation data.")
@click.option("--config", "config_file", type=FILE, help="A YAML configuration.")
@configuration_options
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(
    model: Path, train_file: Path, val_file: Path | None, config_file: Path | None, as_json: bool, **options: Any
) -> None:
    """Say what a training run will take, before it starts: memory, time and disk."""
    config = read_configuration(config_file, sys.stderr, **options)
    job = TrainJob(model, train_file, Path(), config, val_file)
    with Bars() as progress:
        planned = plan_run(job, progress)
    click.echo(json.dumps(planned.document()) if as_json else plan_text(planned))
    if not planned.fitted.fits:
        sys.exit(ResourceError.exit_code)
