"""The binned planes in which trails are looked for, and what is taken out of them as the search goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from workers.imaging.exposure import FloatImage
from workers.isr.trail_binning import FlatSky
from workers.isr.trail_path import Arc, stretched
from workers.isr.trail_sources import Sources

__all__ = ["SearchPlanes", "cover"]

_CLIP = 4.0  # sigma of a bin: what one bin may add to a line
_BESIDE, _ROUND = 12.0, 3  # bins from a bad column up to which stars hang on to it, and of their wings
_NEAR = 28.0  # bins: half the strip in which a profile is fitted
_BRIGHT = 3.0  # sigma of a bin, typical along a path, from which pieces of a trail may pass for sources


def cover(plane: NDArray[np.bool_], arc: Arc, half: float) -> None:
    """Set the pixels within `half` of the arc, by runs along the lesser axis."""
    dx, dy = arc.x1 - arc.x0, arc.y1 - arc.y0
    x, y = arc.points(np.linspace(0.0, 1.0, int(2 * arc.length) + 2))
    _fill(plane, x, y, half * arc.length / max(abs(dx), abs(dy), 1e-9), abs(dy) >= abs(dx))


@njit(cache=True, nogil=True)
def _fill(plane: Any, xs: Any, ys: Any, room: float, steep: bool) -> None:  # pragma: no cover - compiled
    """Set the runs of `room` on each side of the points, along rows where steep, else along columns."""
    height, width = plane.shape
    for index in range(len(xs)):
        if steep:
            row = int(np.floor(ys[index] + 0.5))
            if 0 <= row < height:
                low, high = int(np.ceil(xs[index] - room)), int(np.floor(xs[index] + room)) + 1
                plane[row, max(low, 0) : max(high, 0)] = True
        else:
            column = int(np.floor(xs[index] + 0.5))
            if 0 <= column < width:
                low, high = int(np.ceil(ys[index] - room)), int(np.floor(ys[index] + room)) + 1
                plane[max(low, 0) : max(high, 0), column] = True


class SearchPlanes:
    """Weights and signal of the bins that still count; arcs are in bins."""

    def __init__(self, sky: FlatSky, sources: Sources) -> None:
        self.sky, self.sources = sky, sources
        self.open = sources.weight.copy()
        """Weights off sources."""
        self.taken = np.zeros(sky.value.shape, bool)
        """Bins of trails found, and their wings."""
        self.weight = self.signal = np.zeros((0, 0), np.float32)

    def start(self, weight: FloatImage) -> None:
        """Start with bins of `weight`."""
        self.weight, self.signal = weight.copy(), self.clipped(weight)

    def clipped(self, weight: FloatImage) -> FloatImage:
        """Return weight times value, clipped so that no bin makes a line alone."""
        return np.asarray(np.clip(self.sky.value, -_CLIP, _CLIP) * weight, np.float32)

    def brightness(self, arc: Arc) -> float:
        """Return the typical value of the bins on the arc: the median of the best of three across."""
        x, y = arc.points(np.linspace(0.0, 1.0, int(arc.length) + 2))
        rows, columns = np.floor(y + 0.5).astype(int), np.floor(x + 0.5).astype(int)
        height, width = self.sky.value.shape
        on = (rows >= 1) & (columns >= 1) & (rows < height - 1) & (columns < width - 1)
        rows, columns = rows[on], columns[on]
        steep = abs(arc.y1 - arc.y0) >= abs(arc.x1 - arc.x0)
        across = [self.sky.value[rows + (0 if steep else k), columns + (k if steep else 0)] for k in (-1, 0, 1)]
        return max(float(np.median(np.max(across, axis=0))), 0.0) if rows.size else 0.0

    def opened(self, arc: Arc, brightness: float, width: float) -> FloatImage:
        """Return the weights off sources; what is blocked on a bright arc counts unless it is much brighter.

        Pieces of a bright trail pass for sources; patches tangled with it count all over the strip of the fit.
        """
        if brightness < _BRIGHT:
            return self.open
        near, beside = np.zeros(self.weight.shape, bool), np.zeros(self.weight.shape, bool)
        cover(near, stretched(arc, -1.0, 2.0), 0.5 * width + 3.0)
        cover(beside, stretched(arc, -0.05, 1.05), _NEAR)
        near = (near & self.sources.pieces) | (beside & self.sources.tangled)
        near &= self.sky.value < 2.5 * brightness
        return np.where(near, self.sky.weight, self.open)

    def close(self, arc: Arc, half: float, *planes: FloatImage) -> None:
        """Take the bins within `half` of the arc, drawn out a little, out of the sums (or of `planes`)."""
        gone = np.zeros(self.weight.shape, bool)
        cover(gone, stretched(arc, -0.05, 1.05), half)
        for plane in planes or (self.weight, self.signal):
            plane[gone] = 0.0

    def close_column(self, column: Arc, width: float) -> None:
        """Take out a bad column with the stars it runs through, which passed with it for one long thin patch."""
        self.close(column, width + 1.0)
        self.close(column, width, self.open)
        beside = np.zeros(self.open.shape, bool)
        cover(beside, column, _BESIDE)
        stars = binary_dilation(beside & (self.open > 0) & (self.sky.value > _BRIGHT), iterations=_ROUND)
        for plane in (self.weight, self.signal, self.open):
            plane[stars] = 0.0

    def close_trail(self, arc: Arc, half: float) -> None:
        """Take out a trail that was found, `half` bins to each side."""
        self.close(arc, half)
        cover(self.taken, arc, half + 1.0)

    def is_taken(self, arc: Arc) -> bool:
        """Whether most of the arc runs in the wings of a trail already found."""
        x, y = arc.points(np.linspace(0.0, 1.0, int(arc.length) + 2))
        height, width = self.sky.value.shape
        rows = np.clip(np.floor(y + 0.5).astype(int), 0, height - 1)
        columns = np.clip(np.floor(x + 0.5).astype(int), 0, width - 1)
        return bool(self.taken[rows, columns].mean() > 0.5)
