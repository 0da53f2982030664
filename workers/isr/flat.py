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
    dead = flat.unresponsive
    image, variance = state.image.ravel(), state.variance.ravel()
    kept = image[dead], variance[dead]
    _divide(state.image, state.variance, flat.image, flat.variance)
    image[dead], variance[dead] = kept
    state.mask.ravel()[dead] |= np.int32(MaskPlane.BAD)
    state.flag_as(flat)


@njit(cache=True, nogil=True, error_model="numpy")
def _divide(image: Any, variance: Any, flat: Any, noise: Any) -> None:  # pragma: no cover - compiled
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            inverse = np.float32(1) / flat[y, x]
            value = image[y, x] * inverse
            image[y, x] = value
            variance[y, x] = (variance[y, x] + value * value * noise[y, x]) * inverse * inverse
