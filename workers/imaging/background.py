"""The sky level and its noise: a typed wrapper of sep's mesh background, in two passes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sep
from numpy.typing import NDArray
from scipy import ndimage

from schemas.errors import DataError
from workers.imaging.detection import detect, sep_image
from workers.imaging.exposure import FloatImage

__all__ = ["Background", "mesh_background", "source_free_background"]

MIN_USABLE = 0.02
"""Fraction of usable pixels below which no background can be told."""


@dataclass(frozen=True)
class Background:
    """Sky level and one-sigma noise per pixel, float32 in the unit of the image, and their typical values."""

    level: FloatImage
    noise: FloatImage
    median: float
    medianNoise: float


def mesh_background(image: NDArray[Any], blocked: NDArray[np.bool_], *, mesh: int) -> Background:
    """Return the background of `image` (height, width) from cells of `mesh` pixels, blocked pixels left out.

    Per cell the clipped mode (2.5 median - 1.5 mean, or the median where crowded), a 3x3 median filter over cells, a
    bicubic spline between them (Bertin & Arnouts 1996, section 7.1). Raises DataError where fewer than 2 % of the
    pixels are usable, or the image is constant.
    """
    clean, masked = sep_image(image, blocked)
    usable = 1.0 - np.count_nonzero(masked) / masked.size
    if usable < MIN_USABLE:
        raise DataError(
            f"only {usable:.1%} of the pixels are usable, so there is no background to measure: "
            "check saturation and defects in camera.toml against the raw frame"
        )
    fit = sep.Background(clean, mask=masked, bw=mesh, bh=mesh, fw=3, fh=3)
    level, noise = fit.back(dtype=np.float32), fit.rms(dtype=np.float32)
    median, middle = float(np.median(level)), float(np.median(noise))
    if not (np.isfinite(middle) and middle > 0.0):
        raise DataError("the image is empty: its pixels are constant, so the background has no noise")
    # a mesh without noise (a constant patch) would make every pixel in it a detection
    return Background(level, np.maximum(noise, np.float32(0.1 * middle)), median, middle)


def source_free_background(
    image: NDArray[Any],
    blocked: NDArray[np.bool_],
    *,
    mesh: int,
    threshold: float = 2.5,
    grow: int = 4,
) -> Background:
    """Return the background measured a second time with the sources of the first pass masked.

    `threshold` in sigma per smoothed pixel, `grow` the pixels added round each source. The level is shifted so that
    what is left of the sky has mean zero: the mode of Poisson noise lies below its mean (by 0.8 counts, whatever the
    sky), and fluxes are sums. Raises DataError as `mesh_background`.
    """
    first = mesh_background(image, blocked, mesh=mesh)
    found = detect(image - first.level, first.noise, blocked, threshold=threshold)
    sources = ndimage.maximum_filter(found.segments > 0, size=2 * grow + 1)
    if np.count_nonzero(~(sources | blocked)) < MIN_USABLE * sources.size:
        return first
    second = mesh_background(image, blocked | sources, mesh=mesh)
    rest = (image - second.level)[~(sources | blocked)]
    rest = rest[np.abs(rest) < 3.0 * second.medianNoise]  # false for NaN
    offset = np.float32(rest.mean(dtype=float)) if len(rest) else np.float32(0.0)
    return replace(second, level=second.level + offset, median=second.median + float(offset))
