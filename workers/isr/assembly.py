"""Amplifiers into one detector image: cut out the light-sensitive pixels, flip them, put them in place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage, RawExposure
from workers.survey.camera import Amplifier, Detector, parse_section

__all__ = ["assemble_image", "bands", "data_pixels", "oriented"]

_BAND = 32_768
"""Pixels that are worked on at once where several passes go over them: they stay in the processor's cache."""


def data_pixels(raw: RawExposure, amplifier: Amplifier) -> NDArray[Any]:
    """Return the light-sensitive pixels of one amplifier in readout order, as stored (ADU)."""
    return raw.hdus[amplifier.hdu][parse_section(amplifier.data)]


def oriented(pixels: NDArray[Any], amplifier: Amplifier) -> NDArray[Any]:
    """Return an amplifier's pixels as a view, flipped from readout order to the detector's, or back."""
    return pixels[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]


def bands(amplifier: Amplifier) -> Iterator[tuple[slice, slice]]:
    """Yield sections (rows, columns) of the detector that make up the amplifier, each small enough for the cache."""
    rows, columns = parse_section(amplifier.position)
    step = max(_BAND // (columns.stop - columns.start), 1)
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop)), columns


def assemble_image(raw: RawExposure, detector: Detector) -> FloatImage:
    """Return the raw counts of the whole detector, float32 ADU, NaN where no amplifier is; overscan is left out."""
    image = np.empty((detector.height, detector.width), np.float32)
    if sum(_area(amplifier) for amplifier in detector.amplifiers) < image.size:
        image.fill(np.nan)
    for amplifier in detector.amplifiers:
        image[parse_section(amplifier.position)] = oriented(data_pixels(raw, amplifier), amplifier)
    return image


def _area(amplifier: Amplifier) -> int:
    rows, columns = parse_section(amplifier.position)
    return int((rows.stop - rows.start) * (columns.stop - columns.start))
