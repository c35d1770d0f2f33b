"""Fixtures of the toolchain's tests."""

from pathlib import Path

import pytest

from tests.toolchain.tiny import TinyCheckout


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCheckout:
    """A fresh checkout that builds in seconds, with an empty cache."""
    return TinyCheckout(tmp_path)
