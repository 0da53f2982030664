"""Master bias: the mean of zero-second frames after the overscan is off, in ADU."""

from __future__ import annotations

from workers.imaging.exposure import Exposure, FloatImage

__all__ = ["STEPS", "frame"]

STEPS = ("overscan", "saturation")
"""Steps of isr.steps that a bias frame goes through."""


def frame(exposure: Exposure) -> FloatImage:
    """Return what is averaged: the counts themselves."""
    return exposure.image
