"""The real models that tests run on, and what happens to a test where they are not.

They lie in $CPUFT_REAL_MODELS, else in ~/.cache/cpuft/real-models, under the names below. Where one is missing, a test
that needs it is skipped, and the summary names the file; with CPUFT_REAL_REQUIRED=1 it fails.
"""

import os
from pathlib import Path

import pytest

from benchmarks.real_models import models_folder

GEMMA = "gemma-3-270m-q4_k_m"  # a base model: no chat template, a SentencePiece vocabulary of 262,144
CODER = "qwen2.5-coder-0.5b-instruct-q4_k_m"  # has a chat template; a BPE vocabulary of 151,936
CODER_1B5 = "qwen2.5-coder-1.5b-instruct-q4_k_m"


def threads() -> int:
    """For each process of these tests: the CPUs, shared out among the workers that pytest runs at the same time."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def require(name: str) -> Path:
    """The file of a model; ends the test where it is missing."""
    path = models_folder() / f"{name}.gguf"
    if not path.is_file():
        sentence = f"{path} is not there: set CPUFT_REAL_MODELS to a folder that has it"
        if os.environ.get("CPUFT_REAL_REQUIRED") == "1":
            pytest.fail(f"{sentence} (CPUFT_REAL_REQUIRED=1)")
        pytest.skip(sentence)
    return path
