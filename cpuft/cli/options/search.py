"""The options that say how long a better prompt is looked for, and how."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import click

from cpuft.synth.search import Search

Command = Callable[..., Any]
_OPTIONS = (
    click.option(
        "--optimizer",
        type=click.Choice(["mipro", "gepa"]),
        default=Search.optimizer,
        show_default=True,
        help="Of DSPy: MIPROv2, or GEPA, which reads what is wrong with answers.",
    ),
    click.option(
        "--num-candidates",
        type=click.IntRange(2),
        default=Search.candidates,
        show_default=True,
        help="Prompts, and sets.",
    ),
    click.option(
        "--num-trials", type=click.IntRange(1), default=Search.trials, show_default=True, help="Of their pairs."
    ),
    click.option(
        "--max-bootstrapped-demos",
        type=click.IntRange(0),
        default=Search.demos,
        show_default=True,
        help="Examples that stand before the question, at most.",
    ),
    click.option("--max-tokens", type=click.IntRange(1), default=Search.max_tokens, show_default=True),
    click.option("--constrained", is_flag=True, help="Hold the model to the role's schema while prompts are tried."),
    click.option("--parallel", type=click.IntRange(1, 64), default=Search.n_parallel, show_default=True),
    click.option("--seed", type=click.IntRange(0), default=Search.seed, show_default=True),
)


def search_options(command: Command) -> Command:
    """The options; `search_of` makes a Search of them."""
    wrapped: Command = reduce(lambda inner, option: option(inner), reversed(_OPTIONS), command)
    return wrapped


def search_of(options: dict[str, Any]) -> Search:
    """The search that the options describe."""
    return Search(
        optimizer=options["optimizer"],
        candidates=options["num_candidates"],
        trials=options["num_trials"],
        demos=options["max_bootstrapped_demos"],
        seed=options["seed"],
        max_tokens=options["max_tokens"],
        constrained=options["constrained"],
        n_parallel=options["parallel"],
    )
