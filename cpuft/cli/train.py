"""`cpuft train`."""

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cpuft.cli.model_reference import model_option
from cpuft.config import TrainJob
from cpuft.config_file import load_config, read_value
from cpuft.train.loop import Outcome, run_training

FILE = click.Path(path_type=Path)
INTERRUPTED = 130  # the shell's exit code for a program ended by Ctrl-C
EPILOG = """
\b
Examples:
  cpuft train --model qwen2.5-3b-instruct-q4_k_m.gguf --train train.jsonl --val val.jsonl \\
              --config configs/lora.yaml --output runs/ba
  cpuft train --model ollama:qwen2.5:3b-instruct --train train.jsonl --output runs/ba   what Ollama already has
  cpuft train … --output runs/ba --resume              go on after an interruption
  cpuft train … --set training.learning_rate=1e-4 --set lora.r=8
  cpuft train … --layers last:8 --cache-frozen         train the upper layers; the others run once an example
  cpuft train … --init-adapter runs/ba/adapter.gguf --output runs/ba-2

\b
A dataset has a JSON object a line: {"messages": [{"role": …, "content": …}, …]}, {"prompt": …, "completion": …}
or {"text": …}. Of conversations the assistant's words are trained on, of the others the completion or all.
Every configuration key is explained in configs/lora.yaml.
"""


class Setting(click.ParamType[tuple[str, Any]]):
    """KEY=VALUE with a YAML value: training.seed=1."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Returns the key and its value."""
        key, equals, text = str(value).partition("=")
        if not equals or "." not in key:
            self.fail(f"found {value!r}, expected SECTION.KEY=VALUE such as training.seed=1", param, ctx)
        try:
            return key, read_value(text)
        except ValueError as error:
            self.fail(f"{key}: {error}", param, ctx)


class Layers(click.ParamType[tuple[str, int | None]]):
    """all, or last:N: the layers that the adapter sits on."""

    name = "all|last:N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int | None]:
        """Returns the key that says it, lora.layers, and its value."""
        last = re.fullmatch("last:([1-9][0-9]{0,8})", str(value))
        if last is None and value != "all":
            self.fail(f"found {value!r}, expected all, or last:N with N of at least 1", param, ctx)
        return "lora.layers", int(last[1]) if last else None


class InitialAdapter(click.ParamType[tuple[str, str]]):
    """The path of an adapter."""

    name = "PATH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Returns the key that says it, lora.init_adapter, and its value."""
        if not value:
            self.fail("found nothing, expected the path of an adapter", param, ctx)
        return "lora.init_adapter", str(value)


@click.command("train", epilog=EPILOG)
@model_option("The base model, of any quantization")
@click.option("--train", "train_file", required=True, type=FILE, help="The training data, JSON lines.")
@click.option("--val", "val_file", type=FILE, help="The validation data; it decides which adapter is the best.")
@click.option("--config", "config_file", type=FILE, help="A YAML configuration; with --resume: that of the run.")
@click.option("--output", required=True, type=FILE, help="The folder of the run.")
@click.option("--resume", is_flag=True, help="Go on after the last checkpoint in the folder.")
@click.option("--overwrite", is_flag=True, help="Replace the run in the folder.")
@click.option("--init-adapter", type=InitialAdapter(), help="An adapter to start from: a GGUF file or a PEFT folder.")
@click.option("--layers", type=Layers(), metavar="all|last:N", help="Train all layers or the last N: faster, smaller.")
@click.option(
    "--cache-frozen", is_flag=True, default=None, help="Run untrained layers once; keep their output on disk."
)
@click.option("--epochs", "num_epochs", type=int, help="How often every example is seen.")
@click.option("--max-steps", "max_steps", type=int, help="End after this many optimizer steps.")
@click.option("--truncate", "truncate", is_flag=True, default=None, help="Cut over-long examples at the end.")
@click.option("--seed", "seed", type=int, help="The same seed gives the same adapter, byte for byte.")
@click.option("--threads", "threads", type=int, help="0: every CPU.")
@click.option("--set", "settings", type=Setting(), multiple=True, help="Any other key; may be given repeatedly.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    model: Path,
    train_file: Path,
    val_file: Path | None,
    config_file: Path | None,
    output: Path,
    resume: bool,
    overwrite: bool,
    init_adapter: tuple[str, str] | None,
    layers: tuple[str, int | None] | None,
    settings: tuple[tuple[str, Any], ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Train a LoRA adapter on a quantized GGUF model, on the CPU."""
    stream = sys.stderr if as_json else sys.stdout
    if resume and config_file is None and (output / "config.yaml").is_file():
        config_file = output / "config.yaml"
    given = {f"training.{name}": value for name, value in options.items() if value is not None}
    given |= dict(filter(None, (layers, init_adapter)))
    config, notes = load_config(config_file, given | dict(settings))
    for note in notes:
        click.echo(note, file=stream)
    job = TrainJob(model, train_file, output, config, val_file, resume, overwrite)
    outcome = run_training(job, say=lambda line: tqdm.write(line, file=stream), show_progress=sys.stderr.isatty())
    click.echo(json.dumps(asdict(outcome), default=str) if as_json else _summary(outcome))
    if outcome.ended == "interrupted":
        click.echo("Interrupted: run the same command with --resume to go on.", err=True)
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
