"""`cpuft eval`: a table of commands that are imported when they are used."""

import click

from cpuft.cli.lazy_group import LazyGroup

# Name of the command -> (where it is, what the help page says of it), in the order of that page.
COMMANDS = {
    "run": ("run:run", "Let a model answer a test set, and score the answers."),
    "models": ("models:models", "Measure several models side by side: quality, speed and memory."),
    "compare": (
        "compare:compare_models",
        "Say how much better a tuned model is than its base, and how sure that is.",
    ),
    "original": ("original:original", "Say what a model is worth on examples that no model wrote."),
    "stress": ("stress:stress", "Ask what is hard to answer well, and say which expectations were not met."),
    "forgetting": ("forgetting:forgetting", "Say what a tuned model lost beside what it was tuned for."),
    "samples": ("samples:samples", "Write two models' answers side by side into a page for reviewers."),
    "gate": ("gate:gate", "Decide whether a tuned model is good enough, from the results of the others."),
}


@click.group("eval", cls=LazyGroup, package="cpuft.cli.evaluation", table=COMMANDS)
def evaluate() -> None:
    """Say what models are worth: on held-out examples, with intervals, with what went wrong.

    \b
    Examples:
      cpuft eval run --model tuned.gguf --data test.jsonl
      cpuft eval compare --base base.gguf --adapter RUN/adapter.gguf --data test.jsonl --output result.json
    """
