"""The native training engine, from Python. With `abi` and `weights`, the only files that know the C interface.

What each function does stands in `cpuft/native/cpuft.h`, which is the manual. Pointers that the engine hands
out become numpy views here; they are valid until the next `adapter_init` or `close`.
"""

import ctypes
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cpuft.config import keys
from cpuft.config.keys import TrainConfig
from cpuft.engine.abi import (
    BYTES,
    DOUBLE,
    FLOATS,
    INT64,
    POINTER,
    TEXT,
    ByteArray,
    FloatArray,
    SizeArray,
    address,
    call,
    default_isa,
    library,
)
from cpuft.engine.batch import Batch
from cpuft.errors import EngineError
from cpuft.machine.cpu import available_cpus

# The linear layers that an adapter can attach to, in the order of `enum cpuft_target`.
TARGETS = tuple(keys.TARGETS.values())

# How AdamW's moments are kept, in the order of `enum cpuft_moments`.
MOMENTS = ("f32", "8bit")
# What survives from the forward to the backward pass, in the order of `enum cpuft_activations`.
POLICIES = ("keep", "recompute")
# The entries of a pass's size, in the order of `enum cpuft_pass_size_entry`.
PASS_SIZE = ("tokens", "targets", "pairs", "training", "dropout")


_FLOAT32 = np.dtype(np.float32)


def _sizes(sizes: SizeArray) -> tuple[int | None, int]:
    """The arguments that hand over sizes of passes."""
    if sizes.dtype != np.int64 or sizes.ndim != 2 or sizes.shape[1] != len(PASS_SIZE) or not sizes.flags.c_contiguous:
        raise EngineError(f"sizes must be a contiguous int64 array of shape (passes, {len(PASS_SIZE)})")
    return address(sizes), len(sizes)


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _target_mask(targets: Sequence[str]) -> int:
    mask = 0
    for target in targets:
        if target not in TARGETS:
            raise EngineError(f"unknown LoRA target {target!r}; expected some of {', '.join(TARGETS)}")
        mask |= 1 << TARGETS.index(target)
    return mask


@dataclass(frozen=True)
class AdapterTensor:
    """Where one LoRA matrix lies in the engine's flat arrays. shape is (rank, n_in) for A, (n_out, rank) for B."""

    name: str
    shape: tuple[int, int]
    offset: int

    def view(self, flat: FloatArray) -> FloatArray:
        """The matrix as a view of `flat`: parameters, gradients or a moment."""
        return flat[self.offset : self.offset + self.shape[0] * self.shape[1]].reshape(self.shape)


class Engine:
    """A base model opened for training. Use it as a context manager, or call `close`.

    Args:
        model: path of a GGUF file.
        threads: worker threads; 0 takes every CPU that this process may use, a container's quota counted.
        isa: a kernel table by name, as in cpuft.h; None for the best that this CPU has and that works.
        precision: "f32", "bf16" or "int8", as in cpuft.h; None for what it takes by itself.

    Raises:
        ModelError: the file is missing, damaged or of an architecture that cpuft does not train.
    """

    def __init__(self, model: Path, *, threads: int = 0, isa: str | None = None, precision: str | None = None) -> None:
        self._handle: int | None = None
        handle = POINTER()
        isa, threads = isa or default_isa(), threads or available_cpus()
        call("cpuft_open", os.fsencode(model), threads, _encoded(isa), _encoded(precision), ctypes.byref(handle))
        self._handle = handle.value
        self.facts: dict[str, Any] = json.loads(library().cpuft_describe(self._handle))
        self.adapter_tensors: list[AdapterTensor] = []

    def close(self) -> None:
        """Frees the engine; views that it handed out die with it."""
        if self._handle is not None:
            library().cpuft_close(self._handle)
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
        """Llama.cpp's tokens of `text`; see cpuft_tokenize."""
        data = text.encode()
        needed = INT64(len(data) + 16)
        tokens = np.empty(0, np.int32)
        while needed.value > len(tokens):
            tokens = np.empty(needed.value, np.int32)
            capacity = len(tokens)
            call(
                "cpuft_tokenize", self._handle, data, len(data), add_special, parse_special,
                address(tokens), capacity, ctypes.byref(needed),
            )  # fmt: skip
            if needed.value <= capacity:
                break
        return [int(token) for token in tokens[: needed.value]]

    def detokenize(self, tokens: Sequence[int], *, render_special: bool = True) -> bytes:
        """The bytes that `tokens` stand for; control tokens as text where `render_special` is set."""
        array = np.asarray(tokens, np.int32)
        capacity = 16 * len(array) + 64
        while True:
            text = ctypes.create_string_buffer(capacity)
            needed = INT64()
            call(
                "cpuft_detokenize", self._handle, address(array), len(array), render_special,
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
        """Attaches a fresh LoRA adapter to the linear layers `targets` of all layers from `first_layer` on.

        targets: some of `facts["targets"]`, or None for all. moments: AdamW's state, 8 bytes a parameter or 2.03.
        """
        mask = _target_mask(self.facts["targets"] if targets is None else targets)
        settings = (rank, alpha, dropout, mask, first_layer, seed, MOMENTS.index(moments))
        call("cpuft_adapter_init", self._handle, *settings)
        self.adapter_tensors = [self._adapter_tensor(i) for i in range(library().cpuft_adapter_count(self._handle))]

    def _adapter_tensor(self, i: int) -> AdapterTensor:
        name, rows, cols, offset = TEXT(), INT64(), INT64(), INT64()
        references = [ctypes.byref(x) for x in (name, rows, cols, offset)]
        call("cpuft_adapter_tensor", self._handle, i, *references)
        return AdapterTensor((name.value or b"").decode(), (rows.value, cols.value), offset.value)

    def _view(self, function: str) -> FloatArray:
        pointer, n = FLOATS(), INT64()
        call(function, self._handle, ctypes.byref(pointer), ctypes.byref(n))
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
        pointer, n = BYTES(), INT64()
        call("cpuft_optimizer_state", self._handle, ctypes.byref(pointer), ctypes.byref(n))
        state = np.ctypeslib.as_array(pointer, (n.value,))
        state.flags.writeable = False
        return state

    def set_optimizer_state(self, state: ByteArray) -> None:
        """Copies a state that `optimizer_state` showed for an adapter of the same shape and precision of moments."""
        source = np.ascontiguousarray(state).view(np.uint8).reshape(-1)
        call("cpuft_set_optimizer_state", self._handle, address(source), source.size)

    # ---- Training ------------------------------------------------------------------------------------------------

    def set_activations(self, policy: Literal["keep", "recompute"]) -> None:
        """Chooses what of the forward pass is kept for the backward pass. Gradients do not depend on it."""
        call("cpuft_set_activations", self._handle, POLICIES.index(policy))

    def forward_backward(self, batch: Batch, frozen: FloatArray | None = None) -> tuple[float, int]:
        """Adds the gradient of one micro-batch; returns (sum of losses in nats, supervised tokens).

        frozen: (T, n_embd), what `forward_frozen` gives for the batch, so that the layers below the adapter do not run.
        """
        return self._loss("cpuft_forward_backward", batch, frozen, address(batch.dropout_keys))

    def forward(self, batch: Batch, frozen: FloatArray | None = None) -> tuple[float, int]:
        """(sum of losses in nats, supervised tokens), without dropout and gradients; `frozen` as above."""
        return self._loss("cpuft_forward", batch, frozen)

    def _loss(self, function: str, batch: Batch, frozen: FloatArray | None, *keys: int | None) -> tuple[float, int]:
        shape = (len(batch.tokens), self.facts["n_embd"])
        if frozen is not None and (frozen.shape, frozen.dtype, frozen.flags.c_contiguous) != (shape, _FLOAT32, True):
            raise EngineError(f"frozen must be a contiguous float32 array of shape {shape}")
        loss, count = DOUBLE(), INT64()
        call(
            function, self._handle, address(batch.tokens), address(batch.supervised), address(batch.lengths),
            len(batch.lengths), *keys, address(frozen), ctypes.byref(loss), ctypes.byref(count),
        )  # fmt: skip
        return loss.value, count.value

    @property
    def pass_tokens(self) -> int:
        """How many tokens the last pass computed: no more than it was given; see cpuft_pass_tokens."""
        return int(library().cpuft_pass_tokens(self._handle))

    def forward_frozen(self, tokens: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> FloatArray:
        """The residual stream before the adapter's first layer, (T, n_embd): what training does not change."""
        return self._rows("cpuft_forward_frozen", tokens, lengths, self.facts["n_embd"])

    def forward_hidden(self, tokens: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> FloatArray:
        """What the head multiplies, (T, n_embd): the residual stream behind the last layer, normed."""
        return self._rows("cpuft_forward_hidden", tokens, lengths, self.facts["n_embd"])

    def logits_of(self, hidden: FloatArray) -> FloatArray:
        """The logits (n, V) of n rows that `forward_hidden` gave; their grouping changes no bit."""
        n = len(hidden)
        rows = np.ascontiguousarray(hidden, np.float32)
        if rows.shape != (n, self.facts["n_embd"]):
            raise EngineError(f"hidden must be rows of {self.facts['n_embd']} values, not {hidden.shape}")
        logits = np.empty((n, self.facts["n_vocab"]), np.float32)
        call("cpuft_logits", self._handle, address(rows), n, address(logits))
        return logits

    def logits(self, tokens: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> FloatArray:
        """The logits of every position, (T, V): for small inputs, since they exist whole."""
        return self.logits_of(self.forward_hidden(tokens, lengths))

    def _rows(self, function: str, tokens: npt.NDArray[Any], lengths: npt.NDArray[Any], width: int) -> FloatArray:
        """What a function gives for every token, (T, width)."""
        batch = Batch(tokens, np.zeros(len(tokens), np.uint8), lengths)
        rows = np.empty((len(tokens), width), np.float32)
        call(function, self._handle, address(batch.tokens), address(batch.lengths), len(lengths), address(rows))
        return rows

    def step(
        self,
        *,
        step: int,
        learning_rate: float,
        beta1: float = TrainConfig.adam_beta1,
        beta2: float = TrainConfig.adam_beta2,
        epsilon: float = TrainConfig.adam_epsilon,
        weight_decay: float = 0.0,
        max_grad_norm: float = 0.0,
    ) -> float:
        """Takes one AdamW step on the accumulated mean gradient; returns its norm before clipping."""
        grad_norm = DOUBLE()
        settings = (learning_rate, beta1, beta2, epsilon, weight_decay, max_grad_norm)
        call("cpuft_step", self._handle, step, *settings, ctypes.byref(grad_norm))
        return grad_norm.value

    def zero_gradients(self) -> None:
        """Forgets the gradient accumulated since the last step."""
        call("cpuft_zero_gradients", self._handle)

    # ---- Memory --------------------------------------------------------------------------------------------------

    def pass_size(self, batch: Batch, *, training: bool, frozen: bool = False) -> SizeArray:
        """The size of a pass without running it, [len(PASS_SIZE)]; see cpuft_pass_size.

        training: one of `forward_backward`, else of `forward`. frozen: one of `forward_frozen`.
        """
        size = np.empty(len(PASS_SIZE), np.int64)
        supervised = None if frozen else address(batch.supervised)
        call(
            "cpuft_pass_size", self._handle, address(batch.tokens), supervised, address(batch.lengths),
            len(batch.lengths), training, batch.dropout_keys is not None, address(size),
        )  # fmt: skip
        return size

    def memory(
        self,
        sizes: SizeArray,
        *,
        rank: int,
        targets: Sequence[str],
        first_layer: int,
        moments: Literal["f32", "8bit"],
        policy: Literal["keep", "recompute"],
    ) -> dict[str, int]:
        """The bytes that passes and an adapter take, by part; see cpuft_memory.

        sizes: [n, len(PASS_SIZE)], of `pass_size`. Nothing is allocated: the adapter need not be attached.
        """
        parts = TEXT()
        shape = (rank, _target_mask(targets), first_layer, MOMENTS.index(moments), POLICIES.index(policy))
        call("cpuft_memory", self._handle, *shape, *_sizes(sizes), ctypes.byref(parts))
        memory: dict[str, int] = json.loads(parts.value or b"{}")
        return memory

    def reserve(self, sizes: SizeArray) -> None:
        """Takes the memory of passes of these sizes now, for the attached adapter and the policy that was set."""
        call("cpuft_reserve", self._handle, *_sizes(sizes))

    # ---- Profile -------------------------------------------------------------------------------------------------

    def profile(self) -> dict[str, float]:
        """The seconds that passes and steps have taken since the last call, by part; see cpuft_profile."""
        parts = TEXT()
        call("cpuft_profile", self._handle, ctypes.byref(parts))
        return {part: nanoseconds * 1e-9 for part, nanoseconds in json.loads(parts.value or b"{}").items()}
