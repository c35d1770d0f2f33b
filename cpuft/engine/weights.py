"""Matrices in ggml's types, from and to float32: done by the engine, which links ggml."""

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES

from cpuft.engine.abi import ByteArray, FloatArray, address, call
from cpuft.errors import EngineError
from cpuft.machine.cpu import available_cpus

# ggml_type -> values and bytes of a block; Q2_0 (42) is younger than the gguf package.
BLOCK_SIZES = {int(type): size for type, size in GGML_QUANT_SIZES.items()} | {42: (64, 18)}


def dequantize(type: int, data: npt.NDArray[np.uint8], rows: int, cols: int, threads: int = 0) -> FloatArray:
    """The float32 values (rows, cols) of a matrix stored as ggml type `type`."""
    source = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    values = np.empty((rows, cols), np.float32)
    call(
        "cpuft_dequantize", type, address(source), source.size, rows, cols, address(values), threads or available_cpus()
    )
    return values


def quantize(type: int, values: FloatArray, importance: FloatArray | None = None, threads: int = 0) -> ByteArray:
    """The bytes of a float32 matrix (rows, cols) in ggml type `type`, weighted by `importance` [cols]."""
    source = np.ascontiguousarray(values, np.float32)
    rows, cols = source.shape
    if importance is not None and (importance.shape != (cols,) or importance.dtype != np.float32):
        raise EngineError(f"the importance of {cols} columns must be as many float32 values")
    block_values, block_bytes = BLOCK_SIZES[type]
    nbytes = rows * (cols // block_values) * block_bytes
    data = np.empty(nbytes, np.uint8)
    call(
        "cpuft_quantize", type, address(source), rows, cols, address(importance), address(data), nbytes,
        threads or available_cpus()
    )  # fmt: skip
    return data
