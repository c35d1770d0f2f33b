"""A text for llama-imatrix: words of random letters, the same every time."""

from pathlib import Path

import numpy as np


def write_text(path: Path, n_words: int = 200) -> Path:
    """Writes words of one to eight letters; a byte vocabulary reads about five tokens in each."""
    rng = np.random.default_rng(0)
    words = ("".join(map(chr, rng.integers(97, 123, rng.integers(1, 9)))) for _ in range(n_words))
    path.write_text(" ".join(words))
    return path
