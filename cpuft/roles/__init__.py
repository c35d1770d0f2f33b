"""What a role of the team has to produce: one folder a role, with its prompt, its schema and its metric."""

from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from cpuft.errors import ConfigError
from cpuft.roles.folder import FILE, read_role
from cpuft.roles.role import Example, Inputs, Metric, Part, Role, Score
from cpuft.roles.team import FOLDER, NAMES

__all__ = ["DEFAULT", "NAMES", "Example", "Inputs", "Metric", "Part", "Role", "Score", "find_role"]

DEFAULT = "ba"
ENTRY_POINTS = "cpuft.roles"  # the group in which a package names the folders of its roles: NAME = "package:folder"


@cache
def find_role(name: str) -> Role:
    """The role of a name, or in a folder of one's own. Raises ConfigError, which names the roles that there are."""
    if name in NAMES:
        return read_role(FOLDER / name)
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        return read_role(Path(entry.load()))
    if "/" in name or (Path(name) / FILE).is_file():
        return read_role(Path(name))
    raise ConfigError(f"{name}: no such role, expected one of {', '.join(NAMES)}, or the folder of one's own")
