"""Match detected stars to reference stars when the header's pointing is off: voting, then nearest neighbours.

Every pair of a bright source and a bright reference star votes for the offset between them; true pairs vote for the
same cell, chance pairs spread. Rotations are tried in steps. From the best cells on, nearest neighbours within a
shrinking radius refine an affine map, which must pass the test of `match_chance` on these stars; then the fainter ones
are matched with it. Bright sources may be artefacts or galaxies, and bright reference stars saturated: so several times
as many reference stars vote as sources, and where nothing passes, all of them do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from schemas.errors import DataError
from workers.imaging.match_chance import Evidence, refusal, weigh
from workers.imaging.match_votes import best_cells

__all__ = ["Affine", "StarMatch", "fit_affine", "match_stars", "mutual_pairs"]

_Float = NDArray[np.float64]
_Index = NDArray[np.int64]

TIERS = ((250, 1500), (500, 5000))
"""Brightest sources and reference stars that vote; the second pair where the first finds nothing."""
REFERENCES_PER_SOURCE = 8
"""Of the stars that vote, at most: a shallow image needs the brightest of a deep catalogue only."""
CELL = 4.0
"""Side of a voting cell, pixels."""
TRIED_CELLS = 8
"""Best blocks of cells, over all rotations, whose match is tried."""
BRIGHT_PERCENTILE = 95.0
"""Of the matched stars' fluxes: brighter ones may be saturated, and no one asks why they are missing."""


@dataclass(frozen=True)
class Affine:
    """measured = offset + matrix @ predicted, pixels."""

    matrix: _Float
    offset: _Float

    def __call__(self, points: _Float) -> _Float:
        """Map points of shape (n, 2)."""
        return np.asarray(points @ self.matrix.T + self.offset)

    def inverse(self) -> Affine:
        """Return the map from measured to predicted."""
        matrix = np.asarray(np.linalg.inv(self.matrix), float)
        return Affine(matrix, -matrix @ self.offset)


@dataclass(frozen=True)
class StarMatch:
    """Pairs of rows, and the map from predicted to measured pixels that holds for them."""

    source: _Index
    reference: _Index
    affine: Affine
    rms: float
    """Of the pairs about the map, pixels per coordinate."""
    evidence: Evidence
    """Why it is no chance."""


@dataclass(frozen=True)
class _Stars:
    """The stars of one attempt, and the tree of the references."""

    sources: _Float
    source_flux: _Float
    references: _Float
    reference_flux: _Float
    tree: KDTree


def fit_affine(predicted: _Float, measured: _Float) -> Affine:
    """Fit measured = offset + matrix @ predicted, both (n, 2); below 4 points a shift only, below 6 no shear.

    Plain least squares; a radius that shrinks keeps outliers away.
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
        matrix = np.linalg.solve(p.T @ p + 1e-9 * np.eye(2), p.T @ (measured - m)).T
    return Affine(matrix, m - matrix @ centre)


def mutual_pairs(a: _Float, b: _Float, radius: float, tree: KDTree | None = None) -> tuple[_Index, _Index]:
    """Return rows of `a` (n, 2) and `b` (m, 2), finite, each of the other's nearest within `radius` pixels.

    Of several rows of `a` whose nearest is one of `b`, the nearest is taken. `tree` of `b`, where there is one.
    """
    none = np.zeros(0, np.int64)
    if len(a) == 0 or len(b) == 0:
        return none, none
    distance, nearest = (KDTree(b) if tree is None else tree).query(a, distance_upper_bound=radius)
    rows = np.flatnonzero(np.isfinite(distance))
    rows = rows[np.argsort(distance[rows], kind="stable")]
    first = np.sort(np.unique(nearest[rows], return_index=True)[1])
    rows = np.sort(rows[first])
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
    bright_only: bool = False,
) -> StarMatch:
    """Match `sources`, measured pixels (n, 2), to `references`, pixels (m, 2) predicted by a WCS that may be off.

    Fluxes, in any unit, rank the stars and must agree up to one factor. `search_radius` pixels: the largest offset
    along an axis; `max_rotation` degrees; `match_radius` pixels: how far, once the offset is known, a star may lie from
    its prediction. `bright_only`: only the pairs of the stars that voted. Raises DataError where no match passes the
    test of `match_chance`.
    """
    if len(sources) < 3 or len(references) < 3:
        raise DataError(f"matching needs 3 stars of each, there are {len(sources)} and {len(references)}")
    reasons: list[tuple[float, str]] = []
    sizes: set[tuple[int, int]] = set()
    for most_sources, most in TIERS:
        s = np.argsort(-source_flux, kind="stable")[:most_sources]
        r = np.argsort(-reference_flux, kind="stable")[: min(most, max(160, REFERENCES_PER_SOURCE * len(s)))]
        if (len(s), len(r)) in sizes:
            continue
        sizes.add((len(s), len(r)))
        stars = _Stars(sources[s], source_flux[s], references[r], reference_flux[r], KDTree(references[r]))
        found = _attempt(stars, search_radius, match_radius, max_rotation, reasons)
        if found is not None:
            if bright_only:
                return StarMatch(s[found.source], r[found.reference], found.affine, found.rms, found.evidence)
            return _all_stars(found, sources, references, match_radius)
    s_count, r_count = max(sizes)
    why = min(reasons)[1] if reasons else "no pairs at all"
    raise DataError(
        f"no offset within {search_radius:.0f} pixels and {max_rotation:g} degrees matches the {s_count} "
        f"brightest stars to the {r_count} brightest reference stars (best: {why})"
    )


def _attempt(
    stars: _Stars, search_radius: float, match_radius: float, max_rotation: float, reasons: list[tuple[float, str]]
) -> StarMatch | None:
    """Return the first match of the fullest voting cells that passes the test; note why the others don't."""
    low, high = stars.sources.min(axis=0), stars.sources.max(axis=0)
    centre, half = 0.5 * (low + high), max(0.5 * float(np.hypot(*(high - low))), 1.0)
    step = 1.4 * CELL / half  # between two of them a star at the edge moves by 0.7 cells
    count = int(np.ceil(np.radians(max_rotation) / step))
    angles = np.arange(-count, count + 1, dtype=float) * step
    near = (np.abs(stars.references - centre) <= 0.5 * (high - low) + 1.1 * search_radius + 50.0).all(axis=1)
    if np.count_nonzero(near) < 3:
        return None
    votes = best_cells(stars.sources - centre, stars.references[near] - centre, angles, search_radius, CELL)
    trials = len(angles) * (2.0 * search_radius / CELL + 1.0) ** 2
    for _, turn, offset in list(zip(*votes, strict=True))[:TRIED_CELLS]:
        c, s = np.cos(angles[turn]), np.sin(angles[turn])
        matrix = np.array([[c, -s], [s, c]])
        found = _refine(stars, Affine(matrix, centre - matrix @ centre + offset), 2.5 * CELL, match_radius)
        if found is None:
            continue
        evidence = _evidence(*found, stars, trials)
        why = refusal(evidence)
        if why is None:
            return StarMatch(*found, evidence)
        reasons.append((evidence.chance, why))
    return None


def _refine(
    stars: _Stars, start: Affine, radius: float, match_radius: float
) -> tuple[_Index, _Index, Affine, float] | None:
    """Match and fit with a radius that shrinks from `radius` to `match_radius` and on to what the scatter needs."""
    affine, rms = start, 0.0
    source = reference = np.zeros(0, np.int64)
    for _ in range(6):
        source, reference = mutual_pairs(affine.inverse()(stars.sources), stars.references, radius, stars.tree)
        if len(source) < 3:
            return None
        affine = fit_affine(stars.references[reference], stars.sources[source])
        if np.abs(affine.matrix - np.eye(2)).max() > 0.1:
            return None
        residual = np.square(stars.sources[source] - affine(stars.references[reference])).sum(axis=1)
        # the median of a two-dimensional Gaussian's squared radius is 2 ln 2 sigma^2
        rms = float(np.sqrt(np.median(residual) / (2.0 * np.log(2.0))))
        radius = max(1.0, min(match_radius, 5.0 * rms), 0.6 * radius)
    return source, reference, affine, rms


def _radius(rms: float) -> float:
    """Return the radius, pixels, within which pairs of a match with this scatter lie."""
    return max(1.0, 4.0 * rms)


def _evidence(source: _Index, reference: _Index, affine: Affine, rms: float, stars: _Stars, trials: float) -> Evidence:
    """Count what `match_chance` weighs."""
    low, high = stars.sources.min(axis=0) - 1.0, stars.sources.max(axis=0) + 1.0
    predicted = affine(stars.references)
    inside = ((predicted >= low) & (predicted <= high)).all(axis=1)
    radius = _radius(rms)
    close = np.square(stars.sources[source] - predicted[reference]).sum(axis=1) < radius**2
    source, reference = source[close], reference[close]
    by_density = np.count_nonzero(inside) * len(stars.sources) * np.pi * radius**2 / float(np.prod(high - low))
    back = KDTree(affine.inverse()(stars.sources))
    ring = int(back.count_neighbors(stars.tree, 4.0 * radius)) - int(back.count_neighbors(stars.tree, 2.0 * radius))
    flux = stars.reference_flux[reference]
    bright = (0, 0)
    if len(flux):
        expected = inside & (stars.reference_flux >= np.median(flux))
        expected &= stars.reference_flux <= np.percentile(flux, BRIGHT_PERCENTILE)
        bright = int(np.count_nonzero(expected[reference])), int(np.count_nonzero(expected))
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitudes = -2.5 * np.log10(stars.source_flux[source] / flux)
    return weigh(
        affine.matrix,
        stars.sources[source],
        stars.sources,
        np.nan_to_num(magnitudes, nan=99.0, posinf=99.0, neginf=-99.0),
        bright,
        (by_density, ring / 12.0),  # the ring has twelve times the circle's area
        trials,
    )


def _all_stars(match: StarMatch, sources: _Float, references: _Float, match_radius: float) -> StarMatch:
    """Match all stars with the map of the bright ones."""
    radius = min(max(match_radius, 1.0), _radius(match.rms) + 0.5)
    source, reference = mutual_pairs(match.affine.inverse()(sources), references, radius)
    return StarMatch(source, reference, match.affine, match.rms, match.evidence)
