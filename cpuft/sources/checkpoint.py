"""Hugging Face checkpoint folders (config.json, *.safetensors, tokenizer), turned into GGUF by llama.cpp's converter.

The result is kept in cpuft's cache under a digest of the folder's content, so nothing is converted twice. The converter
sees links to those files alone: no Python code that came with a checkpoint can run, and nothing is downloaded.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from cpuft import toolchain
from cpuft.errors import ModelError, ToolchainError
from cpuft.machine import cache
from cpuft.machine.child_process import bound
from cpuft.machine.disk import disk_errors
from cpuft.machine.files import atomic_write
from cpuft.machine.locks import sweep
from cpuft.machine.progress import Progress

WEIGHTS = ".safetensors"
# What a converter may read of a checkpoint: weights, configuration, vocabulary, chat template, model card.
SUFFIXES = (WEIGHTS, ".json", ".model", ".txt", ".jinja", ".md")
PACKAGES = ("torch", "transformers", "safetensors")
WRITING = re.compile(rb"Writing:\s+(\d+)%")  # the converter's own progress bar
TAIL_BYTES = 20_000


def converted_folder() -> Path:
    """Where converted models are kept."""
    return cache.cache_dir() / "converted"


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a Hugging Face checkpoint."""
    return (folder / "config.json").is_file()


def convert(folder: Path, progress: Progress) -> Path:
    """The GGUF file of a checkpoint folder, in the highest 16-bit precision that its weights have.

    Raises ModelError (not a checkpoint, damaged, unknown to the converter), ToolchainError (PyTorch is not installed).
    """
    files = _files(folder)
    source = toolchain.locate().source
    total = sum(file.stat().st_size for file in files)
    hashed = 0

    def on_bytes(count: int) -> None:
        nonlocal hashed
        hashed += count
        progress("reading", hashed, total)

    content = cache.hash_files(folder, files, on_bytes)
    target = converted_folder() / f"{cache.key_of(content=content, converter=source.name)}.gguf"
    if target.is_file():
        return target
    _require_packages(folder)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)  # of other checkpoints, too: each may take gigabytes
        with tempfile.TemporaryDirectory(prefix=".convert-", dir=target.parent) as name:
            view = Path(name) / (folder.resolve().name or "model")  # the converter takes the model's name from it
            view.mkdir()
            for file in files:
                (view / file.name).symlink_to(file.resolve())
            with atomic_write(target) as temporary:
                _run(source / "convert_hf_to_gguf.py", view, temporary, folder, progress)
    return target


def _files(folder: Path) -> list[Path]:
    """The files of a checkpoint that matter. Raises ModelError where it is none."""
    try:
        files = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES and file.is_file()]
    except OSError as error:
        raise ModelError(f"{folder}: cannot read the folder: {error.strerror}") from error
    if not is_checkpoint(folder):
        raise ModelError(f"{folder}: a folder without config.json, expected a GGUF file or a Hugging Face checkpoint")
    if not any(file.suffix == WEIGHTS for file in files):
        raise ModelError(f"{folder}: the checkpoint has no *{WEIGHTS} file, the only kind of weights that is converted")
    return files


def _require_packages(folder: Path) -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ToolchainError(
            f"{folder}: converting a checkpoint needs {' and '.join(missing)}: install them with `{sys.executable} -m "
            "pip install 'cpuft[convert]' --extra-index-url https://download.pytorch.org/whl/cpu`"
        )


def _run(script: Path, view: Path, target: Path, folder: Path, progress: Progress) -> None:
    """Runs the converter, following its progress bar."""
    command = bound([sys.executable, script, view, "--outfile", target])
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    output = b""
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        while data := os.read(process.stdout.fileno(), 4096):
            output = (output + data)[-TAIL_BYTES:]
            if percent := WRITING.findall(output):
                progress("converting", int(percent[-1]), 100, "%")
    if process.returncode != 0 or target.stat().st_size == 0:
        raise ModelError(f"{folder}: llama.cpp's converter cannot convert it: {_last_line(output)}")


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
