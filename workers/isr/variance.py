"""Variance: what one more exposure of the same sky would scatter by."""

from __future__ import annotations

import numpy as np

from workers.isr.assembly import bands
from workers.isr.gain import gains, read_noises
from workers.isr.state import IsrState

__all__ = ["apply"]


def apply(state: IsrState) -> None:
    """Add Poisson noise (of light and of the dark charge taken off) and read noise, in electrons².

    Taken before the flat, for it is the detected electrons that scatter; the noise of bias and dark is there already.
    """
    state.need_unit("electron", "variance")
    dark = state.need("dark") if state.dark_seconds else None
    for amplifier, gain, noise in zip(state.detector.amplifiers, gains(state), read_noises(state), strict=True):
        for band in bands(amplifier):
            charge = state.image[band]
            if dark is not None:
                charge = charge + dark.image[band] * np.float32(state.dark_seconds * gain)
            counted = np.maximum(charge, np.float32(0))
            counted += np.float32(noise**2)
            state.variance[band] += counted
