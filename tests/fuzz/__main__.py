"""Runs one fuzzer from the command line; exit code 1 where it found something."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.campaign import campaign
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Parses, runs, prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("artifacts/fuzz"), help="folder for what was found")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cpuft-fuzz-") as folder:
        report = campaign(TARGETS[given.target](Path(folder)), seconds=given.seconds, seed=given.seed)
    print(f"{given.target}, seed {given.seed}: {report.inputs} inputs, {report.refused} refused")
    for what, sample in report.findings.items():
        given.keep.mkdir(parents=True, exist_ok=True)
        kept = given.keep / f"{given.target}-{given.seed}-{sample.number}"
        kept.write_bytes(sample.data)
        print(f"{sample.times} times: {what}\n  the first is {kept}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
