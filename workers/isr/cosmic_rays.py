"""Cosmic rays: pixels brighter than the PSF allows beside their neighbours, whatever stars lie there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.exposure import FloatImage
from workers.imaging.masks import MaskPlane
from workers.isr.cosmic_bounds import bounds_for
from workers.isr.cosmic_growth import BLOCKED, FREE, HIT, grow
from workers.isr.cosmic_patterns import patterns_for
from workers.isr.cosmic_search import search
from workers.isr.seeing import estimate_fwhm
from workers.isr.sky_levels import sky_levels, sky_row
from workers.isr.state import IsrState

__all__ = ["apply", "find_cosmic_rays"]

_BLOCKED = MaskPlane.BAD | MaskPlane.SATURATED | MaskPlane.NO_DATA
_FAINTEST = 3.0
"""Sigma above the sky of a track's first pixel."""
_FAINTEST_NEXT = 2.9
"""Sigma above the pedestal of those beside known hits."""
_DARK = 6.0
"""Sigma below the sky where a pixel tells nothing of its neighbours."""
_ROUGHNESS = 0.01
"""Of the light in the neighbours: what flat field, pixel response and interpolation of the PSF leave as error."""
_WIDEST = 12.0
"""Pixels: wider stars are treated as of this width; the bounds hold for them too."""


def find_cosmic_rays(
    image: FloatImage,
    variance: FloatImage,
    blocked: NDArray[np.bool_],
    *,
    fwhm: float | None = None,
    threshold: float = 4.7,
    growth: float = 2.0,
    sharpness: float = 0.92,
    least_fwhm: float = 2.0,
) -> NDArray[np.bool_]:
    """Return a bool mask of pixels hit by particles, shape (height, width).

    `image` float32 in electrons, sky included; `variance` its float32 variance; `blocked` pixels are never hits, nor
    are pixels that are not finite. `fwhm` of the stars in pixels, or None to measure it here; where that can't be
    done it is `least_fwhm`. Raises DataError where the planes differ in shape.

    Light that came through the optics is a sum of stars, each with the PSF's width at least. A track's first pixels
    respond with more than `threshold` sigma to a filter that has no positive response to any such sum
    (`cosmic_patterns`); from there it grows over neighbours that exceed by `growth` sigma what the free pixels round
    them allow (`cosmic_bounds`). Both hold for PSFs narrower than `fwhm` down to `sharpness` times it.
    """
    if not image.shape == variance.shape == blocked.shape:
        raise DataError(
            f"cosmic rays: image {image.shape}, variance {variance.shape} and blocked {blocked.shape} differ in shape"
        )
    if fwhm is None:
        fwhm = estimate_fwhm(image, variance, blocked)
    width = round(float(np.clip(fwhm or 0.0, least_fwhm, _WIDEST)) * sharpness, 1)
    bounds, patterns = bounds_for(width), patterns_for(width)
    rule = bounds.before, bounds.after, bounds.ring, _ROUGHNESS
    sky = sky_levels(image, blocked)
    state = _states(image, variance, blocked, sky)
    planes = image, variance, state
    found = search(planes, sky, rule, patterns.weights, patterns.lit, _FAINTEST, threshold)
    grow(planes, found, rule, (growth, 0.8 * growth, _FAINTEST_NEXT))
    return np.asarray(state == HIT)


def apply(state: IsrState) -> None:
    """Set CR; the values stay. Tracks, their share of the pixels and the seeing, where measured, become metrics."""
    state.need_unit("electron", "cosmic_rays")
    options = state.config.cosmic_rays
    blocked = _blocked(state.mask, int(_BLOCKED), int(MaskPlane.SATURATED))
    fwhm = estimate_fwhm(state.image, state.variance, blocked)
    if fwhm is not None:
        state.metrics["seeingPixels"] = fwhm
    hits = find_cosmic_rays(
        state.image,
        state.variance,
        blocked,
        fwhm=options.least_fwhm if fwhm is None else fwhm,
        threshold=options.threshold,
        growth=options.growth,
        sharpness=options.sharpness,
        least_fwhm=options.least_fwhm,
    )
    state.flag(hits, MaskPlane.CR)
    state.metrics["cosmicRayCount"] = float(_tracks(hits))
    state.metrics["cosmicRayFraction"] = float(np.count_nonzero(hits) / max(hits.size, 1))


@njit(cache=True, nogil=True)
def _states(image: Any, variance: Any, blocked: Any, sky: Any) -> Any:  # pragma: no cover - compiled
    """Return FREE or BLOCKED for each pixel, uint8 (height, width); far below the sky lie defects nobody flagged."""
    height, width = image.shape
    state = np.empty((height, width), np.uint8)
    level = np.empty(width, np.float32)
    for y in range(height):
        sky_row(sky, y, level)
        for x in range(width):
            usable = not blocked[y, x] and np.isfinite(image[y, x]) and 0 < variance[y, x] < np.inf
            lack = level[x] - image[y, x]
            dark = lack > 0 and lack * lack > _DARK * _DARK * variance[y, x]
            state[y, x] = FREE if usable and not dark else BLOCKED
    return state


@njit(cache=True, nogil=True)
def _blocked(mask: Any, planes: Any, saturated: Any) -> Any:  # pragma: no cover - compiled
    """Tell where `planes` are set or a neighbour is saturated: charge that spilled from there is as sharp as a hit."""
    height, width = mask.shape
    blocked = np.zeros((height, width), np.bool_)
    for y in range(height):
        for x in range(width):
            if mask[y, x] & planes:
                blocked[y, x] = True
                if mask[y, x] & saturated:
                    blocked[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
    return blocked


@njit(cache=True, nogil=True)
def _tracks(hits: Any) -> Any:  # pragma: no cover - compiled
    """Count the groups of hits that touch, corners included."""
    height, width = hits.shape
    left = hits.copy()
    stack = np.empty(np.count_nonzero(hits), np.int64)
    count = 0
    for y in range(height):
        for x in range(width):
            if not left[y, x]:
                continue
            count += 1
            left[y, x] = False
            stack[0], depth = y * width + x, 1
            while depth > 0:
                depth -= 1
                row, column = stack[depth] // width, stack[depth] % width
                for near in range(max(row - 1, 0), min(row + 2, height)):
                    for beside in range(max(column - 1, 0), min(column + 2, width)):
                        if left[near, beside]:
                            left[near, beside] = False
                            stack[depth] = near * width + beside
                            depth += 1
    return count
