"""The `--metric` option: a function of the user's own that says what an answer is worth."""

from collections.abc import Sequence
from dataclasses import replace

import click

from cpuft.roles import Role
from cpuft.roles.dspy_metric import asked_of, read_metric
from cpuft.synth.records import RoleRecord

metric_option = click.option(
    "--metric",
    metavar="MODULE:FUNCTION",
    help="A metric of DSPy's form, (example, prediction, trace=None) -> float, instead of the role's.",
)


def with_metric(role: Role, reference: str | None, records: Sequence[RoleRecord] = ()) -> Role:
    """The role with another metric, whose examples have the right answers of these records. Raises ConfigError."""
    if reference is None:
        return role
    answers = {asked_of(record.inputs): record.answer for record in records}
    return replace(role, metric=read_metric(reference, role, answers))
