"""Where a difference shows nothing but sky: square tiles far from the template's sources and from what is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from workers.imaging.exposure import FloatImage

__all__ = ["QuietSky", "quiet_sky"]

_Bool = NDArray[np.bool_]
_MOST = 500_000
"""Pixels of a sample."""
_FEWEST = 20
"""Tiles that can speak for the sky."""


@dataclass(frozen=True)
class QuietSky:
    """Tiles of an image, counted from its first pixel."""

    clear: _Bool
    """(rows, columns) of tiles: nothing in it nor, where enough tiles are so, in its neighbours."""
    side: int
    """Pixels of a tile along a side."""

    def holds(self, x: NDArray[np.integer], y: NDArray[np.integer]) -> _Bool:
        """Tell which pixels lie in a clear tile."""
        rows, columns = self.clear.shape
        return np.asarray(self.clear[np.minimum(y // self.side, rows - 1), np.minimum(x // self.side, columns - 1)])

    def sample(self, image: FloatImage) -> NDArray[np.float32]:
        """Return pixels of the clear tiles, every so many; (n,), empty without any."""
        rows, columns = np.nonzero(self.clear)
        step = max(len(rows) * self.side**2 // _MOST, 1)
        at = np.arange(0, len(rows) * self.side**2, step)
        tile, pixel = np.divmod(at, self.side**2)
        y, x = rows[tile] * self.side + pixel // self.side, columns[tile] * self.side + pixel % self.side
        inside = (y < image.shape[0]) & (x < image.shape[1])
        return np.asarray(image[y[inside], x[inside]])


def quiet_sky(
    score: FloatImage, model: FloatImage, blocked: _Bool, *, new: float, light: float, reach: float
) -> QuietSky:
    """Return the tiles without a `blocked` pixel, a score beyond `new` or a model above `light` within `reach` pixels.

    Planes of one shape. In crowded fields, where there are hardly any, those without one in the tile itself.
    """
    side = max(int(np.ceil(reach)), 1)
    busy = np.zeros((-(-score.shape[0] // side), -(-score.shape[1] // side)), bool)
    _mark(score, model, blocked, np.float32(new), np.float32(light), side, busy)
    clear = ~ndimage.binary_dilation(busy, np.ones((3, 3), bool))
    return QuietSky(clear if np.count_nonzero(clear) >= _FEWEST else ~busy, side)


@njit(cache=True, nogil=True)
def _mark(
    score: Any, model: Any, blocked: Any, new: Any, light: Any, side: int, busy: Any
) -> None:  # pragma: no cover - compiled
    """Mark the tiles that hold something."""
    height, width = score.shape
    for y in range(height):
        row = busy[y // side]
        for column in range(row.size):
            found = False
            for x in range(column * side, min((column + 1) * side, width)):
                found |= blocked[y, x] | (score[y, x] > new) | (score[y, x] < -new) | (model[y, x] > light)
            if found:
                row[column] = True
