"""Cosmic rays: edges sharper than any star's, after van Dokkum 2001 (PASP 113, 1420, L.A.Cosmic)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import label

from workers.imaging.exposure import FloatImage
from workers.imaging.masks import MaskPlane
from workers.isr.state import IsrState

__all__ = ["apply", "find_cosmic_rays"]

_BLOCKED = MaskPlane.BAD | MaskPlane.SATURATED | MaskPlane.NO_DATA
_ROUNDS = 4


def find_cosmic_rays(
    image: FloatImage,
    variance: FloatImage,
    blocked: NDArray[np.bool_],
    *,
    threshold: float = 4.5,
    growth: float = 0.4,
    contrast: float = 4.0,
) -> NDArray[np.bool_]:
    """Return a bool mask of pixels hit by cosmic rays, shape (height, width).

    `image` float32 in electrons, sky included; `variance` its float32 variance; `blocked` pixels are never hits.
    A hit's Laplacian on the twice finer grid exceeds `threshold` sigma and `contrast` times the fine structure of the
    image there (a star's is smooth, a hit's is not); neighbours follow at `growth` times `threshold`. Hits are
    replaced by the median round them and the search is repeated, so that wide tracks are peeled from the rim.
    """
    clean = np.where(np.isfinite(image), image, np.float32(0)).astype(np.float32)
    hits, near = np.zeros(image.shape, bool), np.ones(image.shape, bool)
    floor = float(np.median(variance))
    for _ in range(_ROUNDS):
        edges, skip = _edges(clean), blocked | hits
        found = _seeds(clean, edges, variance, skip | ~near, floor, threshold, contrast)
        if not found.any():
            break
        found = _grow(edges, variance, skip, found, growth * threshold)
        hits |= found
        clean = _filled(clean, found, hits | blocked)
        near[:] = False  # nothing changes farther away than the largest median reaches
        near[_boxes(found, 5)] = True
    return hits


def _boxes(found: NDArray[np.bool_], half: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices (n, side, side) of the boxes of `half` pixels round the n found ones, kept inside."""
    ys, xs = np.nonzero(found)
    steps = np.arange(-half, half + 1)
    rows = np.clip(ys[:, None, None] + steps[:, None], 0, found.shape[0] - 1)
    columns = np.clip(xs[:, None, None] + steps[None, :], 0, found.shape[1] - 1)
    return rows, columns


def _filled(image: FloatImage, found: NDArray[np.bool_], bad: NDArray[np.bool_]) -> FloatImage:
    """Return the image with `found` pixels replaced by the median of the good ones within two pixels."""
    boxes = _boxes(found, 2)
    around = np.where(bad[boxes], np.nan, image[boxes]).reshape(int(found.sum()), -1)
    lonely = np.isnan(around).all(axis=1)
    if lonely.any():
        around[lonely] = np.median(image)
    filled = image.copy()
    filled[found] = np.nanmedian(around, axis=1)
    return filled


def apply(state: IsrState) -> None:
    """Set CR; the values stay. The number of tracks and the share of pixels become metrics."""
    state.need_unit("electron", "cosmic_rays")
    hits = find_cosmic_rays(state.image, state.variance, (state.mask & _BLOCKED) != 0)
    state.flag(hits, MaskPlane.CR)
    state.metrics["cosmicRayCount"] = float(label(hits, np.ones((3, 3), int))[1] if hits.any() else 0)
    state.metrics["cosmicRayFraction"] = float(hits.mean())


@njit(cache=True, nogil=True)
def _edges(image: Any) -> Any:  # pragma: no cover - compiled
    """Laplacian on the twice finer grid, positive part, rebinned, halved: a lone pixel's own electrons."""
    height, width = image.shape
    edges = np.empty((height, width), np.float32)
    for y in range(height):
        up, down = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(width):
            left, right = image[y, max(x - 1, 0)], image[y, min(x + 1, width - 1)]
            value = 2.0 * image[y, x]
            total = max(value - left - image[up, x], 0.0) + max(value - right - image[up, x], 0.0)
            total += max(value - left - image[down, x], 0.0) + max(value - right - image[down, x], 0.0)
            edges[y, x] = 0.125 * total
    return edges


@njit(cache=True, nogil=True)
def _seeds(
    image: Any, edges: Any, variance: Any, blocked: Any, floor: float, threshold: float, contrast: float
) -> Any:  # pragma: no cover - compiled
    """Pixels that pass both tests; the costly medians are taken only where the edge is high at all."""
    height, width = image.shape
    found = np.zeros((height, width), np.bool_)
    buffer, smooth = np.empty(49, np.float32), np.empty(49, np.float32)
    for y in range(height):
        for x in range(width):
            least = 0.6 * threshold * np.sqrt(min(floor, variance[y, x]))
            if blocked[y, x] or edges[y, x] < least:
                continue
            sigma = np.sqrt(_median_box(variance, y, x, 2, buffer))
            excess = edges[y, x] - _median_box(edges, y, x, 2, buffer)
            if excess <= threshold * sigma:
                continue
            count = 0
            for row in range(max(y - 3, 0), min(y + 4, height)):
                for column in range(max(x - 3, 0), min(x + 4, width)):
                    smooth[count] = _median_box(image, row, column, 1, buffer)
                    count += 1
            fine = _median_box(image, y, x, 1, buffer) - np.median(smooth[:count])
            found[y, x] = excess > contrast * max(fine, 0.01 * sigma)
    return found


@njit(cache=True, nogil=True)
def _grow(edges: Any, variance: Any, blocked: Any, found: Any, limit: float) -> Any:  # pragma: no cover
    """Add the neighbours whose edge is more than `limit` sigma high."""
    height, width = edges.shape
    grown = found.copy()
    buffer = np.empty(25, np.float32)
    seeds = np.argwhere(found)
    for index in range(len(seeds)):
        y, x = seeds[index]
        for row in range(max(y - 1, 0), min(y + 2, height)):
            for column in range(max(x - 1, 0), min(x + 2, width)):
                if blocked[row, column] or grown[row, column]:
                    continue
                excess = edges[row, column] - _median_box(edges, row, column, 2, buffer)
                grown[row, column] = excess > limit * np.sqrt(_median_box(variance, row, column, 2, buffer))
    return grown


@njit(cache=True, nogil=True)
def _median_box(image: Any, y: int, x: int, half: int, buffer: Any) -> Any:  # pragma: no cover - compiled
    """Median of the box of `half` pixels round (y, x), cut at the image's edges."""
    count = 0
    for row in range(max(y - half, 0), min(y + half + 1, image.shape[0])):
        for column in range(max(x - half, 0), min(x + half + 1, image.shape[1])):
            value = image[row, column]
            place = count
            while place > 0 and buffer[place - 1] > value:
                buffer[place] = buffer[place - 1]
                place -= 1
            buffer[place] = value
            count += 1
    middle = count // 2
    if count % 2 == 1:
        return buffer[middle]
    return np.float32(0.5) * (buffer[middle - 1] + buffer[middle])
