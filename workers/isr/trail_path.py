"""A trail's path: a shallow arc, grown from a straight piece over the whole detector and cut where the light ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import FloatImage

__all__ = ["Arc", "Bars", "cut", "grow", "inside", "stretched", "sums_along"]

_BLOCK = 8  # bins along the path per block when its ends are looked for
_CLIMBS = 12  # rounds of a search whose best is at its rim
_NEW = 4.5  # sigma that make an added piece believed


@dataclass(frozen=True)
class Arc:
    """The parabola from (x0, y0) to (x1, y1) that is `sagitta` off its chord in the middle.

    The sagitta is positive on the side of (-dy, dx), where (dx, dy) is the chord.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    sagitta: float = 0.0

    @property
    def length(self) -> float:
        """Of the chord."""
        return float(np.hypot(self.x1 - self.x0, self.y1 - self.y0))

    @property
    def normal(self) -> tuple[float, float]:
        """Unit vector across the chord."""
        long = max(self.length, 1e-9)
        return (self.y0 - self.y1) / long, (self.x1 - self.x0) / long

    def points(self, share: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return x and y at `share` (0 to 1) of the chord."""
        off = 4.0 * self.sagitta * share * (1.0 - share)
        nx, ny = self.normal
        return (
            self.x0 + share * (self.x1 - self.x0) + nx * off,
            self.y0 + share * (self.y1 - self.y0) + ny * off,
        )

    def moved(self, first: float, last: float, middle: float) -> Arc:
        """Return the arc with its ends moved across the chord and its sagitta changed."""
        nx, ny = self.normal
        return Arc(
            self.x0 + first * nx,
            self.y0 + first * ny,
            self.x1 + last * nx,
            self.y1 + last * ny,
            self.sagitta + middle,
        )

    def scaled(self, factor: float) -> Arc:
        """Return the same arc on pixels `factor` times smaller, 0-based centres kept right."""
        off = 0.5 * (factor - 1.0)
        x0, y0, x1, y1 = (factor * v + off for v in (self.x0, self.y0, self.x1, self.y1))
        return Arc(x0, y0, x1, y1, self.sagitta * factor)

    def numbers(self) -> NDArray[np.float64]:
        """Return x0, y0, x1, y1, sagitta."""
        return np.array([self.x0, self.y0, self.x1, self.y1, self.sagitta])


def stretched(arc: Arc, begin: float, end: float) -> Arc:
    """Return the piece of the same parabola from share `begin` to share `end` of the chord."""
    x, y = arc.points(np.array([begin, end]))
    return Arc(float(x[0]), float(y[0]), float(x[1]), float(y[1]), float(arc.sagitta * (end - begin) ** 2))


@dataclass(frozen=True)
class Bars:
    """The binned sky summed over `width` bins across steep or flat paths, so that a path is a walk over bins."""

    signal: FloatImage
    weight: FloatImage
    width: int
    steep: bool

    @classmethod
    def of(cls, signal: FloatImage, weight: FloatImage, width: float, arc: Arc) -> Bars:
        """`signal` is weight times value; both float32 (height, width)."""
        steep = abs(arc.y1 - arc.y0) >= abs(arc.x1 - arc.x0)
        size = round(width)
        widened = _widened_rows if steep else _widened_columns
        return cls(widened(signal, size), widened(weight, size), size, steep)

    @property
    def move(self) -> float:
        """Bins from a path to the bin whose bar it is the centre of."""
        return 0.0 if self.width % 2 else 0.5

    def along(self, arc: Arc, block: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return signal and weight summed in blocks of about `block` bins along the arc."""
        number = max(1, round(arc.length / block))
        sums, weights = np.zeros(number), np.zeros(number)
        _along(self.signal, self.weight, arc.numbers(), self.move, sums, weights)
        return sums, weights

    def z(self, arc: Arc) -> float:
        """Return the signal to noise ratio along the arc."""
        sums, weights = self.along(arc, 1e9)
        return float(sums[0] / np.sqrt(max(weights[0], 1e-9)))

    def searched(self, arc: Arc, reach: tuple[float, float], sagitta: float) -> Arc:
        """Return the best arc with ends and middle within `reach` bins, by whole bins and then by halves.

        `sagitta` bounds that of an arc as long as the image.
        """
        limit = max(sagitta * (arc.length / max(self.signal.shape)) ** 2, 0.5)
        for step, spans in ((1.0, (reach[0], reach[0], reach[1])), (0.5, (1.0, 1.0, 1.0))):
            span = np.array(spans)
            for _ in range(_CLIMBS):
                best = np.zeros(3)
                _search(self.signal, self.weight, arc.numbers(), self.move, span, step, limit, best)
                arc = arc.moved(best[0], best[1], best[2])
                if (np.abs(best) < span).all():
                    break
                span = np.array((2.0, 2.0, 2.0)) * step  # it goes on: follow in small rounds
        return replace(arc, sagitta=float(np.clip(arc.sagitta, -limit, limit)))


def grow(bars: Bars, seed: Arc, sagitta: float) -> Arc:
    """Return the arc through `seed` over the whole image that gathers the most signal.

    Each round doubles the length; ends and middle are searched on a grid, and a round whose new pieces hold nothing
    leaves the arc as it is, only longer. `sagitta` (bins) bounds that of an arc as long as the image.
    """
    bend = min(6.0, max(1.0, sagitta * (seed.length / max(bars.signal.shape)) ** 2))
    arc = bars.searched(seed, (2.0, float(round(bend))), sagitta)
    for _ in range(12):
        begin, end = -0.5 * _inside(arc.x0, arc.y0, bars.signal), 1.0 + 0.5 * _inside(arc.x1, arc.y1, bars.signal)
        if begin == 0.0 and end == 1.0:
            break
        longer = stretched(arc, begin, end)
        bent = bars.searched(longer, (min(4.0, 1.0 + 0.02 * longer.length), 2.0), sagitta)
        share = end - begin
        pieces = [(0.0, -begin / share), (1.0 - (end - 1.0) / share, 1.0)]
        gains = [bars.z(stretched(bent, *piece)) for piece in pieces if piece[1] > piece[0]]
        arc = bent if max(gains) > _NEW else longer
    return inside(arc, bars.signal.shape)


def inside(arc: Arc, shape: tuple[int, ...]) -> Arc:
    """Return the part of the arc between its first and last point on an image of `shape`."""
    share = np.linspace(0.0, 1.0, max(2, int(2 * arc.length) + 1))
    x, y = arc.points(share)
    on = np.nonzero((x >= -0.5) & (y >= -0.5) & (x <= shape[1] - 0.5) & (y <= shape[0] - 0.5))[0]
    return stretched(arc, float(share[on[0]]), float(share[on[-1]])) if len(on) > 1 else arc


def cut(bars: Bars, arc: Arc, seed: Arc) -> Arc:
    """Return the piece of the arc that is lit: the run of blocks with the largest likelihood gain.

    A block gains when it is nearer to the brightness of the seed's place than to nothing; gaps inside are kept where
    what follows outweighs them.
    """
    sums, weights = bars.along(arc, _BLOCK)
    number = len(sums)
    along = _shares(arc, seed)
    first = min(max(int(along[0] * number), 0), number - 1)
    last = min(max(int(np.ceil(along[1] * number)), first + 1), number)
    level = 0.6 * sums[first:last].sum() / max(weights[first:last].sum(), 1e-9)
    if level <= 0:
        return seed
    gain = level * sums - 0.5 * level * level * weights
    total = np.concatenate([[0.0], np.cumsum(gain)])
    low = np.minimum.accumulate(total)
    end = int(np.argmax(total - low))
    begin = int(np.argmin(total[: end + 1]))
    return stretched(arc, begin / number, end / number) if end > begin else seed


def sums_along(
    signal: FloatImage, weight: FloatImage, lines: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return signal and weight summed over straight bars: rows of x0, y0, x1, y1, width (bins)."""
    sums, weights = np.zeros(len(lines)), np.zeros(len(lines))
    _over_bars(signal, weight, lines, sums, weights)
    return sums, weights


def _shares(arc: Arc, seed: Arc) -> tuple[float, float]:
    """Return where along the arc's chord (0 to 1) the seed begins and ends."""
    dx, dy = arc.x1 - arc.x0, arc.y1 - arc.y0
    square = dx * dx + dy * dy
    ends = [((x - arc.x0) * dx + (y - arc.y0) * dy) / square for x, y in ((seed.x0, seed.y0), (seed.x1, seed.y1))]
    return min(ends), max(ends)


def _inside(x: float, y: float, image: FloatImage) -> float:
    return float(-0.5 <= x < image.shape[1] - 0.5 and -0.5 <= y < image.shape[0] - 0.5)


@njit(cache=True, nogil=True)
def _widened_rows(plane: Any, width: int) -> Any:  # pragma: no cover - compiled
    """Sum over `width` bins along rows; even bars are centred half a bin to the left."""
    height, across = plane.shape
    wide = np.zeros((height, across), np.float32)
    low = width // 2
    row = np.zeros(across + width + 1)
    for y in range(height):
        for x in range(across + width):
            row[x + 1] = row[x] + (plane[y, x - width + low] if 0 <= x - width + low < across else 0.0)
        for x in range(across):
            wide[y, x] = row[x + width + 1] - row[x + 1]
    return wide


@njit(cache=True, nogil=True)
def _widened_columns(plane: Any, width: int) -> Any:  # pragma: no cover - compiled
    """Sum over `width` bins along columns; even bars are centred half a bin downwards."""
    height, across = plane.shape
    wide = np.zeros((height, across), np.float32)
    low = width // 2
    sums = np.zeros(across)
    for y in range(-low, height):
        if y + low < height:
            sums += plane[y + low]
        if y + low - width >= 0:
            sums -= plane[y + low - width]
        if y >= 0:
            wide[y] = sums
    return wide


@njit(cache=True, nogil=True)
def _along(signal: Any, weight: Any, arc: Any, move: float, sums: Any, weights: Any) -> None:  # pragma: no cover
    """Add signal and weight along the arc to equal blocks; `move` puts even bars' centres right."""
    height, across = signal.shape
    dx, dy = arc[2] - arc[0], arc[3] - arc[1]
    long = max(np.sqrt(dx * dx + dy * dy), 1e-9)
    steep = abs(dy) >= abs(dx)
    steps = int(max(abs(dx), abs(dy))) + 1
    number = len(sums)
    right, up = (0.5 + move, 0.5) if steep else (0.5, 0.5 + move)
    for index in range(steps):
        share = (index + 0.5) / steps
        off = 4.0 * arc[4] * share * (1.0 - share) / long
        column = int(np.floor(arc[0] + share * dx - off * dy + right))
        row = int(np.floor(arc[1] + share * dy + off * dx + up))
        if row < 0 or row >= height or column < 0 or column >= across:
            continue
        block = int(share * number)
        sums[block] += signal[row, column]
        weights[block] += weight[row, column]


@njit(cache=True, nogil=True)
def _search(
    signal: Any, weight: Any, arc: Any, move: float, reach: Any, step: float, limit: float, best: Any
) -> None:  # pragma: no cover - compiled
    """Put the moves of both ends and the middle with the largest z into `best`."""
    dx, dy = arc[2] - arc[0], arc[3] - arc[1]
    long = max(np.sqrt(dx * dx + dy * dy), 1e-9)
    nx, ny = -dy / long, dx / long
    trial = np.empty(5)
    sums, weights = np.zeros(1), np.zeros(1)
    top = -1e30
    ends = int(np.floor(reach[0] / step + 1e-6))
    middles = int(np.floor(reach[2] / step + 1e-6))
    for a in range(-ends, ends + 1):
        for b in range(-ends, ends + 1):
            for c in range(-middles, middles + 1):
                trial[0], trial[1] = arc[0] + a * step * nx, arc[1] + a * step * ny
                trial[2], trial[3] = arc[2] + b * step * nx, arc[3] + b * step * ny
                trial[4] = arc[4] + c * step
                if abs(trial[4]) > limit and c != 0:
                    continue
                sums[0], weights[0] = 0.0, 0.0
                _along(signal, weight, trial, move, sums, weights)
                z = sums[0] / np.sqrt(max(weights[0], 1.0)) - 1e-3 * (abs(a) + abs(b) + abs(c))
                if z > top:
                    top = z
                    best[0], best[1], best[2] = a * step, b * step, c * step


@njit(cache=True, nogil=True)
def _over_bars(signal: Any, weight: Any, lines: Any, sums: Any, weights: Any) -> None:  # pragma: no cover - compiled
    """Fill the sums over each bar, cell by cell."""
    height, across = signal.shape
    for line in range(len(lines)):
        x0, y0 = lines[line, 0], lines[line, 1]
        dx, dy, width = lines[line, 2] - x0, lines[line, 3] - y0, int(lines[line, 4])
        steep = abs(dy) >= abs(dx)
        steps = int(max(abs(dx), abs(dy))) + 1
        for index in range(steps):
            share = (index + 0.5) / steps
            x, y = x0 + share * dx, y0 + share * dy
            first = int(np.floor((x if steep else y) - 0.5 * (width - 1) + 0.5))
            other = int(np.floor((y if steep else x) + 0.5))
            for place in range(first, first + width):
                row, column = (other, place) if steep else (place, other)
                if 0 <= row < height and 0 <= column < across:
                    sums[line] += signal[row, column]
                    weights[line] += weight[row, column]
