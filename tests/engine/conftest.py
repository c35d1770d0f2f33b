"""Fixtures of the engine's tests: random models, each written once a session."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .golden import CASES
from .random_model import ModelSpec, write_model


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[ModelSpec], Path]:
    """Spec -> the path of its F32 GGUF."""
    folder = tmp_path_factory.mktemp("random-models")
    written: dict[ModelSpec, Path] = {}

    def write(spec: ModelSpec) -> Path:
        if spec not in written:
            written[spec] = write_model(folder / f"{len(written)}.gguf", spec)
        return written[spec]

    return write


@pytest.fixture(scope="session", params=CASES)
def case_name(request: pytest.FixtureRequest) -> str:
    """Each golden case in turn."""
    return str(request.param)


@pytest.fixture(scope="session", params=[name for name, case in CASES.items() if case.model.n_layer < 10])
def shallow_case_name(request: pytest.FixtureRequest) -> str:
    """Each golden case of so few layers that what is rounded in the first of them is not magnified beyond use."""
    return str(request.param)
