"""The loop on the bundled model: few of the demo's examples to begin with, the questions of others to be asked."""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.options import json_option
from cpuft import demo
from cpuft.cli.bootstrap import bootstrap_table
from cpuft.cli.progress import Bars
from cpuft.machine.files import write_text
from cpuft.roles import DEFAULT, find_role
from cpuft.synth.concepts import Concept
from cpuft.synth.generation import SAMPLING
from cpuft.synth.records import read_records
from cpuft.toolchain.sources import project_dir
from cpuft.workflow.bootstrap import Plan, run_bootstrap


@click.command("bootstrap")
@click.option(
    "--seeds", type=click.IntRange(1), default=200, show_default=True, help="The demo's examples to begin with."
)
@click.option(
    "--examples", "counts", type=click.IntRange(1), multiple=True, default=(200, 200), show_default="200, twice",
    help="Questions of each round; repeat it for more rounds.",
)  # fmt: skip
@click.option("--temperature", type=click.FloatRange(0, 2), default=SAMPLING.temperature, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@json_option
def main(seeds: int, counts: tuple[int, ...], temperature: float, seed: int, as_json: bool) -> None:
    """Run `cpuft bootstrap` on the bundled model, which knows the words of the demo alone.

    It begins with some of the demo's training examples; of the others it gets the questions, and writes the answers.
    The base is asked by the role's own prompt: there is no room for examples in its context of 1024 tokens.

    \b
    Examples:
      cpuft bench bootstrap
      cpuft bench bootstrap --seeds 60 --examples 100 --examples 200 --json
    """
    role = find_role(DEFAULT)
    known = read_records(demo.TRAIN, role)
    if seeds + sum(counts) > len(known):
        raise click.UsageError(
            f"the demo has {len(known)} examples, fewer than {seeds} seeds and {sum(counts)} questions"
        )
    with tempfile.TemporaryDirectory() as folder, Bars() as progress:
        concepts = Path(folder) / "concepts.jsonl"
        asked = [one.asked for one in known[seeds : seeds + sum(counts)]]
        write_text(concepts, "".join(Concept(text, "", text).line() for text in asked))
        plan = Plan(
            base=demo.BASE_MODEL, output=Path(folder) / "loop", examples=counts, seeds=known[:seeds],
            test=read_records(demo.TEST, role), config=project_dir() / "configs" / "demo.yaml", concepts=concepts,
            search=None, sampling=replace(SAMPLING, temperature=temperature, max_tokens=640), context=1024, seed=seed,
        )  # fmt: skip
        result = run_bootstrap(role, plan, lambda line: click.echo(line, err=True), progress)
    click.echo(json.dumps(result.facts()) if as_json else bootstrap_table(result, len(plan.test)))


if __name__ == "__main__":
    from cpuft.cli.main import cli

    cli(["bench", "bootstrap", *sys.argv[1:]], prog_name="cpuft")
