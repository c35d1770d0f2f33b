"""The compiled engine as ctypes sees it: where it is found, its functions' prototypes, and its status codes as errors.

Only this room uses it. Each prototype stands in `cpuft/native/cpuft.h`, which is the manual.
"""

import ctypes
import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cpuft import toolchain
from cpuft.errors import EngineError, ModelError, ResourceError, ToolchainError
from cpuft.machine import cpu

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
SizeArray = npt.NDArray[np.int64]

ABI_VERSION = 5

INT32 = ctypes.c_int32
INT64 = ctypes.c_int64
UINT32 = ctypes.c_uint32
UINT64 = ctypes.c_uint64
FLOAT = ctypes.c_float
DOUBLE = ctypes.c_double
TEXT = ctypes.c_char_p
POINTER = ctypes.c_void_p
FLOATS = ctypes.POINTER(ctypes.c_float)
_LOSS = [ctypes.POINTER(DOUBLE), ctypes.POINTER(INT64)]  # loss_sum, n_supervised
BYTES = ctypes.POINTER(ctypes.c_uint8)

# name: argument types. All return a cpuft_status, but for the few below.
_PROTOTYPES: dict[str, list[Any]] = {
    "cpuft_open": [TEXT, INT32, TEXT, TEXT, ctypes.POINTER(POINTER)],
    "cpuft_tokenize": [POINTER, TEXT, INT64, INT32, INT32, POINTER, INT64, ctypes.POINTER(INT64)],
    "cpuft_detokenize": [POINTER, POINTER, INT64, INT32, POINTER, INT64, ctypes.POINTER(INT64)],
    "cpuft_adapter_init": [POINTER, INT32, FLOAT, FLOAT, UINT32, INT32, UINT64, ctypes.c_int],
    "cpuft_adapter_tensor": [POINTER, INT64, ctypes.POINTER(TEXT)] + 3 * [ctypes.POINTER(INT64)],
    "cpuft_parameters": [POINTER, ctypes.POINTER(FLOATS), ctypes.POINTER(INT64)],
    "cpuft_gradients": [POINTER, ctypes.POINTER(FLOATS), ctypes.POINTER(INT64)],
    "cpuft_optimizer_state": [POINTER, ctypes.POINTER(BYTES), ctypes.POINTER(INT64)],
    "cpuft_set_optimizer_state": [POINTER, POINTER, INT64],
    "cpuft_set_activations": [POINTER, ctypes.c_int],
    "cpuft_forward_backward": [POINTER] * 4 + [INT64] + [POINTER] * 2 + _LOSS,
    "cpuft_forward": [POINTER] * 4 + [INT64, POINTER] + _LOSS,
    "cpuft_forward_frozen": [POINTER] * 3 + [INT64, POINTER],
    "cpuft_forward_hidden": [POINTER] * 3 + [INT64, POINTER],
    "cpuft_logits": [POINTER] * 2 + [INT64, POINTER],
    "cpuft_step": [POINTER, INT64] + 6 * [FLOAT] + [ctypes.POINTER(DOUBLE)],
    "cpuft_zero_gradients": [POINTER],
    "cpuft_pass_size": [POINTER] * 4 + [INT64] + 2 * [INT32] + [POINTER],
    "cpuft_memory": [POINTER, INT32, UINT32, INT32] + 2 * [ctypes.c_int] + [POINTER, INT64, ctypes.POINTER(TEXT)],
    "cpuft_reserve": [POINTER, POINTER, INT64],
    "cpuft_profile": [POINTER, ctypes.POINTER(TEXT)],
    "cpuft_dequantize": [INT32, POINTER, INT64, INT64, INT64, POINTER, INT32],
    "cpuft_quantize": [INT32, POINTER, INT64, INT64, POINTER, POINTER, INT64, INT32],
}
# name: (argument types, result type)
_OTHER_PROTOTYPES: dict[str, tuple[list[Any], Any]] = {
    "cpuft_abi_version": ([], UINT32),
    "cpuft_last_error": ([], TEXT),
    "cpuft_close": ([POINTER], None),
    "cpuft_describe": ([POINTER], TEXT),
    "cpuft_adapter_count": ([POINTER], INT64),
    "cpuft_pass_tokens": ([POINTER], INT64),
}
_STATUS_ERRORS = {1: ModelError, 2: ResourceError, 3: EngineError}


def _library_path() -> Path:
    """CPUFT_LIBRARY where set, else what `cpuft build` made."""
    explicit = os.environ.get("CPUFT_LIBRARY")
    return Path(explicit) if explicit else toolchain.locate().engine_library


def default_isa() -> str | None:
    """The best kernel table that works, where a better one was found not to; None leaves it to the engine."""
    if os.environ.get("CPUFT_ISA") or os.environ.get("CPUFT_LIBRARY"):
        return None
    broken = toolchain.locate().broken_isas
    return cpu.best_isa(cpu.cpu_features(), cpu.cpu_vendor(), broken) if broken else None


@functools.cache
def library_digest() -> str:
    """A digest of the engine's build: what it computes may differ in rounding from one build to another."""
    return hashlib.sha256(_library_path().read_bytes()).hexdigest()


@functools.cache
def library() -> ctypes.CDLL:
    """Loads the engine. Raises ToolchainError where it cannot be loaded or has another interface than this file."""
    path = _library_path()
    mend = "run `cpuft build --force`, and leave CPUFT_LIBRARY unset"
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.cpuft_abi_version.restype = UINT32
        version = loaded.cpuft_abi_version()
    except (OSError, AttributeError) as error:
        raise ToolchainError(f"{path} cannot be used as the engine ({error}): {mend}") from error
    if version != ABI_VERSION:  # its functions may be others
        raise ToolchainError(f"{path} has version {version} of the engine's interface, expected {ABI_VERSION}: {mend}")
    for name, arguments in _PROTOTYPES.items():
        getattr(loaded, name).argtypes = arguments
        getattr(loaded, name).restype = ctypes.c_int
    for name, (arguments, result) in _OTHER_PROTOTYPES.items():
        getattr(loaded, name).argtypes = arguments
        getattr(loaded, name).restype = result
    return loaded


def call(name: str, *arguments: Any) -> None:
    """Calls a function that returns a status; raises its sentence as the error class that the status stands for."""
    status = getattr(library(), name)(*arguments)
    if status != 0:
        raise _STATUS_ERRORS.get(status, EngineError)(library().cpuft_last_error().decode(errors="replace"))


def address(array: npt.NDArray[Any] | None) -> int | None:
    """Where an array lies; the null pointer for None."""
    return None if array is None else array.ctypes.data
