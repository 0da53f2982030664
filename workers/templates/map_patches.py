"""Flux maps near a place at every pixel, between those that they hold."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.templates.flux_maps import FluxMaps

__all__ = ["Patch", "patch", "still_patch"]

_Float = NDArray[np.float64]
_TAPS, _KAISER = 7, 5.0
"""Pixels of a map to either side of a place between them, and the window over them (beta)."""


class Patch(NamedTuple):
    """The epochs round a pixel of the planes, (N, n, n) at every pixel, float32."""

    flux: NDArray[np.float32]
    weight: NDArray[np.float32]


def patch(maps: FluxMaps, x: int, y: int, half: int) -> Patch:
    """Return the epochs at the pixels up to `half` from pixel (x, y) of the planes.

    Flux is interpolated by a windowed sinc, to 0.3 % of a source's height and the same way in all epochs: a map has no
    power at its own smallest scale. A weight is that of the map's pixel before, 0 where it or the one behind has none.
    What is beyond the edges comes from the opposite ones.
    """
    weight = maps.weight
    for axis, at in ((1, y), (2, x)):
        places = np.arange(at - half, at + half + 1)
        sides = (places // maps.step, -(-places // maps.step))
        before, after = (np.take(weight, side % maps.weight.shape[axis], axis=axis) for side in sides)
        weight = np.where(after > 0, before, np.float32(0.0))
    return Patch(_between(maps.flux, x, y, half, maps.step), weight)


def still_patch(maps: FluxMaps, x: int, y: int, half: int) -> _Float:
    """Return the mean of the lower half of the epochs there, (n, n), nJy."""
    return np.asarray(_between(maps.still[None], x, y, half, maps.step)[0], float)


def _between(planes: NDArray[np.float32], x: int, y: int, half: int, step: int) -> NDArray[np.float32]:
    rows, across = _taps(y % step, half, step)
    columns, along = _taps(x % step, half, step)
    there = planes[:, ((y // step + rows) % planes.shape[1])[:, None], (x // step + columns) % planes.shape[2]]
    return np.ascontiguousarray(across @ there @ along.T)


@lru_cache(maxsize=64)
def _taps(odd: int, half: int, step: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return pixels (m,) of a map, counted from the one before a place, and their shares (n, m) in those round it.

    The place is `odd` pixels of the planes beyond that pixel of the map.
    """
    if step == 1:
        return np.arange(-half, half + 1), np.eye(2 * half + 1, dtype=np.float32)
    places = (odd + np.arange(-half, half + 1)) / step
    pixels = np.arange(int(np.floor(places[0])) - _TAPS + 1, int(np.ceil(places[-1])) + _TAPS)
    far = places[:, None] - pixels
    window = np.i0(_KAISER * np.sqrt(np.clip(1.0 - np.square(far / _TAPS), 0.0, None))) / np.i0(_KAISER)
    shares = np.sinc(far) * np.where(np.abs(far) < _TAPS, window, 0.0)
    return pixels, (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
