"""Which bins hold the light of sources: thresholds from bin to block, faint skirts only round bright middles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from workers.imaging.background_bins import spread_blocks

__all__ = ["find_sources", "skirts"]

_Bool = NDArray[np.bool_]
_Float32 = NDArray[np.float32]

_ROUND = np.ones((3, 3), bool)
_STRONG = 20.0
"""A block of this many thresholds holds a source, and may have skirts."""


def find_sources(signal: _Float32, threshold: float, grow: int) -> _Bool:
    """Return the bins whose S/N exceeds `threshold`, and those up to `grow` bins from them."""
    lit = signal > threshold
    for _ in range(grow):
        grown = lit.copy()
        grown[1:] |= lit[:-1]
        grown[:-1] |= lit[1:]
        lit = grown.copy()
        lit[:, 1:] |= grown[:, :-1]
        lit[:, :-1] |= grown[:, 1:]
    return lit


def skirts(rest: _Float32, weight: _Float32, free: _Bool, *, size: int, threshold: float) -> _Bool:
    """Return the bins of blocks of `size` bins whose free bins are too bright, where they hang on a bright source.

    `rest` is the image less the sky, `weight` one over the variance of the bins' means (0: unknown), `free` the bins
    that hold no source so far. A wave of the sky is as faint as a skirt but has no bright middle.
    """
    shape = -(-rest.shape[0] // size), -(-rest.shape[1] // size)
    everything, total, known, left = (np.zeros(shape) for _ in range(4))
    _sums(rest, weight, free, size, everything, total, known, left)
    strong = total > _STRONG * threshold * np.sqrt(everything)
    faint = left > threshold * np.sqrt(known)
    labels, count = ndimage.label(strong | faint, _ROUND)
    holds = np.zeros(count + 1, bool)
    holds[labels[strong]] = True
    return np.asarray(spread_blocks(faint & holds[labels], size, rest.shape), bool)


@njit(cache=True, nogil=True)
def _sums(
    rest: Any, weight: Any, free: Any, size: Any, everything: Any, total: Any, known: Any, left: Any
) -> None:  # pragma: no cover - compiled
    """Weight and light of each block, and those of its free bins."""
    for y in range(rest.shape[0]):
        j = y // size
        for x in range(rest.shape[1]):
            i = x // size
            w = weight[y, x]
            everything[j, i] += w
            total[j, i] += w * rest[y, x]
            if free[y, x]:
                known[j, i] += w
                left[j, i] += w * rest[y, x]
