"""`cpuft eval models` under the name and with the options that the specification gives it.

Usage: python scripts/benchmark_local_models.py --models qwen2.5:3b-instruct phi3:3.8b gemma2:2b-instruct
           --dataset dspy_baseline/data/production/ba_train.jsonl --metric dspy_baseline.metrics:ba_requirements_metric
           --output artifacts/benchmarks/local_models_baseline.json

A model that is no path is one of Ollama's, whose file is then run by cpuft itself. Other options are those of
`cpuft eval models`, such as --role architect or --report docs/fase8_model_selection.md.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cpuft.cli.main import cli
from cpuft.sources.source import named


def main() -> None:
    """Measure base models side by side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--models", nargs="+", required=True, metavar="MODEL", help="files, or names of Ollama's models"
    )
    parser.add_argument("--dataset", required=True, help="the test set")
    given, more = parser.parse_known_args()
    models = [word for name in given.models for word in ("--model", named(name))]
    cli(["eval", "models", *models, "--data", given.dataset, *more], prog_name="cpuft")


if __name__ == "__main__":
    main()
