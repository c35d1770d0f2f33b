"""Which type each tensor gets in a q4_k_m (q5_k_s, iq4_xs, …) file, decided by llama-quantize itself.

llama.cpp mixes types by layer, role and shape. Its tool prints the mixture without quantizing (--dry-run), so reading
that print is equal to llama-quantize by construction, in every release.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cpuft import toolchain
from cpuft.errors import ConfigError, ModelError, ToolchainError
from cpuft.gguf.reader import TYPES_BY_NAME, Gguf, TensorType

# "  15  or  Q4_K_M  :  4.58G, +0.1754 ppl @ Llama-3-8B"
FILE_TYPE_LINE = re.compile(r"^\s*(\d+)\s+or\s+(\w+)\s*:", re.MULTILINE)
# "[   1/ 291] output.weight  - [ 4096, 32000, 1, 1], type = f16, size = 250.00 MiB -> 102.54 MiB (q6_K)"; a tensor that
# keeps its type has no arrow.
TENSOR_LINE = re.compile(
    r"^\[ *\d+/ *\d+\] (\S+) +- \[.*\], type = +(\w+), size = .*?(?:-> .*\((\w+)\))?$", re.MULTILINE
)
IMPORTANCE_LINE = "will require an imatrix"


@dataclass(frozen=True)
class Mixture:
    """A file type applied to one model."""

    name: str  # as the user wrote it, in lower case
    number: int  # llama_ftype, the value of general.file_type
    types: dict[str, TensorType]  # tensor name -> type
    needs_importance: bool  # llama-quantize would refuse it, for it was asked without an importance matrix


def file_types() -> dict[str, int]:
    """The file types that llama-quantize knows, by lower-case name."""
    usage = _run("--help")
    types = {name.lower(): int(number) for number, name in FILE_TYPE_LINE.findall(usage.stdout)}
    if not types:
        raise ToolchainError("llama-quantize printed no list of types: run `cpuft build --force`")
    return types


def mixture(base: Gguf, file_type: str, imatrix: Path | None = None) -> Mixture:
    """The types that llama-quantize would give to the tensors of a model; an importance matrix changes some."""
    known = file_types()
    if file_type not in known:
        raise ConfigError(f"unknown type {file_type!r}, expected keep or one of {', '.join(known)}")
    importance = () if imatrix is None else ("--imatrix", str(imatrix.absolute()))
    result = _run("--allow-requantize", *importance, "--dry-run", str(base.path.absolute()), file_type.upper())
    if result.returncode != 0:
        raise ModelError(f"{base.path}: llama-quantize cannot read the model: {_last_line(result.stderr)}")
    types = {}
    for name, source, target in TENSOR_LINE.findall(result.stderr):
        type_ = TYPES_BY_NAME.get((target or source).lower())
        if type_ is None:
            raise ConfigError(
                f"the type {file_type} needs {target or source}, which cpuft cannot write: choose another"
            )
        types[name] = type_
    if types.keys() != base.tensors.keys():
        raise ToolchainError(
            f"{base.path}: llama-quantize listed {len(types)} tensors where the file has {len(base.tensors)}: "
            "run `cpuft build --force`"
        )
    return Mixture(file_type, known[file_type], types, IMPORTANCE_LINE in result.stderr)


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    tool = toolchain.locate().tool("llama-quantize")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, errors="replace", check=False)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"
