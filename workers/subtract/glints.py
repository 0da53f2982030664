"""Glint trains: sources in a row, flashes of one satellite that tumbled across the detector during the exposure.

A contrario (Desolneux, Moisan & Morel 2000, IJCV 40, 7): every pair of sources is tried as the two ends of a train,
with strips of several widths between them. From the density of sources round it follows how often chance alone puts as
many into the strip; times the number of trials this is the number of trains by chance expected on the detector, and a
train is flagged where that is small. Even spacing, and trails that point along the line, make a train less likely to be
chance; their probabilities are joined with Fisher's. Nothing is drawn at random, so the answer is always the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = ["MAX_CHANCE", "flag_glints", "train_members"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

MAX_CHANCE = 1e-3
"""Trains by chance, expected per detector, below which a train is flagged."""
LONGEST = 1000.0
"""Pixels from end to end of one trial; longer trains are found piece by piece."""
WIDTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Half widths, pixels, of the strips tried."""
FEWEST, FEWEST_EVEN = 5, 4
"""Sources of a train, and of one that is evenly spaced."""
CLUMP = 20.0
"""Pixels within which sources count as one, the strongest: what a bad subtraction leaves comes in clumps."""
MOST = 1000
"""Sources looked at, the strongest: with more the subtraction has failed."""
ALONG = 10.0
"""Degrees from the line within which a trail points along it."""
_STATISTICS = 4
_GAP, _STRAY = 1.5, 0.05
"""A train goes on beyond its ends over gaps up to this many times its spacing, with at most so many strays in each."""
_UNEVEN = 0.005
"""Of the spacing: unevenness below which trains are all alike."""


@njit(cache=True, nogil=True)
def _tail(mean: float, count: int) -> float:  # pragma: no cover - compiled
    """Return the probability of `count` or more from a Poisson distribution."""
    if count == 0:
        return 1.0
    term = math.exp(count * math.log(mean) - mean - math.lgamma(count + 1.0))
    total, k = 0.0, count
    while term > 1e-12 * total and k < count + 1000:
        total += term
        k += 1
        term *= mean / k
    return min(total, 1.0)


@njit(cache=True, nogil=True)
def _even(places: Any) -> float:  # pragma: no cover - compiled
    """Return the chance that uniform places in (0, 1) come as near to even spacing as these."""
    count, worst = places.size, _UNEVEN
    ordered = np.sort(places)
    for k in range(count):
        worst = max(worst, abs(ordered[k] * (count + 1) - (k + 1)))
    if worst >= 0.5:
        return 1.0
    return math.exp(math.lgamma(count + 1.0) + count * math.log(2.0 * worst / (count + 1)))


@njit(cache=True, nogil=True)
def _aligned(count: int, along: int) -> float:  # pragma: no cover - compiled
    """Return the chance that `along` or more of `count` trails of any direction point along the line."""
    p, total = ALONG / 90.0, 0.0
    for k in range(along, count + 1):
        ways = math.lgamma(count + 1.0) - math.lgamma(k + 1.0) - math.lgamma(count - k + 1.0)
        total += math.exp(ways + k * math.log(p) + (count - k) * math.log(1.0 - p))
    return min(total, 1.0)


@njit(cache=True, nogil=True)
def _joined(first: float, second: float) -> float:  # pragma: no cover - compiled
    """Return the chance of a product of two probabilities as small as theirs (Fisher's method)."""
    product = first * second
    return product * (1.0 - math.log(product)) if product > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _chance(places: Any, mean: float, trails: int, along: int) -> float:  # pragma: no cover - compiled
    """Return the least of four probabilities of a strip with sources at `places`: see the module."""
    many = _tail(mean, places.size)
    best = many if places.size + 2 >= FEWEST else 1.0
    if places.size + 2 < FEWEST_EVEN:
        return best
    even = _joined(many, _even(places))
    best = min(best, even)
    if along > 0:
        pointing = _aligned(trails, along)
        best = min(best, _joined(even, pointing))
        if places.size + 2 >= FEWEST:
            best = min(best, _joined(many, pointing))
    return best


@njit(cache=True, nogil=True)
def _between(x: Any, y: Any, i: int, j: int, who: Any, place: Any, off: Any) -> int:  # pragma: no cover - compiled
    """Find the sources between two (sorted by x) and near their line: index, place from 0 to 1, distance; how many."""
    dx, dy = x[j] - x[i], y[j] - y[i]
    length, widest, found = math.hypot(dx, dy), WIDTHS[-1], 0
    first, last = np.searchsorted(x, x[i] - widest), np.searchsorted(x, x[j] + widest)
    for k in range(first, last):
        u, v = x[k] - x[i], y[k] - y[i]
        across = abs(u * dy - v * dx) / length
        along = (u * dx + v * dy) / (length * length)
        if across <= widest and 0.0 < along < 1.0 and k != i and k != j:
            who[found], place[found], off[found] = k, along, across
            found += 1
    return found


@njit(cache=True, nogil=True)
def _count_trails(angle: Any, members: Any, direction: float) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return how many of the members have trails, and how many of these point along the line."""
    trails, along = 0, 0
    for k in members:
        if not np.isnan(angle[k]):
            trails += 1
            turn = abs((angle[k] - direction + 90.0) % 180.0 - 90.0)
            along += 1 if turn <= ALONG else 0
    return trails, along


@njit(cache=True, nogil=True)
def _density(
    x: Any, y: Any, at_x: float, at_y: float, members: int, width: float, height: float
) -> float:  # pragma: no cover - compiled
    """Return sources per pixel in the square about a place but for the members, at least one."""
    half = 0.5 * LONGEST
    x0, x1 = max(at_x - half, 0.0), min(at_x + half, width)
    y0, y1 = max(at_y - half, 0.0), min(at_y + half, height)
    count = 0
    for k in range(np.searchsorted(x, x0), np.searchsorted(x, x1)):
        count += 1 if y0 <= y[k] <= y1 else 0
    return max(count - members, 1) / ((x1 - x0) * (y1 - y0))


@njit(cache=True, nogil=True)
def _pairs(x: Any, y: Any) -> int:  # pragma: no cover - compiled
    """Return how many pairs of sources are near enough for a train."""
    pairs = 0
    for i in range(x.size):
        for j in range(i + 1, x.size):
            pairs += 1 if math.hypot(x[j] - x[i], y[j] - y[i]) <= LONGEST else 0
    return pairs


@njit(cache=True, nogil=True)
def _try_pair(
    x: Any, y: Any, angle: Any, shape: Any, i: int, j: int, who: Any, place: Any, off: Any
) -> tuple[float, float]:  # pragma: no cover - compiled
    """Return the least chance of a train between two sources, and the half width of its strip."""
    best, width = 1.0, 0.0
    length = math.hypot(x[j] - x[i], y[j] - y[i])
    if length > LONGEST or length < 2.0 * CLUMP:
        return best, width
    found = _between(x, y, i, j, who, place, off)
    direction = math.degrees(math.atan2(y[j] - y[i], x[j] - x[i]))
    for half in WIDTHS:
        near = off[:found] <= half
        inside = who[:found][near]
        if inside.size + 2 < FEWEST_EVEN:
            continue
        density = _density(x, y, 0.5 * (x[i] + x[j]), 0.5 * (y[i] + y[j]), inside.size + 2, shape[1], shape[0])
        trails, along = _count_trails(angle, np.append(inside, np.array([i, j])), direction)
        chance = _chance(place[:found][near], density * 2.0 * half * length, trails, along)
        if chance < best:
            best, width = chance, half
    return best, width


@njit(cache=True, nogil=True)
def best_train(x: Any, y: Any, angle: Any, shape: Any) -> tuple[float, int, int, float]:  # pragma: no cover - compiled
    """Return the least chance, the two ends and the half width of the train that is least likely chance.

    `x` (n,) ascending and `y`, pixels; `angle` (n,) of trails, degrees from +x towards +y, NaN without one; `shape`
    (height, width).
    """
    who, place, off = np.empty(x.size, np.int64), np.empty(x.size), np.empty(x.size)
    best, first, last, width = 1.0, 0, 0, 0.0
    for i in range(x.size):
        for j in range(i + 1, x.size):
            chance, half = _try_pair(x, y, angle, shape, i, j, who, place, off)
            if chance < best:
                best, first, last, width = chance, i, j, half
    return best, first, last, width


def train_members(points: _Float, angle: _Float, shape: tuple[int, int]) -> _Bool:
    """Return which `points` (n, 2), ordered by x, belong to trains less likely than `MAX_CHANCE` per detector.

    The least likely train first, then the next among what is left: a train does not lend its members to others.
    """
    member = np.zeros(len(points), bool)
    trials = _pairs(*points.T.copy()) * len(WIDTHS) * _STATISTICS
    while True:
        left = np.flatnonzero(~member)
        x, y = points[left].T.copy()
        chance, i, j, half = best_train(x, y, angle[left], shape)
        if chance * trials >= MAX_CHANCE:
            return member
        member[left[_on_train(points[left], points[left[i]], points[left[j]], half, shape)]] = True


def _on_train(points: _Float, first: _Float, last: _Float, half: float, shape: tuple[int, int]) -> _Bool:
    """Return which points lie between the ends of a train, or on its line beyond them with gaps like those in it."""
    length = float(np.hypot(*(last - first)))
    u, v = (points - first).T
    ahead, aside = (last - first) / length
    along, across = u * ahead + v * aside, u * aside - v * ahead
    near = np.abs(across) <= half + 1e-9
    inside = np.asarray(near & (along >= -1e-9) & (along <= length + 1e-9))
    spacing = length / max(int(np.count_nonzero(inside)) - 1, 1)
    # chance must not add to the train: a gap may hold few sources of the field
    gap = min(_GAP * spacing, _STRAY * shape[0] * shape[1] / (2.0 * half * len(points)))
    for way in (1.0, -1.0):
        place = way * along
        end = float(np.max(place, where=inside, initial=-np.inf))
        for k in np.argsort(place, kind="stable"):
            # the further out, the less certain is the line
            reach = half * (1.0 + 2.0 * (abs(along[k] / length - 0.5) - 0.5))
            if end < place[k] <= end + gap and abs(across[k]) <= reach:
                inside[k], end = True, float(place[k])
    return inside


def flag_glints(rows: NDArray[Any], shape: tuple[int, int]) -> _Bool:
    """Return which diaSource `rows` belong to a train of glints, shape (n,); `shape` (height, width) of the detector.

    Uses x, y, snr, isNegative and isDipole (glints are positive points), and the direction of ixx, iyy and ixy where
    trailLength is given. Sources within `CLUMP` of a stronger one share its answer.
    """
    flags = np.zeros(len(rows), bool)
    known = np.isfinite(rows["x"]) & np.isfinite(rows["y"]) & ~rows["isNegative"] & ~rows["isDipole"]
    index = np.flatnonzero(known)
    index = index[np.argsort(-np.nan_to_num(rows["snr"][index]), kind="stable")]
    if len(index) < FEWEST_EVEN:
        return flags
    points = np.column_stack([rows["x"][index], rows["y"][index]]).astype(float)
    head = _heads(points)
    chosen = np.flatnonzero(head == np.arange(len(head)))[:MOST]
    chosen = chosen[np.lexsort((points[chosen, 1], points[chosen, 0]))]
    xx, yy, xy = (rows[name][index[chosen]].astype(float) for name in ("ixx", "iyy", "ixy"))
    angle = np.degrees(0.5 * np.arctan2(2.0 * xy, xx - yy))
    angle[~np.isfinite(rows["trailLength"][index[chosen]])] = np.nan
    strong = np.zeros(len(index), bool)
    strong[chosen] = train_members(points[chosen], angle, shape)
    flags[index] = strong[head]
    return flags


def _heads(points: _Float) -> NDArray[np.intp]:
    """Return for each point (n, 2), strongest first, the index of the point that stands for its clump."""
    head = np.arange(len(points))
    for i, near in enumerate(cKDTree(points).query_ball_point(points, CLUMP, return_sorted=True)):
        if head[i] == i:
            later = np.array([j for j in near if j > i and head[j] == j], int)
            head[later] = i
    return head
