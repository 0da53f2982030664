"""Find sources above the background: a typed wrapper of sep (SExtractor's algorithm, Bertin & Arnouts 1996)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import sep
from numba import njit
from numpy.typing import NDArray

from schemas.errors import DataError

__all__ = ["DETECTION_DTYPE", "Detections", "detect", "sep_image"]

DETECTION_DTYPE = np.dtype(
    [
        ("x", "f8"),
        ("y", "f8"),
        ("flux", "f8"),
        ("peak", "f8"),
        ("a", "f8"),
        ("b", "f8"),
        ("theta", "f8"),
        ("flags", "i4"),
        ("npix", "i4"),
    ]
)
"""Isophotal barycentre (0-based pixels), flux and peak (unit of the image), rms along the axes (pixels),
angle of the major axis (radians from x to y), sep's flags (1: deblended from a neighbour), pixels above threshold."""

SPARE_PIXELS = 100_000
"""Room in sep's buffer at the least."""
MAX_FRACTION = 0.5
"""Of the pixels above threshold: beyond it the background or the noise is wrong, not the sky full."""


@dataclass(frozen=True)
class Detections:
    """The sources of one image."""

    rows: NDArray[Any]
    """Structured array of `DETECTION_DTYPE`, ordered by (y, x) of the brightest pixel."""
    segments: NDArray[np.int32]
    """Shape of the image: 0, or 1 + the row that owns the pixel."""


def sep_image(image: NDArray[Any], blocked: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return `image` as sep wants it (native, contiguous float32) and `blocked` with non-finite pixels added."""
    finite = np.isfinite(image)
    if finite.all():  # the usual case: two passes over the pixels less
        wanted: tuple[Literal["C"], Literal["W"]] = ("C", "W")  # sep wants to be let write
        return np.require(image, np.float32, wanted), np.require(blocked, bool, wanted)
    clean = np.ascontiguousarray(np.where(finite, image, 0.0), dtype=np.float32)
    return clean, np.ascontiguousarray(blocked | ~finite)


def detect(
    image: NDArray[np.floating],
    noise: NDArray[np.floating],
    blocked: NDArray[np.bool_],
    *,
    threshold: float,
    min_pixels: int = 5,
) -> Detections:
    """Find groups of at least `min_pixels` pixels whose smoothed S/N exceeds `threshold`.

    `image` is background-subtracted, `noise` its one-sigma background noise per pixel, `blocked` true where a pixel
    must not be used; all three of one shape (height, width). The image is divided by the noise, smoothed with
    SExtractor's 3x3 pyramid and thresholded; blends are split. Raises DataError where most pixels lie above threshold.
    """
    signal, masked = np.empty(image.shape, np.float32), np.empty(image.shape, bool)
    above = _signal(image, noise, blocked, threshold, signal, masked)
    if above > MAX_FRACTION * signal.size:
        raise DataError(
            f"{above} of {signal.size} pixels lie above {threshold:g} sigma: the background or the noise is wrong; "
            "check bias, gain and read noise in camera.toml"
        )
    # sep's buffers are process-wide, and it writes all of them before it starts. Smoothing is a mean of 3 x 3 pixels:
    # for each pixel above the threshold at most 9 are afterwards, so they can't overflow with sep's untyped error
    sep.set_extract_pixstack(min(SPARE_PIXELS + 9 * above, signal.size))
    sep.set_sub_object_limit(max(1024, signal.size // min_pixels))
    found, segments = sep.extract(signal, threshold, mask=masked, minarea=min_pixels, segmentation_map=True)
    return Detections(_rows(found, noise), np.asarray(segments, dtype=np.int32))


def _rows(found: NDArray[Any], noise: NDArray[np.floating]) -> NDArray[Any]:
    """Return sep's table in our columns, fluxes back in the unit of the image."""
    rows = np.zeros(len(found), DETECTION_DTYPE)
    for name in ("x", "y", "a", "b", "theta", "npix"):
        rows[name] = found[name]
    rows["flags"] = found["flag"]
    unit = noise[found["ypeak"], found["xpeak"]]
    rows["flux"], rows["peak"] = found["flux"] * unit, found["peak"] * unit
    return rows


@njit(cache=True, nogil=True)
def _signal(
    image: Any, noise: Any, blocked: Any, threshold: float, signal: Any, masked: Any
) -> int:  # pragma: no cover - compiled
    """Fill `signal` and `masked` for sep in one pass; return how many pixels lie above the threshold."""
    above = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            ratio = image[y, x] / noise[y, x]
            finite = ratio - ratio == 0.0
            masked[y, x] = blocked[y, x] | (not finite)
            signal[y, x] = ratio if finite else 0.0
            above += finite & (ratio > threshold) & (not blocked[y, x])
    return above
