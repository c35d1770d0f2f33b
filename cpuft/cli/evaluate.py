"""`cpuft eval`: a table of commands that are imported when they are used."""

import importlib

import click

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


class Evaluations(click.Group):
    """A group that imports a command only when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command, None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(f"cpuft.cli.evaluation.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table's own words."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, says) for name, (_, says) in COMMANDS.items()])


@click.group("eval", cls=Evaluations)
def evaluate() -> None:
    """Say what models are worth: on held-out examples, with intervals, with what went wrong.

    \b
    Examples:
      cpuft eval run --model tuned.gguf --data test.jsonl
      cpuft eval compare --base base.gguf --adapter RUN/adapter.gguf --data test.jsonl --output result.json
    """
