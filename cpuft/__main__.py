"""`python -m cpuft` is the `cpuft` command."""

from cpuft.cli.main import cli

if __name__ == "__main__":
    cli(prog_name="cpuft")
