"""Flat field: pixel-to-pixel and large-scale response."""

from __future__ import annotations

import numpy as np

from workers.imaging.masks import MaskPlane
from workers.isr.state import IsrState

__all__ = ["apply"]


def apply(state: IsrState) -> IsrState:
    """Divide by the master flat (median 1); pixels without a response become BAD and keep their value.

    var = (var + image² var_flat / flat²) / flat².
    """
    state.need_unit("electron", "flat")
    flat = state.need("flat")
    dead = ~(np.isfinite(flat.image) & (flat.image > 0))
    response = np.where(dead, np.float32(1), flat.image)
    image = state.image / response
    return state.replaced(
        image=image,
        variance=state.variance / response**2 + image**2 * np.where(dead, 0, flat.variance) / response**2,
        mask=state.masked(dead, MaskPlane.BAD) | flat.mask,
    )
