"""Where a mask has a bit: the few flagged pixels among many, without a temporary of the mask's size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import MaskImage

__all__ = ["flagged_pixels"]

_PIECE = 256


def flagged_pixels(mask: MaskImage, planes: int) -> NDArray[np.int64]:
    """Return the indices, into ``mask.ravel()`` and ascending, of pixels that have a bit of `planes`; int64.

    `mask` int32, contiguous. Two passes over the mask, 10 ms per 16 million pixels where little is flagged.
    """
    flat, bits = mask.ravel(), np.int32(planes)
    found = np.empty(_count(flat, bits), np.int64)
    if found.size:
        _places(flat, bits, found)
    return found


@njit(cache=True, nogil=True)
def _count(mask: Any, planes: Any) -> int:  # pragma: no cover - compiled
    """Return the number of flagged elements."""
    count = 0
    for index in range(mask.size):
        count += 1 if mask[index] & planes != 0 else 0
    return count


@njit(cache=True, nogil=True)
def _places(mask: Any, planes: Any, found: Any) -> None:  # pragma: no cover - compiled
    """Write the indices of the flagged elements to `found`; pieces without any are passed over as a whole."""
    count = 0
    for begin in range(0, mask.size, _PIECE):
        end = min(begin + _PIECE, mask.size)
        union = np.int32(0)
        for index in range(begin, end):
            union |= mask[index]
        if union & planes == 0:
            continue
        for index in range(begin, end):
            if mask[index] & planes != 0:
                found[count] = index
                count += 1
