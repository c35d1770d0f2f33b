"""The `--metric` option: a function of the user's own that says what an answer is worth."""

from collections.abc import Sequence
from dataclasses import replace

import click

from cpuft.roles import Role
from cpuft.roles.answer import write_answer
from cpuft.roles.dspy_metric import asked_of, read_metric
from cpuft.synth.records import RoleRecord

metric_option = click.option(
    "--metric",
    metavar="MODULE:FUNCTION",
    help="A metric of DSPy's form, (example, prediction, trace=None) -> float, instead of the role's. Where there is "
    "no right answer, as of generated data, its example has the question alone.",
)


def with_metric(
    role: Role, reference: str | None, records: Sequence[RoleRecord] = (), *, all_known: bool = False
) -> Role:
    """The role with another metric, whose examples have the right answers of these records.

    all_known: nothing else will be scored; else the metric is tried on a question without a right answer.
    Raises ConfigError where it cannot be used, before any work begins.
    """
    if reference is None:
        return role
    answers = {asked_of(record.inputs): record.answer for record in records}
    metric = read_metric(reference, role, answers)
    if not all_known:
        metric(write_answer(role.seeds[0].answer) if role.seeds else "", dict.fromkeys(role.sources, "anything"))
    return replace(role, metric=metric)
