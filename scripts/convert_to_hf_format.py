"""`cpuft data chat` under the name and with the options that the specification gives it: a folder of conversations.

Usage: python scripts/convert_to_hf_format.py --train train.jsonl --val val.jsonl --output DIR --format chat
"""

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cpuft.cli.main import error_boundary
from cpuft.cli.options.configuration import FILE
from cpuft.cli.options.role import role_option
from cpuft.roles import Role
from cpuft.synth.records import write_chat


@click.command()
@role_option
@click.option("--train", required=True, type=FILE, help="Examples of a role for training.")
@click.option("--val", type=FILE, help="Examples for validation.")
@click.option("--output", required=True, type=FILE, help="The folder that gets train.jsonl and val.jsonl.")
@click.option("--format", type=click.Choice(["chat"]), default="chat", expose_value=False, help="The only one.")
def main(role: Role, train: Path, val: Path | None, output: Path) -> None:
    """Write examples of a role as conversations, in the layout that training takes as a data set."""
    with error_boundary():
        output.mkdir(parents=True, exist_ok=True)
        for name, source in (("train", train), ("val", val)):
            if source is not None:
                click.echo(f"{output / name}.jsonl: {write_chat(source, output / f'{name}.jsonl', role)} conversations")


if __name__ == "__main__":
    main()
