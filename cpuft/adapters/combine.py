"""Adapters from adapters: one made stronger or weaker, and the weighted sum of several.

A weight's change is scale * B A. A sum of such changes is one again: the matrices stand side by side, and the rank is
the sum of the ranks. To bring that down to a smaller rank with the least error, the change's singular values are needed
(Eckart and Young 1936). They are those of a small matrix: with B = Q_b R_b and A^T = Q_a R_a, B A is Q_b (R_b R_a^T)
Q_a^T, so the n_out x n_in matrix is never formed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpuft.adapters.adapter import SUFFIX_B, Adapter, FloatArray
from cpuft.errors import AdapterError, ConfigError, list_faults
from cpuft.machine.progress import Progress, silent

Array64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """An adapter's part in a sum. name: what messages call it."""

    name: str
    adapter: Adapter
    factor: float = 1.0


@dataclass(frozen=True)
class Kept:
    """What became of one weight's change. energy: how much of its squared Frobenius norm is left, from 0 to 1."""

    weight: str
    rank_before: int
    rank: int
    energy: float


def scaled(adapter: Adapter, factor: float) -> tuple[Adapter, str]:
    """The adapter with `factor` times the effect, and where the factor went.

    The factor goes into alpha and the sign into B, so A and the digits of B stay as they are. Raises ConfigError.
    """
    _require_factor("the factor", factor)
    alpha = _single_alpha(adapter)
    with np.errstate(over="ignore", under="ignore"):
        new_alpha = float(np.float32(alpha * abs(factor)))
    if not np.isfinite(new_alpha) or new_alpha == 0:
        raise ConfigError(f"the factor {factor:g} takes alpha {alpha:g} out of the range of float32: give a milder one")
    tensors = dict(adapter.tensors)
    where = f"alpha {alpha:g} -> {new_alpha:g}"
    if factor < 0:
        tensors |= {name: -values for name, values in tensors.items() if name.endswith(SUFFIX_B)}
        where += ", and the sign into B"
    return Adapter(adapter.rank, new_alpha, adapter.architecture, tensors, adapter.metadata), where


def combined(
    shares: Sequence[Share], *, rank: int | None = None, progress: Progress = silent
) -> tuple[Adapter, list[Kept]]:
    """The sum of factor * adapter over all shares, which may differ in rank, alpha and adapted weights.

    rank: None keeps the change exact, with the ranks added; else the closest change of at most this rank.
    Raises AdapterError where the adapters are not for one base model, ConfigError for an impossible factor.
    """
    for share in shares:
        _require_factor(f"the weight of {share.name}", share.factor)
    _require_one_base(shares)
    pairs, kept = {}, []
    weights = list(dict.fromkeys(weight for share in shares for weight in share.adapter.weights))
    for weight in weights:
        a, b = _concatenated(shares, weight)
        before, energy = a.shape[0], 1.0
        if rank is not None:
            a, b, energy = _compressed(a, b, rank)
        pairs[weight] = (a, b)
        kept.append(Kept(weight, before, a.shape[0], energy))
        progress("combining", len(kept), len(weights), "weight")
    # With alpha equal to the largest rank a pair of that rank has the scale 1; a smaller one gives the rest to its B.
    alpha = max(a.shape[0] for a, _ in pairs.values())
    stored = {w: {"A": _stored(w, a), "B": _stored(w, b * (a.shape[0] / alpha))} for w, (a, b) in pairs.items()}
    metadata = shares[0].adapter.metadata
    return Adapter.of(stored, float(alpha), shares[0].adapter.architecture, metadata), kept


def _concatenated(shares: Sequence[Share], weight: str) -> tuple[Array64, Array64]:
    """A (ranks, n_in) and B (n_out, ranks) whose product is the whole change of a weight, scale included."""
    present = [share for share in shares if weight in share.adapter.weights]
    a = [share.adapter.pair(weight)[0].astype(np.float64) for share in present]
    b = [share.adapter.pair(weight)[1].astype(np.float64) * _factor(share, weight) for share in present]
    return np.concatenate(a), np.concatenate(b, axis=1)


def _factor(share: Share, weight: str) -> float:
    return share.factor * share.adapter.scale(weight)


def _compressed(a: Array64, b: Array64, rank: int) -> tuple[Array64, Array64, float]:
    """The closest pair of at most this rank, balanced between A and B, and the part of the energy that it keeps."""
    if a.shape[0] <= rank:
        return a, b, 1.0
    if not b.any():  # an untrained pair has no directions to choose: keep A, which training starts from
        return a[:rank], b[:, :rank], 1.0
    q_b, r_b = np.linalg.qr(b)
    q_a, r_a = np.linalg.qr(a.T)
    u, values, v = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
    # Below this a singular value is what rounding left of terms that cancel, or of none at all.
    values[values <= np.finfo(np.float64).eps * np.linalg.norm(r_a) * np.linalg.norm(r_b) * max(r_a.shape)] = 0
    root, total = np.sqrt(values[:rank]), np.sum(values**2)
    energy = float(np.sum(values[:rank] ** 2) / total) if total > 0 else 1.0
    return root[:, None] * (v[:rank] @ q_a.T), (q_b @ u[:, :rank]) * root, energy


def _single_alpha(adapter: Adapter) -> float:
    """The adapter's alpha; where it is 0, which means a scale of 1, the rank has the same effect."""
    ranks = {adapter.pair(weight)[0].shape[0] for weight in adapter.weights}
    if adapter.alpha == 0 and len(ranks) > 1:
        raise AdapterError(
            "the adapter has alpha 0 and several ranks, so no alpha scales it: "
            "use `cpuft adapter combine` with one --weight"
        )
    return adapter.alpha or float(adapter.rank)


def _require_factor(what: str, factor: float) -> None:
    if not np.isfinite(factor) or factor == 0:
        raise ConfigError(f"{what} is {factor:g}, expected a finite number other than 0")


def _require_one_base(shares: Sequence[Share]) -> None:
    first = shares[0]
    faults = []
    for share in shares[1:]:
        if share.adapter.architecture != first.adapter.architecture:
            faults.append(f"{share.name} is for {share.adapter.architecture}")
            continue
        for weight in share.adapter.weights:
            owner = next(s for s in shares if weight in s.adapter.weights)
            got, wanted = _shape(share.adapter, weight), _shape(owner.adapter, weight)
            if got != wanted:
                faults.append(
                    f"{weight} is {got[0]}x{got[1]} in {share.name} and {wanted[0]}x{wanted[1]} in {owner.name}"
                )
    if faults:
        raise AdapterError(
            f"{first.name} is for {first.adapter.architecture}, and not all of the others are for the same base model: "
            f"{list_faults(faults)}: combine adapters of one model only"
        )


def _shape(adapter: Adapter, weight: str) -> tuple[int, int]:
    a, b = adapter.pair(weight)
    return b.shape[0], a.shape[1]


def _stored(weight: str, values: Array64) -> FloatArray:
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise AdapterError(f"the sum of {weight} is out of the range of float32: give milder weights")
    return rounded
