"""Flat field: pixel-to-pixel and large-scale response."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from workers.imaging.masks import MaskPlane
from workers.isr.state import IsrState

__all__ = ["apply"]


def apply(state: IsrState) -> None:
    """Divide by the master flat (median 1); pixels without a response become BAD and keep their value.

    var = (var + image² var_flat / flat²) / flat².
    """
    state.need_unit("electron", "flat")
    flat = state.need("flat")
    _divide(state.image, state.variance, state.mask, flat.image, flat.variance, np.int32(MaskPlane.BAD))
    state.flag_as(flat)


@njit(cache=True, nogil=True)
def _divide(image: Any, variance: Any, mask: Any, flat: Any, noise: Any, bad: Any) -> None:  # pragma: no cover
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            response = flat[y, x]
            works = response > np.float32(0) and response < np.float32(np.inf)
            inverse = np.float32(1) / response if works else np.float32(1)
            value = image[y, x] * inverse
            extra = value * value * noise[y, x] if works else np.float32(0)
            image[y, x] = value
            variance[y, x] = (variance[y, x] + extra) * inverse * inverse
            if not works:
                mask[y, x] |= bad
