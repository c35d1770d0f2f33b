"""`cpuft train`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cpuft.cli.options.configuration import FILE, configuration_options, read_configuration
from cpuft.cli.options.model import model_option
from cpuft.cli.progress import Bars
from cpuft.cli.streams import tell
from cpuft.config.keys import TrainJob
from cpuft.errors import INTERRUPTED
from cpuft.train.loop import Outcome, run_training

EPILOG = """
\b
Examples:
  cpuft train --model qwen2.5-3b-instruct-q4_k_m.gguf --train train.jsonl --val val.jsonl \\
              --config configs/lora.yaml --output runs/ba
  cpuft train --model ollama:qwen2.5:3b-instruct --train train.jsonl --output runs/ba   what Ollama already has
  cpuft train … --output runs/ba --resume              go on after an interruption
  cpuft train … --set training.learning_rate=1e-4 --set lora.r=8
  cpuft train … --layers last:8 --cache-frozen         train the upper layers; the others run once an example
  cpuft train … --max-ram 4G                           stay within it, or be told which setting makes it fit
  cpuft train … --init-adapter runs/ba/adapter.gguf --output runs/ba-2

\b
A dataset has a JSON object a line: {"messages": [{"role": …, "content": …}, …]}, {"prompt": …, "completion": …}
or {"text": …}. Of conversations the assistant's words are trained on, of the others the completion or all.
Every configuration key is explained in configs/lora.yaml.
"""


@click.command("train", epilog=EPILOG)
@model_option("The base model, of any quantization")
@click.option("--train", "train_file", required=True, type=FILE, help="The training data, JSON lines.")
@click.option("--val", "val_file", type=FILE, help="The validation data; it decides which adapter is the best.")
@click.option("--config", "config_file", type=FILE, help="A YAML configuration; with --resume: that of the run.")
@click.option("--output", required=True, type=FILE, help="The folder of the run.")
@click.option("--resume", is_flag=True, help="Go on after the last checkpoint in the folder.")
@click.option("--overwrite", is_flag=True, help="Replace the run in the folder.")
@configuration_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    model: Path,
    train_file: Path,
    val_file: Path | None,
    config_file: Path | None,
    output: Path,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a LoRA adapter on a quantized GGUF model, on the CPU."""
    stream = sys.stderr if as_json else sys.stdout
    if resume and config_file is None and (output / "config.yaml").is_file():
        config_file = output / "config.yaml"
    config = read_configuration(config_file, stream, **options)
    job = TrainJob(model, train_file, output, config, val_file, resume, overwrite)
    with Bars() as bars:
        outcome = run_training(job, say=lambda line: bars.print(line, stream), progress=bars)
    if as_json:
        click.echo(json.dumps(asdict(outcome), default=str))
    else:
        tell(_summary(outcome))  # what was trained stands, whether anyone hears of it or not
    if outcome.ended == "interrupted":
        tell("Interrupted: run the same command with --resume to go on.", sys.stderr)
        sys.exit(INTERRUPTED)


def _summary(outcome: Outcome) -> str:
    if outcome.ended == "interrupted":
        return f"Stopped after step {outcome.step} of {outcome.n_steps}."
    early = f" It stopped early, at step {outcome.step} of {outcome.n_steps}." if outcome.ended == "early" else ""
    best = "no validation data" if outcome.best_loss is None else f"val_loss: {outcome.best_loss:.3f}"
    return "\n".join(
        [
            f"✅ Training complete!{early} {outcome.seconds:.0f} s, {outcome.tok_s:.0f} tokens/s",
            f"✅ Best checkpoint: step {outcome.best_step} ({best})",
            f"✅ LoRA adapter saved to: {outcome.adapter}",
        ]
    )
