"""Amplifiers into one detector image: cut out the light-sensitive pixels, flip them, put them in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage, RawExposure
from workers.survey.camera import Amplifier, Detector, parse_section

__all__ = ["assemble", "assemble_image", "data_pixels", "oriented"]


def data_pixels(raw: RawExposure, amplifier: Amplifier) -> NDArray[Any]:
    """Return the light-sensitive pixels of one amplifier in readout order, as stored (ADU)."""
    return raw.hdus[amplifier.hdu][parse_section(amplifier.data)]


def oriented(pixels: NDArray[Any], amplifier: Amplifier) -> NDArray[Any]:
    """Return an amplifier's pixels, flipped from readout order to the detector's."""
    return pixels[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]


def assemble(detector: Detector, values: Callable[[Amplifier], NDArray[Any]], fill: Any, dtype: type) -> NDArray[Any]:
    """Return a (height, width) array: each amplifier's `values` (readout order) in its place, `fill` elsewhere."""
    image: NDArray[Any] = np.full((detector.height, detector.width), fill, dtype)
    for amplifier in detector.amplifiers:
        image[parse_section(amplifier.position)] = oriented(values(amplifier), amplifier)
    return image


def assemble_image(raw: RawExposure, detector: Detector) -> FloatImage:
    """Return the raw counts of the whole detector, float32 ADU, NaN where no amplifier is; overscan is left out."""
    return assemble(detector, lambda amplifier: data_pixels(raw, amplifier), np.nan, np.float32)
