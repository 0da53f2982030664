"""Dark current: charge that heat made during the exposure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from workers.isr.state import IsrState

__all__ = ["apply"]


def apply(state: IsrState) -> None:
    """Subtract the master dark (ADU per second) times the exposure time.

    Its variance is added; the seconds are remembered, for the Poisson noise of that charge stays in the image.
    """
    state.need_unit("adu", "dark")
    dark, seconds = state.need("dark"), np.float32(state.raw.info.exposureTime)
    _subtract(state.image, state.variance, dark.image, dark.variance, seconds)
    state.dark_seconds = float(seconds)
    state.flag_as(dark)


@njit(cache=True, nogil=True)
def _subtract(image: Any, variance: Any, dark: Any, noise: Any, seconds: Any) -> None:  # pragma: no cover - compiled
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            image[y, x] -= dark[y, x] * seconds
            variance[y, x] += noise[y, x] * seconds * seconds
