"""`cpuft prepare` under the name that the specification gives it; a --model-name that is no file is one of Ollama's.

Usage: python scripts/prepare_model_for_training.py --model-name qwen2.5:3b-instruct --output-dir DIR
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cpuft.cli.main import cli
from cpuft.sources.source import named

OPTION = "--model-name"


def _apart(word: str) -> list[str]:
    """--model-name=X as two words."""
    return [OPTION, word.removeprefix(f"{OPTION}=")] if word.startswith(f"{OPTION}=") else [word]


if __name__ == "__main__":
    arguments = [part for word in sys.argv[1:] for part in _apart(word)]
    for i, name in enumerate(arguments):
        if i > 0 and arguments[i - 1] == OPTION:
            arguments[i] = named(name)
    cli(["prepare", *arguments], prog_name="cpuft")
