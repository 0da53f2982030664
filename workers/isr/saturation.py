"""Saturated and suspect pixels, from the raw counts: no later step changes what was full."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from workers.imaging.masks import MaskPlane
from workers.isr.assembly import assemble, data_pixels
from workers.isr.state import IsrState

__all__ = ["apply", "grown"]


def grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a bool mask (height, width) grown by one pixel in all eight directions: charge spills over."""
    return np.asarray(binary_dilation(mask, np.ones((3, 3), bool)) if mask.any() else mask)


def apply(state: IsrState) -> IsrState:
    """Set SATURATED (grown by one pixel; bleed trails are at that level themselves) and SUSPECT."""
    full = assemble(state.detector, lambda a: data_pixels(state.raw, a) >= a.saturation, False, bool)
    suspect = assemble(state.detector, lambda a: data_pixels(state.raw, a) >= (a.suspect or np.inf), False, bool)
    mask = state.masked(grown(full), MaskPlane.SATURATED)
    mask = np.where(suspect, mask | np.int32(MaskPlane.SUSPECT), mask)
    return state.replaced(mask=mask).with_metrics(saturatedFraction=float(full.mean()))
