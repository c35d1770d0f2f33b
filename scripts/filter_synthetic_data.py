"""`cpuft data filter` under the name that the specification gives it; its options are the same.

Usage: python scripts/filter_synthetic_data.py --input raw.jsonl --min-score 0.70 --output good.jsonl --min-examples 100
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cpuft.cli.main import cli

if __name__ == "__main__":
    cli(["data", "filter", *sys.argv[1:]], prog_name="cpuft")
