"""Master dark: the mean rate of unlit frames after overscan and bias are off, in ADU per second."""

from __future__ import annotations

import numpy as np

from schemas.errors import DataError
from workers.imaging.exposure import Exposure, FloatImage

__all__ = ["STEPS", "frame"]

STEPS = ("overscan", "saturation", "crosstalk", "bias")
"""Steps of isr.steps that a dark frame goes through."""


def frame(exposure: Exposure) -> FloatImage:
    """Return what is averaged: counts per second. Raises DataError where the exposure time is zero."""
    seconds = exposure.info.exposureTime
    if seconds <= 0:
        raise DataError(f"{exposure.info.fileName}: a dark of {seconds} s says nothing of dark current")
    return exposure.image / np.float32(seconds)
