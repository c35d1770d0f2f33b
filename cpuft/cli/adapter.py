"""`cpuft adapter`: show, convert, scale and combine LoRA adapters."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from cpuft.adapters import files as adapter_files
from cpuft.adapters.combine import Kept
from cpuft.adapters.description import describe_adapter
from cpuft.adapters.files import Written
from cpuft.cli.options.model import model_option as model_reference
from cpuft.cli.options.output import json_option, print_facts
from cpuft.cli.progress import Bars

FILE = click.Path(path_type=Path)
MOST_LINES = 10  # of a report; --json has all
output_option = click.option("--output", required=True, type=FILE, help="The GGUF file to write.")
model_option = model_reference("The base model, needed to read a PEFT folder", required=False)


@click.group()
def adapter() -> None:
    """Inspect, convert, scale and combine LoRA adapters.

    An adapter is a GGUF file, as `cpuft train` and llama.cpp have it, or a folder that PEFT saved.
    """


@adapter.command("show")
@click.argument("file", type=FILE)
@json_option
def show(file: Path, as_json: bool) -> None:
    """Print what a LoRA adapter is: base architecture, rank, targets.

    \b
    Examples:
      cpuft adapter show runs/first/adapter.gguf
      cpuft adapter show peft-folder --json
    """
    print_facts(describe_adapter(file), as_json)


@adapter.command("convert")
@click.argument("file", type=FILE)
@click.option("--to", required=True, type=click.Choice(["peft", "gguf"]), help="The format to write.")
@click.option("--output", required=True, type=FILE, help="The folder (peft) or file (gguf) to write.")
@model_reference("The base model, needed for gguf, and by llama and smollm3", required=False)
@click.option("--base-name", help="What the PEFT folder names as its base: a repository such as Qwen/Qwen2.5-3B.")
@json_option
def convert(file: Path, to: str, output: Path, model: Path | None, base_name: str | None, as_json: bool) -> None:
    """Convert a GGUF adapter to a PEFT folder, or back.

    In float32 there and back gives the same bits. PEFT folders with rsLoRA, and with ranks or alphas by module, are
    read; what a GGUF adapter has no place for (DoRA, biases, whole modules, embeddings) is refused by name.

    \b
    Examples:
      cpuft adapter convert runs/first/adapter.gguf --to peft --model base.gguf --output peft-folder
      cpuft adapter convert peft-folder --to gguf --model base.gguf --output adapter.gguf
    """
    written = adapter_files.convert(file, output, to, model=model, base_name=base_name)
    click.echo(_json(written) if as_json else _summary(written))


@adapter.command("scale")
@click.argument("file", type=FILE)
@click.argument("factor", type=float)
@output_option
@model_option
@json_option
def scale(file: Path, factor: float, output: Path, model: Path | None, as_json: bool) -> None:
    """Make an adapter FACTOR times as strong.

    The factor goes into alpha; A and B stay as they are, but for a negative factor's sign, which goes into B.

    \b
    Examples:
      cpuft adapter scale adapter.gguf 0.5 --output half.gguf
      cpuft adapter scale --output opposite.gguf -- adapter.gguf -1
    """
    written, where = adapter_files.scale(file, factor, output, model=model)
    click.echo(_json(written, folded=where) if as_json else f"{_summary(written)}; {where}")


@adapter.command("combine")
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--weight", "weights", multiple=True, type=float, help="One for each file, in their order; without: 1.")
@click.option("--rank", type=click.IntRange(1), help="Bring the sum down to this rank; without: exact, ranks add up.")
@output_option
@model_option
@json_option
def combine(
    files: tuple[Path, ...],
    weights: tuple[float, ...],
    rank: int | None,
    output: Path,
    model: Path | None,
    as_json: bool,
) -> None:
    """Write the weighted sum of adapters of one base model, which may differ in rank, alpha and targets.

    The sum is exact, with a rank that is the sum of the ranks. With --rank it is the closest one of that rank, and the
    report says how much of each weight's change is kept: its energy, the squared Frobenius norm.

    \b
    Examples:
      cpuft adapter combine a.gguf b.gguf --weight 0.7 --weight 0.3 --output both.gguf
      cpuft adapter combine a.gguf b.gguf --rank 16 --output both.gguf --json
      cpuft adapter combine large.gguf --rank 8 --output small.gguf
    """
    with Bars() as progress:
        written, kept = adapter_files.combine(files, output, factors=weights, rank=rank, model=model, progress=progress)
    click.echo(_json(written, weights=[asdict(one) for one in kept]) if as_json else _summary(written))
    if rank is not None and not as_json:
        click.echo(_energies(kept))


def _summary(written: Written) -> str:
    size = f"{written.n_params / 1e6:,.2f} M parameters on {written.n_weights} weights"
    return f"{written.output}: rank {written.rank}, alpha {written.alpha:g}, {size}"


def _json(written: Written, **more: object) -> str:
    return json.dumps({**asdict(written), **more}, default=str, indent=2)


def _energies(kept: list[Kept]) -> str:
    """The weights that lost most, the worst first."""
    worst = sorted(kept, key=lambda one: one.energy)
    mean = sum(one.energy for one in kept) / len(kept)
    lines = [f"Energy kept: {mean:.2%} on average, {worst[0].energy:.2%} at worst"]
    lines += [f"  {one.energy:8.2%}  {one.weight}, rank {one.rank_before} -> {one.rank}" for one in worst[:MOST_LINES]]
    more = len(worst) - MOST_LINES
    return "\n".join([*lines, f"  and {more} more (list them with --json)"] if more > 0 else lines)
