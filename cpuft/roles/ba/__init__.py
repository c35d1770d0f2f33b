"""Business analyst: from a one-line concept to a requirements document in YAML."""

from cpuft.roles.ba.document import schema, system_prompt
from cpuft.roles.ba.metric import score
from cpuft.roles.role import Role

ROLE = Role(
    name="ba",
    title="business analyst",
    system_prompt=system_prompt(),
    question="Concept: {input}",
    schema=schema(),
    metric=score,
)
