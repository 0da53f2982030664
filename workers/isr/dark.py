"""Dark current: charge that heat made during the exposure."""

from __future__ import annotations

import numpy as np

from workers.isr.state import IsrState

__all__ = ["apply"]


def apply(state: IsrState) -> IsrState:
    """Subtract the master dark (ADU per second) times the exposure time.

    Its variance is added; the charge is remembered, for its Poisson noise stays in the image.
    """
    state.need_unit("adu", "dark")
    dark, seconds = state.need("dark"), np.float32(state.raw.info.exposureTime)
    charge = dark.image * seconds
    return state.replaced(
        image=state.image - charge,
        variance=state.variance + dark.variance * seconds**2,
        removed=charge if state.removed is None else state.removed + charge,
        mask=state.mask | dark.mask,
    )
