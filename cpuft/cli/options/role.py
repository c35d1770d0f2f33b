"""The `--role` option: whose prompt, schema and metric count."""

from typing import Any

import click

from cpuft.roles import DEFAULT, NAMES, Role, find_role


class RoleName(click.ParamType[Role]):
    """The name of a role, turned into the role."""

    name = f"{'|'.join(NAMES)}|FOLDER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Role:
        """Returns the role. Raises ConfigError, which names the roles."""
        return value if isinstance(value, Role) else find_role(str(value))


role_option = click.option(
    "--role", type=RoleName(), default=DEFAULT, show_default=True, help="Whose metric scores the answers."
)
