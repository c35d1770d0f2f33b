"""An adapter may be given as its file, the folder around it, or a file in it; else a sentence names what to give."""

from pathlib import Path

import pytest

from cpuft.adapters.adapter import read_adapter, write_adapter
from cpuft.adapters.files import convert, open_adapter
from cpuft.adapters.place import adapter_at
from cpuft.errors import AdapterError
from cpuft.gguf.reader import read_gguf
from tests.conftest import RunCpuft
from tests.gguf.tiny import random_adapter, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("place") / "tiny.gguf")


@pytest.fixture
def run_folder(model: Path, tmp_path: Path) -> Path:
    """As `cpuft train` leaves it, with two checkpoints."""
    folder = tmp_path / "run"
    for place in ("", "checkpoints/step-9", "checkpoints/step-10"):
        (folder / place).mkdir(parents=True)
        write_adapter(folder / place / "adapter.gguf", random_adapter(model, rank=4), alpha=8, architecture="llama")
    return folder


@pytest.fixture
def peft_folder(run_folder: Path, model: Path, tmp_path: Path) -> Path:
    """As PEFT saves an adapter."""
    convert(run_folder, tmp_path / "peft", "peft", model=model)
    return tmp_path / "peft"


def test_a_run_stands_for_its_best_adapter(run_folder: Path, model: Path) -> None:
    best = read_adapter(run_folder / "adapter.gguf")
    for place in (run_folder, run_folder / "adapter.gguf"):
        assert adapter_at(place) == run_folder / "adapter.gguf"
        opened = open_adapter(place, read_gguf(model))
        assert all((opened.tensors[name] == values).all() for name, values in best.tensors.items())


def test_a_file_of_peft_stands_for_its_folder(peft_folder: Path, model: Path) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json", ""):
        assert adapter_at(peft_folder / name) == peft_folder
        assert open_adapter(peft_folder / name, read_gguf(model)).rank == 4


def test_folders_around_checkpoints_name_the_newest(run_folder: Path, tmp_path: Path) -> None:
    (run_folder / "adapter.gguf").unlink()
    with pytest.raises(AdapterError, match=r"run: .* but 2 below it: give one, such as .*checkpoints/step-10$"):
        adapter_at(run_folder)
    trainer = tmp_path / "trainer"
    for step in (60, 100):
        (trainer / f"checkpoint-{step}").mkdir(parents=True)
        (trainer / f"checkpoint-{step}" / "adapter_config.json").touch()
    with pytest.raises(AdapterError, match=r"trainer: .* but 2 below it: give one, such as .*checkpoint-100$"):
        adapter_at(trainer)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match=r"empty: the folder has neither adapter\.gguf.* nor adapter_config\.json"):
        adapter_at(tmp_path / "empty")


def test_the_option_takes_all_of_them(
    run_cpuft: RunCpuft, run_folder: Path, peft_folder: Path, model: Path, tmp_path: Path
) -> None:
    """The bytes of a merge tell that the same adapter was taken."""
    merged: list[bytes] = []
    for given in (run_folder, run_folder / "adapter.gguf", peft_folder, peft_folder / "adapter_model.safetensors"):
        output = tmp_path / f"{len(merged)}.gguf"
        done = run_cpuft("merge", "--model", model, "--adapter", given, "--type", "f16", "--output", output)
        assert done.returncode == 0, done.stderr
        merged.append(output.read_bytes())
    assert merged[0] == merged[1]
    assert merged[2] == merged[3]


def test_the_output_does_not_replace_what_was_meant(run_cpuft: RunCpuft, run_folder: Path, model: Path) -> None:
    before = (run_folder / "adapter.gguf").read_bytes()
    done = run_cpuft(
        "merge", "--model", model, "--adapter", run_folder, "--type", "f16", "--output", run_folder / "adapter.gguf"
    )
    assert done.returncode == 2
    assert (run_folder / "adapter.gguf").read_bytes() == before
