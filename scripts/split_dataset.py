"""`cpuft data split` under the name that the specification gives it; its options are the same.

Usage: python scripts/split_dataset.py --input good.jsonl --train train.jsonl --val val.jsonl --split 0.8
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cpuft.cli.main import cli

if __name__ == "__main__":
    cli(["data", "split", *sys.argv[1:]], prog_name="cpuft")
