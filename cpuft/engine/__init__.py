"""The native training engine as Python sees it; `cpuft/native/cpuft.h` is its manual."""

from cpuft.engine.abi import ByteArray, FloatArray, SizeArray
from cpuft.engine.batch import Batch
from cpuft.engine.engine import MOMENTS, PASS_SIZE, POLICIES, TARGETS, AdapterTensor, Engine
from cpuft.engine.weights import BLOCK_SIZES, dequantize, quantize

__all__ = [
    "BLOCK_SIZES",
    "MOMENTS",
    "PASS_SIZE",
    "POLICIES",
    "TARGETS",
    "AdapterTensor",
    "Batch",
    "ByteArray",
    "Engine",
    "FloatArray",
    "SizeArray",
    "dequantize",
    "quantize",
]
