"""The native training engine, from Python: the only file that knows ctypes and the C interface.

Each binding stands beside its prototype in `cpuft/native/cpuft.h`, which is the manual. Pointers that the engine hands
out become numpy views here; they are valid until the next `adapter_init` or `close`.
"""

import ctypes
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES

from cpuft import toolchain
from cpuft.errors import EngineError, ModelError, ResourceError

ABI_VERSION = 4
# The linear layers that an adapter can attach to, in the order of `enum cpuft_target`.
TARGETS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_qkv", "ffn_gate_up")

# How AdamW's moments are kept, in the order of `enum cpuft_moments`.
MOMENTS = ("f32", "8bit")
# ggml_type -> values and bytes of a block; Q2_0 (42) is younger than the gguf package.
BLOCK_SIZES = {int(type): size for type, size in GGML_QUANT_SIZES.items()} | {42: (64, 18)}

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

_INT32 = ctypes.c_int32
_INT64 = ctypes.c_int64
_UINT32 = ctypes.c_uint32
_UINT64 = ctypes.c_uint64
_FLOAT = ctypes.c_float
_DOUBLE = ctypes.c_double
_FLOAT32 = np.dtype(np.float32)
_TEXT = ctypes.c_char_p
_POINTER = ctypes.c_void_p
_FLOATS = ctypes.POINTER(ctypes.c_float)
_LOSS = [ctypes.POINTER(_DOUBLE), ctypes.POINTER(_INT64)]  # loss_sum, n_supervised
_BYTES = ctypes.POINTER(ctypes.c_uint8)

# name: argument types. All return a cpuft_status, but for the few below.
_PROTOTYPES: dict[str, list[Any]] = {
    "cpuft_open": [_TEXT, _INT32, _TEXT, _TEXT, ctypes.POINTER(_POINTER)],
    "cpuft_tokenize": [_POINTER, _TEXT, _INT64, _INT32, _INT32, _POINTER, _INT64, ctypes.POINTER(_INT64)],
    "cpuft_detokenize": [_POINTER, _POINTER, _INT64, _INT32, _POINTER, _INT64, ctypes.POINTER(_INT64)],
    "cpuft_adapter_init": [_POINTER, _INT32, _FLOAT, _FLOAT, _UINT32, _INT32, _UINT64, ctypes.c_int],
    "cpuft_adapter_tensor": [_POINTER, _INT64, ctypes.POINTER(_TEXT)] + 3 * [ctypes.POINTER(_INT64)],
    "cpuft_parameters": [_POINTER, ctypes.POINTER(_FLOATS), ctypes.POINTER(_INT64)],
    "cpuft_gradients": [_POINTER, ctypes.POINTER(_FLOATS), ctypes.POINTER(_INT64)],
    "cpuft_optimizer_state": [_POINTER, ctypes.POINTER(_BYTES), ctypes.POINTER(_INT64)],
    "cpuft_set_optimizer_state": [_POINTER, _POINTER, _INT64],
    "cpuft_set_activations": [_POINTER, ctypes.c_int],
    "cpuft_forward_backward": [_POINTER] * 4 + [_INT64] + [_POINTER] * 2 + _LOSS,
    "cpuft_forward": [_POINTER] * 4 + [_INT64, _POINTER] + _LOSS,
    "cpuft_forward_frozen": [_POINTER] * 3 + [_INT64, _POINTER],
    "cpuft_logits": [_POINTER] * 3 + [_INT64, _POINTER],
    "cpuft_step": [_POINTER, _INT64] + 6 * [_FLOAT] + [ctypes.POINTER(_DOUBLE)],
    "cpuft_zero_gradients": [_POINTER],
    "cpuft_profile": [_POINTER, ctypes.POINTER(_TEXT)],
    "cpuft_dequantize": [_INT32, _POINTER, _INT64, _INT64, _INT64, _POINTER, _INT32],
    "cpuft_quantize": [_INT32, _POINTER, _INT64, _INT64, _POINTER, _POINTER, _INT64, _INT32],
}
# name: (argument types, result type)
_OTHER_PROTOTYPES: dict[str, tuple[list[Any], Any]] = {
    "cpuft_abi_version": ([], _UINT32),
    "cpuft_last_error": ([], _TEXT),
    "cpuft_close": ([_POINTER], None),
    "cpuft_describe": ([_POINTER], _TEXT),
    "cpuft_adapter_count": ([_POINTER], _INT64),
    "cpuft_pass_tokens": ([_POINTER], _INT64),
}
_STATUS_ERRORS = {1: ModelError, 2: ResourceError, 3: EngineError}


def _library_path() -> Path:
    """Return CPUFT_LIBRARY where set, else what `cpuft build` made."""
    explicit = os.environ.get("CPUFT_LIBRARY")
    return Path(explicit) if explicit else toolchain.locate().engine_library


@functools.cache
def library_digest() -> str:
    """Return a digest of the engine's build: what it computes may differ in rounding from one build to another."""
    return hashlib.sha256(_library_path().read_bytes()).hexdigest()


@functools.cache
def _library() -> ctypes.CDLL:
    """Load the engine."""
    path = _library_path()
    library = ctypes.CDLL(str(path))
    for name, arguments in _PROTOTYPES.items():
        getattr(library, name).argtypes = arguments
        getattr(library, name).restype = ctypes.c_int
    for name, (arguments, result) in _OTHER_PROTOTYPES.items():
        getattr(library, name).argtypes = arguments
        getattr(library, name).restype = result
    if library.cpuft_abi_version() != ABI_VERSION:
        raise EngineError(f"{path} has another interface version; run `cpuft build --force`")
    return library


def _call(name: str, *arguments: Any) -> None:
    """Call a function that returns a status; raise its sentence as the error class that the status stands for."""
    status = getattr(_library(), name)(*arguments)
    if status != 0:
        raise _STATUS_ERRORS.get(status, EngineError)(_library().cpuft_last_error().decode(errors="replace"))


def _address(array: npt.NDArray[Any] | None) -> int | None:
    return None if array is None else array.ctypes.data


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


@dataclass(frozen=True)
class Batch:
    """One micro-batch: n token sequences of T tokens in all, laid end to end without padding.

    tokens: int32 [T].
    supervised: uint8 [T], 1 where the token is a target of the loss.
    lengths: int64 [n], summing to T.
    dropout_keys: uint64 [n] that select each sequence's dropout masks, or None for no dropout.
    """

    tokens: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int64]
    dropout_keys: npt.NDArray[np.uint64] | None = None

    def __post_init__(self) -> None:
        wanted = {"tokens": np.int32, "supervised": np.uint8, "lengths": np.int64, "dropout_keys": np.uint64}
        for name, dtype in wanted.items():
            array = getattr(self, name)
            if array is not None and (array.dtype != dtype or array.ndim != 1 or not array.flags.c_contiguous):
                raise EngineError(f"Batch.{name} must be a contiguous vector of {np.dtype(dtype).name}")
        if len(self.lengths) == 0 or self.lengths.min() < 1 or self.lengths.sum() != len(self.tokens):
            raise EngineError("Batch.lengths must be positive and sum to the number of tokens")
        if len(self.supervised) != len(self.tokens):
            raise EngineError("Batch.supervised must be as long as Batch.tokens")
        if self.dropout_keys is not None and len(self.dropout_keys) != len(self.lengths):
            raise EngineError("Batch.dropout_keys must be as long as Batch.lengths")


@dataclass(frozen=True)
class AdapterTensor:
    """Where one LoRA matrix lies in the engine's flat arrays. shape is (rank, n_in) for A, (n_out, rank) for B."""

    name: str
    shape: tuple[int, int]
    offset: int

    def view(self, flat: FloatArray) -> FloatArray:
        """Return the matrix as a view of `flat`: parameters, gradients or a moment."""
        return flat[self.offset : self.offset + self.shape[0] * self.shape[1]].reshape(self.shape)


class Engine:
    """A base model opened for training. Use it as a context manager, or call `close`.

    Args:
        model: path of a GGUF file.
        threads: worker threads; 0 takes every CPU that this process may use.
        isa: "reference", "avx2", "avx512", "avx512bf16", or None for the best that this CPU has.
        precision: "f32", "bf16" or "int8", as in cpuft.h; None for what it takes by itself.

    Raises:
        ModelError: the file is missing, damaged or of an architecture that cpuft does not train.
    """

    def __init__(self, model: Path, *, threads: int = 0, isa: str | None = None, precision: str | None = None) -> None:
        self._handle: int | None = None
        handle = _POINTER()
        _call("cpuft_open", os.fsencode(model), threads, _encoded(isa), _encoded(precision), ctypes.byref(handle))
        self._handle = handle.value
        self.facts: dict[str, Any] = json.loads(_library().cpuft_describe(self._handle))
        self.adapter_tensors: list[AdapterTensor] = []

    def close(self) -> None:
        """Free the engine; views that it handed out die with it."""
        if self._handle is not None:
            _library().cpuft_close(self._handle)
            self._handle = None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    # ---- Tokenizer -----------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return llama.cpp's tokens of `text`; see cpuft_tokenize."""
        data = text.encode()
        needed = _INT64(len(data) + 16)
        tokens = np.empty(0, np.int32)
        while needed.value > len(tokens):
            tokens = np.empty(needed.value, np.int32)
            capacity = len(tokens)
            _call(
                "cpuft_tokenize", self._handle, data, len(data), add_special, parse_special,
                _address(tokens), capacity, ctypes.byref(needed),
            )  # fmt: skip
            if needed.value <= capacity:
                break
        return [int(token) for token in tokens[: needed.value]]

    def detokenize(self, tokens: Sequence[int], *, render_special: bool = True) -> bytes:
        """Return the bytes that `tokens` stand for; control tokens as text where `render_special` is set."""
        array = np.asarray(tokens, np.int32)
        capacity = 16 * len(array) + 64
        while True:
            text = ctypes.create_string_buffer(capacity)
            needed = _INT64()
            _call(
                "cpuft_detokenize", self._handle, _address(array), len(array), render_special,
                ctypes.addressof(text), capacity, ctypes.byref(needed),
            )  # fmt: skip
            if needed.value <= capacity:
                return text.raw[: needed.value]
            capacity = needed.value

    # ---- Adapter -------------------------------------------------------------------------------------------------

    def adapter_init(
        self,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        targets: Sequence[str] | None = None,
        first_layer: int = 0,
        seed: int = 0,
        moments: Literal["f32", "8bit"] = "f32",
    ) -> None:
        """Attach a fresh LoRA adapter to the linear layers `targets` of all layers from `first_layer` on.

        targets: some of `facts["targets"]`, or None for all. moments: AdamW's state, 8 bytes a parameter or 2.03.
        """
        mask = 0
        for target in self.facts["targets"] if targets is None else targets:
            if target not in TARGETS:
                raise EngineError(f"unknown LoRA target {target!r}; expected some of {', '.join(TARGETS)}")
            mask |= 1 << TARGETS.index(target)
        settings = (rank, alpha, dropout, mask, first_layer, seed, MOMENTS.index(moments))
        _call("cpuft_adapter_init", self._handle, *settings)
        self.adapter_tensors = [self._adapter_tensor(i) for i in range(_library().cpuft_adapter_count(self._handle))]

    def _adapter_tensor(self, i: int) -> AdapterTensor:
        name, rows, cols, offset = _TEXT(), _INT64(), _INT64(), _INT64()
        references = [ctypes.byref(x) for x in (name, rows, cols, offset)]
        _call("cpuft_adapter_tensor", self._handle, i, *references)
        return AdapterTensor((name.value or b"").decode(), (rows.value, cols.value), offset.value)

    def _view(self, function: str) -> FloatArray:
        pointer, n = _FLOATS(), _INT64()
        _call(function, self._handle, ctypes.byref(pointer), ctypes.byref(n))
        return np.ctypeslib.as_array(pointer, (n.value,))

    @property
    def parameters(self) -> FloatArray:
        """All adapter matrices as one flat, writable view."""
        return self._view("cpuft_parameters")

    @property
    def gradients(self) -> FloatArray:
        """Their gradients: of the SUM of the losses since the last step."""
        return self._view("cpuft_gradients")

    @property
    def optimizer_state(self) -> ByteArray:
        """AdamW's moments as a read-only view of bytes, laid out as cpuft_optimizer_state says."""
        pointer, n = _BYTES(), _INT64()
        _call("cpuft_optimizer_state", self._handle, ctypes.byref(pointer), ctypes.byref(n))
        state = np.ctypeslib.as_array(pointer, (n.value,))
        state.flags.writeable = False
        return state

    def set_optimizer_state(self, state: ByteArray) -> None:
        """Copy a state that `optimizer_state` showed for an adapter of the same shape and precision of moments."""
        source = np.ascontiguousarray(state).view(np.uint8).reshape(-1)
        _call("cpuft_set_optimizer_state", self._handle, _address(source), source.size)

    # ---- Training ------------------------------------------------------------------------------------------------

    def set_activations(self, policy: Literal["keep", "recompute"]) -> None:
        """Choose what of the forward pass is kept for the backward pass. Gradients do not depend on it."""
        _call("cpuft_set_activations", self._handle, ("keep", "recompute").index(policy))

    def forward_backward(self, batch: Batch, frozen: FloatArray | None = None) -> tuple[float, int]:
        """Add the gradient of one micro-batch; return (sum of losses in nats, supervised tokens).

        frozen: (T, n_embd), what `forward_frozen` gives for the batch, so that the layers below the adapter do not run.
        """
        return self._loss("cpuft_forward_backward", batch, frozen, _address(batch.dropout_keys))

    def forward(self, batch: Batch, frozen: FloatArray | None = None) -> tuple[float, int]:
        """Return (sum of losses in nats, supervised tokens), without dropout and gradients; `frozen` as above."""
        return self._loss("cpuft_forward", batch, frozen)

    def _loss(self, function: str, batch: Batch, frozen: FloatArray | None, *keys: int | None) -> tuple[float, int]:
        shape = (len(batch.tokens), self.facts["n_embd"])
        if frozen is not None and (frozen.shape, frozen.dtype, frozen.flags.c_contiguous) != (shape, _FLOAT32, True):
            raise EngineError(f"frozen must be a contiguous float32 array of shape {shape}")
        loss, count = _DOUBLE(), _INT64()
        _call(
            function, self._handle, _address(batch.tokens), _address(batch.supervised), _address(batch.lengths),
            len(batch.lengths), *keys, _address(frozen), ctypes.byref(loss), ctypes.byref(count),
        )  # fmt: skip
        return loss.value, count.value

    @property
    def pass_tokens(self) -> int:
        """How many tokens the last pass computed: no more than it was given; see cpuft_pass_tokens."""
        return int(_library().cpuft_pass_tokens(self._handle))

    def forward_frozen(self, tokens: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> FloatArray:
        """Return the residual stream before the adapter's first layer, (T, n_embd): what training does not change."""
        return self._rows("cpuft_forward_frozen", tokens, lengths, self.facts["n_embd"])

    def logits(self, tokens: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> FloatArray:
        """Return the logits of every position, (T, V). For tests and small inputs."""
        return self._rows("cpuft_logits", tokens, lengths, self.facts["n_vocab"])

    def _rows(self, function: str, tokens: npt.NDArray[Any], lengths: npt.NDArray[Any], width: int) -> FloatArray:
        """What a function gives for every token, (T, width)."""
        batch = Batch(tokens, np.zeros(len(tokens), np.uint8), lengths)
        rows = np.empty((len(tokens), width), np.float32)
        _call(function, self._handle, _address(batch.tokens), _address(batch.lengths), len(lengths), _address(rows))
        return rows

    def step(
        self,
        *,
        step: int,
        learning_rate: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 0.0,
    ) -> float:
        """Take one AdamW step on the accumulated mean gradient; return its norm before clipping."""
        grad_norm = _DOUBLE()
        settings = (learning_rate, beta1, beta2, epsilon, weight_decay, max_grad_norm)
        _call("cpuft_step", self._handle, step, *settings, ctypes.byref(grad_norm))
        return grad_norm.value

    def zero_gradients(self) -> None:
        """Forget the gradient accumulated since the last step."""
        _call("cpuft_zero_gradients", self._handle)

    def profile(self) -> dict[str, float]:
        """Return the seconds that passes and steps have taken since the last call, by part; see cpuft_profile."""
        parts = _TEXT()
        _call("cpuft_profile", self._handle, ctypes.byref(parts))
        return {part: nanoseconds * 1e-9 for part, nanoseconds in json.loads(parts.value or b"{}").items()}


# ---- Weight formats ----------------------------------------------------------------------------------------------


def dequantize(type: int, data: npt.NDArray[np.uint8], rows: int, cols: int, threads: int = 0) -> FloatArray:
    """Return the float32 values (rows, cols) of a matrix stored as ggml type `type`."""
    source = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    values = np.empty((rows, cols), np.float32)
    _call("cpuft_dequantize", type, _address(source), source.size, rows, cols, _address(values), threads)
    return values


def quantize(type: int, values: FloatArray, importance: FloatArray | None = None, threads: int = 0) -> ByteArray:
    """Return the bytes of a float32 matrix (rows, cols) in ggml type `type`, weighted by `importance` [cols]."""
    source = np.ascontiguousarray(values, np.float32)
    rows, cols = source.shape
    if importance is not None and (importance.shape != (cols,) or importance.dtype != np.float32):
        raise EngineError(f"the importance of {cols} columns must be as many float32 values")
    block_values, block_bytes = BLOCK_SIZES[type]
    nbytes = rows * (cols // block_values) * block_bytes
    data = np.empty(nbytes, np.uint8)
    _call(
        "cpuft_quantize", type, _address(source), rows, cols, _address(importance), _address(data), nbytes, threads
    )  # fmt: skip
    return data
