"""Stars and galaxies off the binned sky; what is long and thin stays, for it may be a trail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import label

from workers.imaging.exposure import FloatImage
from workers.isr.trail_binning import FlatSky

__all__ = ["Sources", "block_sources"]

_FAINT, _SEED, _CORE = 3.0, 5.0, 300.0  # sigma of a bin
_THIN, _LONG = 5.0, 24.0  # length over width, and bins, of what may be a piece of a trail
_TANGLED = 80.0  # bins: a longer patch may be stars on a trail
_MODEST = 30.0  # sigma of a bin: pieces of a brighter trail hang together
_CROWDED = 0.35  # share of blocked bins beyond which the blocks are not enlarged as much
_AROUND = np.ones((3, 3), int)


@dataclass(frozen=True)
class Sources:
    """What was found in the binned sky."""

    weight: FloatImage
    """Of the binned sky, 0 inside sources."""
    cores: NDArray[np.float64]
    """x, y, radius (bins) and top (sigma) of the very bright, whose spikes look like trails; shape (n, 4)."""
    tangled: NDArray[np.bool_]
    """Bins blocked for patches so long that a bright trail may be part of them."""
    pieces: NDArray[np.bool_]
    """Bins blocked for patches so faint that they may be pieces of a trail."""


def block_sources(sky: FlatSky) -> Sources:
    """Return the sky's weights without its sources.

    A source is a patch of bins above 3 sigma that reaches 5 sigma somewhere. Each is enlarged by half its radius (the
    wings below the threshold go on that far for a Moffat star) unless the field is crowded.
    """
    bright = np.where(sky.saturated, np.float32(1e4), sky.value)
    patches, number = label(bright > _FAINT, _AROUND)
    shape = _shapes(patches, bright, number)
    area, top = shape[0], shape[1]
    source = top > _SEED
    source[0] = False
    length, width = _lengths(shape)
    thin = (length > _THIN * width) & (length > _LONG) & (top < 1e4)
    blocked = source & ~thin
    radius = np.where(blocked, 1.0 + 0.5 * np.sqrt(area / np.pi), -1.0)
    share = float(area[blocked].sum()) / bright.size
    if share > _CROWDED / 2:
        radius = np.minimum(radius, 1.0)
    long = blocked & (length > _TANGLED)
    modest = blocked & ~long & (top < _MODEST)
    firm = _clear(patches, np.where(long | modest, -1.0, radius).astype(np.float32))
    tangled = firm & ~_clear(patches, np.where(long, radius, -1.0).astype(np.float32))
    pieces = firm & ~tangled & ~_clear(patches, np.where(modest, radius, -1.0).astype(np.float32))
    weight = np.where(firm & ~tangled & ~pieces, sky.weight, np.float32(0.0))
    return Sources(weight, _cores(bright), tangled, pieces)


def _cores(bright: FloatImage) -> NDArray[np.float64]:
    """Return x, y, radius (bins) and top (sigma) of the very bright patches."""
    patches, number = label(bright > _CORE, _AROUND)
    area, top, x, y = _shapes(patches, bright, number)[:4, 1:]
    return np.stack([x / area, y / area, np.sqrt(area / np.pi), top], axis=1)


def _lengths(shape: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return length and width (bins) of the uniform bar with each patch's second moments."""
    area = np.maximum(shape[0], 1.0)
    x, y = shape[2] / area, shape[3] / area
    xx = shape[4] / area - x * x + 1 / 12
    yy = shape[5] / area - y * y + 1 / 12
    xy = shape[6] / area - x * y
    mean, part = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
    return np.sqrt(12 * (mean + part)), np.sqrt(12 * np.maximum(mean - part, 1 / 12))


@njit(cache=True, nogil=True)
def _shapes(patches: Any, bright: Any, number: int) -> Any:  # pragma: no cover - compiled
    """Area, top and moments x, y, xx, yy, xy of each patch; rows of a (7, number + 1) array."""
    shape = np.zeros((7, number + 1))
    for y in range(patches.shape[0]):
        for x in range(patches.shape[1]):
            patch = patches[y, x]
            if patch == 0:
                continue
            shape[0, patch] += 1
            shape[1, patch] = max(shape[1, patch], bright[y, x])
            shape[2, patch] += x
            shape[3, patch] += y
            shape[4, patch] += x * x
            shape[5, patch] += y * y
            shape[6, patch] += x * y
    return shape


@njit(cache=True, nogil=True)
def _clear(patches: Any, radius: Any) -> Any:  # pragma: no cover - compiled
    """Return where no patch is within its radius: two passes of chamfer distance."""
    height, width = patches.shape
    left = np.full((height + 2, width + 2), np.float32(-1.0))
    straight, slanted = np.float32(1.0), np.float32(1.41421)
    for y in range(height):
        for x in range(width):
            best = left[y, x] - slanted
            best = max(best, left[y, x + 1] - straight)
            best = max(best, left[y, x + 2] - slanted)
            best = max(best, left[y + 1, x] - straight)
            patch = patches[y, x]
            left[y + 1, x + 1] = max(best, radius[patch]) if patch > 0 else best
    keep = np.empty((height, width), np.bool_)
    for y in range(height - 1, -1, -1):
        for x in range(width - 1, -1, -1):
            best = left[y + 2, x + 2] - slanted
            best = max(best, left[y + 2, x + 1] - straight)
            best = max(best, left[y + 2, x] - slanted)
            best = max(best, left[y + 1, x + 2] - straight)
            best = max(best, left[y + 1, x + 1])
            left[y + 1, x + 1] = best
            keep[y, x] = best < 0
    return keep
