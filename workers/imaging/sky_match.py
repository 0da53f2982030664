"""Match detected stars to reference stars when the header's pointing is off: voting, then nearest neighbours.

Every pair of a bright source and a bright reference star votes for the offset between them; true pairs vote for the
same cell, chance pairs spread. A few rotations are tried. From the best cells on, nearest neighbours within a shrinking
radius refine an affine map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from schemas.errors import DataError

__all__ = ["Affine", "StarMatch", "fit_affine", "match_stars", "mutual_pairs"]

_Float = NDArray[np.float64]
_Index = NDArray[np.int64]

MAX_REFERENCES, MAX_SOURCES = 160, 80
"""Brightest stars that vote: 12 800 pairs."""
CELL = 4.0
"""Side of a voting cell, pixels."""
TRIED_CELLS = 12
"""Best cells, over all rotations, whose match is tried."""
MAX_SHEAR = 0.03
"""An affine map further than this from the identity is a chance match."""


@dataclass(frozen=True)
class Affine:
    """measured = offset + matrix @ predicted, pixels."""

    matrix: _Float
    offset: _Float

    def __call__(self, points: _Float) -> _Float:
        """Map points of shape (n, 2)."""
        return np.asarray(points @ self.matrix.T + self.offset)


@dataclass(frozen=True)
class StarMatch:
    """Pairs of rows, and the map from predicted to measured pixels that holds for them."""

    source: _Index
    reference: _Index
    affine: Affine
    rms: float
    """Of the pairs about the map, pixels per coordinate."""


def fit_affine(predicted: _Float, measured: _Float) -> Affine:
    """Fit measured = offset + matrix @ predicted, both (n, 2); below 4 points a shift only, below 6 no shear.

    Plain least squares; `mutual_pairs` with a shrinking radius keeps outliers away.
    """
    if len(predicted) < 4:
        return Affine(np.eye(2), (measured - predicted).mean(axis=0))
    centre = predicted.mean(axis=0)
    p, m = predicted - centre, measured.mean(axis=0)
    if len(predicted) < 6:  # rotation and scale: complex least squares
        a, b = p[:, 0] + 1j * p[:, 1], (measured - m) @ np.array([1.0, 1j])
        turn = np.vdot(a, b) / np.vdot(a, a)
        matrix = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    else:
        matrix = np.linalg.lstsq(p, measured - m, rcond=None)[0].T
    return Affine(matrix, m - matrix @ centre)


def mutual_pairs(a: _Float, b: _Float, radius: float) -> tuple[_Index, _Index]:
    """Return rows of `a` (n, 2) and `b` (m, 2) that are each other's nearest neighbour within `radius` pixels."""
    none = np.zeros(0, np.int64)
    if len(a) == 0 or len(b) == 0:
        return none, none
    distance, nearest = KDTree(b).query(a, distance_upper_bound=radius)
    back = KDTree(a).query(b)[1]
    rows = np.flatnonzero(np.isfinite(distance))
    rows = rows[back[nearest[rows]] == rows]
    return rows.astype(np.int64), nearest[rows].astype(np.int64)


def match_stars(
    sources: _Float,
    source_flux: _Float,
    references: _Float,
    reference_flux: _Float,
    *,
    search_radius: float,
    match_radius: float,
    max_rotation: float = 1.0,
) -> StarMatch:
    """Match `sources`, measured pixels (n, 2), to `references`, pixels (m, 2) predicted by a WCS that may be off.

    Fluxes rank the stars, brightest first vote. `search_radius` pixels: the largest offset; `max_rotation` degrees;
    `match_radius` pixels: how far, once the offset is known, a star may lie from its prediction. Raises DataError where
    no offset gathers more pairs than chance would.
    """
    bright_s = sources[np.argsort(-source_flux, kind="stable")[:MAX_SOURCES]]
    bright_r = references[np.argsort(-reference_flux, kind="stable")[:MAX_REFERENCES]]
    if len(bright_s) < 3 or len(bright_r) < 3:
        raise DataError(f"matching needs 3 stars of each, there are {len(bright_s)} and {len(bright_r)}")
    centre = 0.5 * (bright_s.min(axis=0) + bright_s.max(axis=0))
    best: StarMatch | None = None
    for start in _candidates(bright_s, bright_r, centre, search_radius, max_rotation):
        found = _refine(bright_s, bright_r, start, max(2.0 * CELL, match_radius), match_radius)
        if found is not None and (best is None or len(found.source) > len(best.source)):
            best = found
    if best is None or not _beyond_chance(best, bright_s, bright_r):
        pairs = 0 if best is None else len(best.source)
        raise DataError(
            f"no offset within {search_radius:.0f} pixels and {max_rotation:g} degrees matches the {len(bright_s)} "
            f"brightest stars to the {len(bright_r)} brightest reference stars (best: {pairs} pairs, as chance would)"
        )
    radius = min(match_radius, max(1.0, 4.0 * best.rms))
    full = _refine(sources, references, best.affine, radius, radius)
    if full is None:
        raise DataError(f"the match of the brightest stars ({len(best.source)} pairs) is lost among the fainter ones")
    return full


def _candidates(
    sources: _Float, references: _Float, centre: _Float, search_radius: float, max_rotation: float
) -> list[Affine]:
    """Return the maps of the best voting cells over all rotations, most votes first."""
    reach = max(float(np.hypot(*(sources - centre).T).max()), 1.0)
    step = np.degrees(CELL / reach)  # a star at the edge moves by one cell
    count = int(np.ceil(max_rotation / step))
    found: list[tuple[float, int, Affine]] = []
    for turn in sorted(range(-count, count + 1), key=abs):
        angle = np.radians(turn * step)
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turned = (references - centre) @ matrix.T + centre
        for votes, offset in _vote(sources, turned, search_radius):
            found.append((-votes, len(found), Affine(matrix, centre - matrix @ centre + offset)))
    return [item[2] for item in sorted(found, key=lambda item: item[:2])[:TRIED_CELLS]]


def _vote(sources: _Float, references: _Float, radius: float, peaks: int = 3) -> list[tuple[float, _Float]]:
    """Return (votes, offset) of the fullest cells of source - reference."""
    offset = (sources[:, None, :] - references[None, :, :]).reshape(-1, 2)
    offset = offset[np.abs(offset).max(axis=1) <= radius]
    cells = max(3, 2 * int(np.ceil(radius / CELL)) + 1)
    edge = 0.5 * cells * CELL
    index = np.clip(((offset + edge) / CELL).astype(int), 0, cells - 1)
    votes = np.bincount(index[:, 1] * cells + index[:, 0], minlength=cells * cells).reshape(cells, cells)
    smooth = ndimage.uniform_filter(votes.astype(float), 3, mode="constant") * 9.0
    smooth += 0.1 * votes
    order = np.argsort(-smooth, axis=None, kind="stable")[:peaks]
    at = np.stack([order % cells, order // cells], axis=1)
    return [(float(smooth.flat[o]), (xy + 0.5) * CELL - edge) for o, xy in zip(order, at, strict=True)]


def _refine(sources: _Float, references: _Float, start: Affine, radius: float, match_radius: float) -> StarMatch | None:
    """Match and fit with a radius that shrinks from `radius` to `match_radius` and on to what the scatter needs."""
    affine, rms = start, 0.0
    source = reference = np.zeros(0, np.int64)
    for _ in range(5):
        source, reference = mutual_pairs(sources, affine(references), radius)
        if len(source) < 3:
            return None
        affine = fit_affine(references[reference], sources[source])
        residual = np.square(sources[source] - affine(references[reference])).sum(axis=1)
        # the median of a two-dimensional Gaussian's squared radius is 2 ln 2 sigma^2
        rms = float(np.sqrt(np.median(residual) / (2.0 * np.log(2.0))))
        radius = min(radius, match_radius, max(1.0, 4.0 * rms, 0.5 * radius))
    if np.abs(affine.matrix - np.eye(2)).max() > MAX_SHEAR:
        return None
    return StarMatch(source, reference, affine, rms)


def _beyond_chance(match: StarMatch, sources: _Float, references: _Float) -> bool:
    """Tell whether a match holds far more pairs within its radius than stars thrown at random would."""
    predicted = match.affine(references)
    low, high = sources.min(axis=0) - 1.0, sources.max(axis=0) + 1.0
    inside = int(np.count_nonzero(((predicted >= low) & (predicted <= high)).all(axis=1)))
    radius = max(1.0, 4.0 * match.rms)
    chance = inside * len(sources) * np.pi * radius**2 / float(np.prod(high - low))
    pairs = len(match.source)
    return pairs >= 0.15 * min(inside, len(sources)) and pairs >= chance + 4.0 * np.sqrt(chance) + 4.0
