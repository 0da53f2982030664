"""Templates in airmass bins: inputs of one cell in groups that refract colours alike, and the group for an exposure.

A blue band's template from inputs all over the sky shows a star of unusual colour at the mean of many places. Inputs
are points in the plane of `lever_vectors` (near tan z (sin q, cos q)); the distance of two points times a colour's
excess of n - 1 is how far apart they show a star of that colour, so the bins are clusters in that plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workers.imaging.refraction import ARCSEC

__all__ = ["AirmassBin", "BinRules", "bin_for", "split_inputs"]

_Float = NDArray[np.float64]
_Index = NDArray[np.intp]
_ROUNDS = 50


@dataclass(frozen=True)
class BinRules:
    """When inputs make bins."""

    contrast: float
    """Excess of n - 1 of a star of the colour that the bins are to serve (`ColorRefraction.excess`), of either sign."""
    max_spread: float = 0.05
    """Arcsec: how far an input may show that star from its place in the bin's template."""
    min_epochs: int = 3
    """Visits, of each bin."""
    max_bins: int = 3


@dataclass(frozen=True)
class AirmassBin:
    """Inputs that may be averaged for blue and red stars alike."""

    rows: tuple[int, ...]
    """Of the cell's inputs, ascending."""
    vector: tuple[float, float]
    """Weighted mean of theirs, (east, north)."""
    spread: float
    """Arcsec, the largest."""


def split_inputs(vectors: ArrayLike, weights: ArrayLike, visits: ArrayLike, rules: BinRules) -> tuple[AirmassBin, ...]:
    """Return the bins of a cell's inputs: the fewest, three at most, that hold the most inputs within the limits.

    `vectors` float64 (n, 2), NaN where not known, `weights` (n,) and `visits` (n,) of the inputs. None where one
    template serves all, or no bin would have its epochs. An input that fits no bin is in the whole cell's template
    only. The same inputs give the same bins, by their first row.
    """
    vectors = np.asarray(vectors, float).reshape(-1, 2)
    weights, visits = np.asarray(weights, float), np.asarray(visits)
    known = np.flatnonzero(np.isfinite(vectors).all(axis=1) & (weights > 0.0))
    best: tuple[AirmassBin, ...] = ()
    held = 0
    for count in range(1, rules.max_bins + 1):
        if len(known) < count * rules.min_epochs:
            break
        labels = _clusters(vectors[known], weights[known], count)
        groups = [_trimmed(known[labels == label], vectors, weights, rules) for label in range(count)]
        bins = [one for one in groups if len(np.unique(visits[list(one.rows)])) >= max(rules.min_epochs, 1)]
        inside = sum(len(one.rows) for one in bins)
        if inside > held:
            best, held = tuple(sorted(bins, key=lambda one: one.rows)), inside
        if held == len(vectors):
            break
    whole = len(best) == 1 and held == len(vectors)
    return () if whole else best


def bin_for(vector: ArrayLike, bins: tuple[AirmassBin, ...], whole: ArrayLike, rules: BinRules) -> AirmassBin | None:
    """Return the bin nearest to a science exposure's `vector` (2,), or None for the whole cell's template.

    `whole` is the mean vector of that. It is deeper, so it stays where it is within `max_spread` or no bin is nearer;
    and where the exposure's own vector is not known.
    """
    vector = np.asarray(vector, float)
    if not bins or not np.isfinite(vector).all():
        return None
    far = np.array([np.hypot(*(vector - one.vector)) for one in bins])
    rest = float(np.hypot(*(vector - np.asarray(whole, float))))
    if ARCSEC * abs(rules.contrast) * rest <= rules.max_spread or rest <= far.min():
        return None
    return bins[int(far.argmin())]


def _clusters(points: _Float, weights: _Float, count: int) -> _Index:
    """Return the cluster, 0 to count - 1, of each point (n, 2): Lloyd's k-means from points far from each other."""
    centres = [points[np.argmax(_distances(points, np.average(points, axis=0, weights=weights)[None])[:, 0])]]
    while len(centres) < count:
        centres.append(points[_distances(points, np.array(centres)).min(axis=1).argmax()])
    middle = np.array(centres)
    labels = _distances(points, middle).argmin(axis=1)
    for _ in range(_ROUNDS):
        for label in range(count):
            mine = labels == label
            if mine.any():
                middle[label] = np.average(points[mine], axis=0, weights=weights[mine])
        again = _distances(points, middle).argmin(axis=1)
        if (again == labels).all():
            break
        labels = again
    return np.asarray(labels)


def _distances(points: _Float, centres: _Float) -> _Float:
    """Return the distances of points (n, 2) from centres (m, 2), (n, m)."""
    return np.asarray(np.hypot(*(points[:, None] - centres[None]).transpose(2, 0, 1)))


def _trimmed(rows: _Index, vectors: _Float, weights: _Float, rules: BinRules) -> AirmassBin:
    """Return a bin of `rows`, without those, farthest first, that lie too far from its mean."""
    while len(rows):
        mean = np.average(vectors[rows], axis=0, weights=weights[rows])
        spread = ARCSEC * abs(rules.contrast) * np.hypot(*(vectors[rows] - mean).T)
        if spread.max() <= rules.max_spread:
            return AirmassBin(tuple(rows.tolist()), (float(mean[0]), float(mean[1])), float(spread.max()))
        rows = np.delete(rows, spread.argmax())
    return AirmassBin((), (float("nan"), float("nan")), 0.0)
