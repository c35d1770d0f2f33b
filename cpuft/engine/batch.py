"""What one pass of the engine computes: token sequences laid end to end."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpuft.errors import EngineError


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
