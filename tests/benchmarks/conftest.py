"""A folder of tiny models that all benchmarks' tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the benchmarks keep their models during the tests."""
    return tmp_path_factory.mktemp("models")
