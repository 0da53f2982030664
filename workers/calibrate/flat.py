"""Master flat: the mean of evenly lit frames, each brought to the same level, normalised to median 1."""

from __future__ import annotations

import numpy as np

from schemas.errors import DataError
from workers.imaging.exposure import Exposure, FloatImage
from workers.imaging.masks import MaskPlane

__all__ = ["STEPS", "frame", "illuminated_level", "normalised"]

STEPS = ("overscan", "saturation", "crosstalk", "linearity", "bias", "dark", "gain", "deferred_charge")
"""Steps of isr.steps that a flat frame goes through."""

_LEAST_LEVEL = 500.0
_LEAST_RESPONSE = 0.1


def illuminated_level(exposure: Exposure) -> float:
    """Return the median of the lit pixels (above half the median of all good ones), in the exposure's unit."""
    good = exposure.image[exposure.mask == 0]
    if good.size == 0:
        raise DataError(f"{exposure.info.fileName}: every pixel of this flat is flagged; is it overexposed?")
    return float(np.median(good[good > 0.5 * np.median(good)])) if np.median(good) > 0 else 0.0


def frame(exposure: Exposure) -> FloatImage:
    """Return what is averaged: the frame over its level. Raises DataError where it holds too little light."""
    level = illuminated_level(exposure)
    if level < _LEAST_LEVEL:
        raise DataError(
            f"{exposure.info.fileName}: a flat of {level:.0f} {exposure.unit} is too faint, it needs "
            f"{_LEAST_LEVEL:.0f}; leave it out"
        )
    return exposure.image / np.float32(level)


def normalised(
    image: FloatImage, variance: FloatImage
) -> tuple[FloatImage, FloatImage, np.ndarray[tuple[int, ...], np.dtype[np.int32]]]:
    """Return response (median 1), its variance and a mask: BAD where the response is below a tenth."""
    level = np.float32(np.nanmedian(image))
    response = image / level
    dead = ~(response > _LEAST_RESPONSE)
    mask = np.where(dead, np.int32(MaskPlane.BAD), np.int32(0))
    return response, variance / level**2, mask
