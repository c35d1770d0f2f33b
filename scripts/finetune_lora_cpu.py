"""`cpuft train` under the name and with the options that the specification gives it.

Usage: python scripts/finetune_lora_cpu.py --model DIR --dataset DIR --config configs/lora.yaml --output DIR
           --num-epochs 3 --device cpu --logging-dir DIR

A dataset is a JSONL file, or a folder with train.jsonl and perhaps val.jsonl. A model that is no path is one of
Ollama's. Everything that a run writes, its logs too, lies in --output; --logging-dir becomes a link to that. Other
options are those of `cpuft train`.
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cpuft.cli.main import cli
from cpuft.cli.options.configuration import FILE
from cpuft.sources.source import named


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--model", required=True, help="A model as for cpuft train, or the name of one of Ollama's.")
@click.option("--dataset", required=True, type=FILE, help="A JSONL file, or a folder with train.jsonl and val.jsonl.")
@click.option("--output", required=True, type=FILE, help="The folder of the run.")
@click.option("--logging-dir", type=FILE, help="Becomes a link to --output, which has the logs.")
@click.option("--device", type=click.Choice(["cpu"]), expose_value=False, help="The only one there is.")
@click.pass_context
def main(context: click.Context, model: str, dataset: Path, output: Path, logging_dir: Path | None) -> None:
    """Train a LoRA adapter on the CPU."""
    files = [dataset]
    if dataset.is_dir():
        files = [dataset / "train.jsonl", *filter(Path.exists, [dataset / "val.jsonl"])]
    if logging_dir is not None and not logging_dir.exists() and not logging_dir.is_symlink():
        logging_dir.parent.mkdir(parents=True, exist_ok=True)
        logging_dir.symlink_to(output.absolute())
    elif logging_dir is not None and logging_dir.resolve() != output.resolve():
        click.echo(f"{logging_dir} is there already: the logs are in {output}", err=True)
    data = [word for option, file in zip(("--train", "--val"), files, strict=False) for word in (option, str(file))]
    cli(["train", "--model", named(model), *data, "--output", str(output), *context.args], prog_name="cpuft")


if __name__ == "__main__":
    main()
