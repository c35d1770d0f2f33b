"""What a role of the team has to produce: one folder a role, with its prompt, its schema and its metric."""

import importlib

from cpuft.errors import ConfigError
from cpuft.roles.role import Metric, Role, Score

__all__ = ["DEFAULT", "NAMES", "Metric", "Role", "Score", "find_role"]

DEFAULT = "ba"
NAMES = (DEFAULT,)  # of the folders, each of which has its ROLE


def find_role(name: str) -> Role:
    """The role of a name. Raises ConfigError, which names the roles that there are."""
    if name not in NAMES:
        raise ConfigError(f"{name}: no such role, expected one of {', '.join(NAMES)}")
    role = importlib.import_module(f"cpuft.roles.{name}").ROLE
    assert isinstance(role, Role)
    return role
