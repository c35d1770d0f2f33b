"""Fixtures of the toolchain's tests."""

from pathlib import Path

import pytest

from .tiny import TinyCheckout


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCheckout:
    """Return a fresh checkout that builds in seconds, with an empty cache."""
    return TinyCheckout(tmp_path)
