"""Where the real models lie that benchmarks and tests run on."""

import os
from pathlib import Path

from cpuft.errors import UserError

MODELS = ("gemma-3-270m-q4_k_m", "qwen2.5-coder-0.5b-instruct-q4_k_m", "qwen2.5-coder-1.5b-instruct-q4_k_m")


def models_folder() -> Path:
    """$CPUFT_REAL_MODELS, else real-models/ in the user's cache."""
    given = os.environ.get("CPUFT_REAL_MODELS")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "cpuft" / "real-models"


def find_model(name: str) -> Path:
    """The file of a model in the folder, or at a path.

    Raises:
        UserError: there is none.
    """
    for path in (models_folder() / f"{name}.gguf", Path(name)):
        if path.is_file():
            return path
    raise UserError(f"no model {name} in {models_folder()}: put it there, or set CPUFT_REAL_MODELS")
