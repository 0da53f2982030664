"""Variance: what one more exposure of the same sky would scatter by."""

from __future__ import annotations

import numpy as np

from workers.isr.state import IsrState
from workers.survey.camera import parse_section

__all__ = ["apply"]


def apply(state: IsrState) -> IsrState:
    """Add Poisson noise (of light and of the dark charge taken off) and read noise, in electrons².

    Taken before the flat, for it is the detected electrons that scatter; the noise of bias and dark is there already.
    """
    state.need_unit("electron", "variance")
    charge = state.image if state.removed is None else state.image + state.removed
    variance = state.variance + np.maximum(charge, np.float32(0))
    for amplifier in state.detector.amplifiers:
        variance[parse_section(amplifier.position)] += np.float32(amplifier.read_noise**2)
    return state.replaced(variance=variance)
