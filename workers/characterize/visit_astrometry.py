"""Solve the detectors of one visit jointly: one pointing, rotation, scale and low-order map for the whole focal plane.

All positions are put on one tangent plane. Detectors whose stars are matched by themselves start the shared polynomial;
it predicts the stars of their neighbours, and so on until all are in. Where none can be matched by itself, the visit is
matched as one large detector. What a detector is off by itself (its place in the focal plane) is an affine map of its
own, whose prior width the whole visit tells: a detector with three stars takes the shared map and little else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from schemas.errors import DataError
from workers.characterize.astrometry import BRIGHT_SNR, Astrometry, Sight, look, match_sight
from workers.imaging.reference import ReferenceCatalogue
from workers.imaging.sky_match import match_stars, mutual_pairs
from workers.imaging.wcs import SkyWcs, focal_to_sky, pixel_to_focal
from workers.imaging.wcs_cards import deproject, project
from workers.imaging.wcs_correction import Design
from workers.imaging.wcs_fit import (
    FIRST_EXCESS,
    MAX_EDGE_ERROR,
    MAX_RMS,
    PolynomialFit,
    edge_points,
    fit_polynomial,
    pixel_grid,
    sip_through,
)
from workers.imaging.wcs_own import VisitMap, fit_visit_map
from workers.survey.characterize_config import AstrometryConfig

__all__ = ["VisitDetector", "solve_visit"]

_Float = NDArray[np.float64]
_Index = NDArray[np.int64]

FEWEST = 3
"""Stars by which a detector shows that the shared solution holds for it."""
EXPECTED, LEAST_FOUND = 8, 0.25
"""Where so many bright stars are predicted on a detector, this share of them must be there."""
TURNS = 6
FAR = 0.4
"""Of the match radius: a star whose predicted place is less certain waits for the next turn."""


@dataclass(frozen=True)
class VisitDetector:
    """One detector: its header's WCS, its sources as `solve_astrometry` takes them, its shape (height, width)."""

    wcs: SkyWcs
    sources: NDArray[Any]
    shape: tuple[int, int]
    label: str = ""


@dataclass(frozen=True)
class _Plane:
    """The tangent plane of the visit, in pixels of `scale` degrees; its points lie in (0, 0) to `shape`."""

    centre: _Float
    scale: float
    low: _Float
    shape: tuple[int, int]

    def points(self, ra: _Float, dec: _Float) -> _Float:
        return project(ra, dec, self.centre) / self.scale - self.low

    def sky(self, points: _Float) -> tuple[_Float, _Float]:
        ra, dec = deproject(((points + self.low) * self.scale).T, self.centre)
        return ra, dec


@dataclass(frozen=True)
class _Pool:
    """The sources of all detectors, one behind the other, and the reference stars of all of them."""

    plane: _Plane
    sights: list[Sight]
    measured: _Float
    """(n, 2) on the plane, by the headers' WCS."""
    own: _Float
    """(n, 2): pixels on their detectors, scaled to [-1, 1]."""
    sources: NDArray[Any]
    owner: _Index
    rows: _Index
    """Of the catalogue."""
    predicted: _Float
    """(m, 2) on the plane."""
    flux: _Float
    """(m,), nJy."""
    blur: _Float
    """(m,), pixels: errors of the reference stars' positions."""
    radius: float
    """For a match, pixels."""


@dataclass(frozen=True)
class _Found:
    """The map of the visit and the pairs that made it: rows of the pool."""

    map: VisitMap
    source: _Index
    pair: _Index


def solve_visit(
    detectors: Sequence[VisitDetector], reference: ReferenceCatalogue, band: str, config: AstrometryConfig
) -> list[Astrometry | DataError]:
    """Return, detector by detector, the refined WCS, or the error that tells why this detector has none.

    `reference` at the epoch of the visit. All detectors are taken to be off by the same offset and rotation, within the
    limits of `config`; parity must be known. Raises DataError where the visit as a whole can't be solved.
    """
    sights, errors = _looks(detectors, reference, band, config)
    if not sights:
        raise DataError(f"astrometry failed: no detector of the visit sees a reference star: {next(iter(errors))}")
    pool = _pooled([sights[k] for k in sorted(sights)], reference, band, config)
    found = _visit_map(pool, *_pairs(pool, config))
    results: list[Astrometry | DataError] = []
    place = {k: number for number, k in enumerate(sorted(sights))}
    for k in range(len(detectors)):
        try:
            results.append(errors[k] if k in errors else _detector(pool, found, place[k]))
        except DataError as error:
            results.append(error)
    return results


def _looks(
    detectors: Sequence[VisitDetector], reference: ReferenceCatalogue, band: str, config: AstrometryConfig
) -> tuple[dict[int, Sight], dict[int, DataError]]:
    """Predict the reference stars on each detector."""
    sights: dict[int, Sight] = {}
    errors: dict[int, DataError] = {}
    for k, one in enumerate(detectors):
        try:
            sights[k] = look(one.wcs, one.sources, reference, band, one.shape, config)
        except DataError as error:
            errors[k] = error
    return sights, errors


def _pooled(sights: list[Sight], reference: ReferenceCatalogue, band: str, config: AstrometryConfig) -> _Pool:
    """Put everything on one tangent plane."""
    scale = float(np.median([sight.scale for sight in sights])) / 3600.0
    edges = [np.stack(focal_to_sky(one.start, edge_points(one.start, one.shape)), axis=1) for one in sights]
    ra, dec = np.radians(np.concatenate(edges)).T
    x, y, z = np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)
    centre = np.degrees([np.arctan2(y.mean(), x.mean()), np.arctan2(z.mean(), np.hypot(x.mean(), y.mean()))])
    corners = project(np.degrees(ra), np.degrees(dec), centre) / scale
    extent = np.ceil(np.ptp(corners, axis=0)).astype(int)
    plane = _Plane(centre, scale, corners.min(axis=0), (int(extent[1]), int(extent[0])))
    rows, first = np.unique(np.concatenate([one.rows for one in sights]), return_index=True)
    names = ("x", "y", "xErr", "yErr", "flux", "snr")
    sources = np.zeros(sum(len(one.sources) for one in sights), [(name, "f8") for name in names])
    for name in names:
        sources[name] = np.concatenate([one.sources[name] for one in sights])
    return _Pool(
        plane,
        sights,
        np.concatenate([plane.points(*focal_to_sky(one.start, one.places)) for one in sights]),
        np.concatenate([_scaled(_pixels(one), one.shape) for one in sights]),
        sources,
        np.repeat(np.arange(len(sights)), [len(one.sources) for one in sights]),
        rows,
        plane.points(reference.ra[rows], reference.dec[rows]),
        reference.in_band(band)[0][rows],
        np.concatenate([one.blur for one in sights])[first],
        max(config.match_radius_arcsec / 3600.0 / scale, 2.0),
    )


def _first_pairs(pool: _Pool, config: AstrometryConfig) -> tuple[_Index, _Index]:
    """Return pairs of rows of the pool: of the detectors that match by themselves, else of the visit as a whole."""
    source, pair = [], []
    for k, sight in enumerate(pool.sights):
        try:
            match = match_sight(sight, config)
        except DataError:
            continue
        source.append(match.source + np.flatnonzero(pool.owner == k)[0])
        pair.append(np.searchsorted(pool.rows, sight.rows[match.reference]))
    if source:
        return np.concatenate(source), np.concatenate(pair)
    match = match_stars(
        pool.measured,
        pool.sources["flux"],
        pool.predicted,
        pool.flux,
        search_radius=config.search_radius_pixels,
        match_radius=pool.radius,
        max_rotation=config.max_rotation,
    )
    return match.source, match.reference


def _pairs(pool: _Pool, config: AstrometryConfig) -> tuple[_Index, _Index]:
    """Fit a shared polynomial; stars come in where it predicts their places well enough. Return the last pairs."""
    source, pair = _first_pairs(pool, config)
    tree, terms, excess = KDTree(pool.predicted), Design(pool.plane.shape)(pool.measured), FIRST_EXCESS
    for _ in range(TURNS):
        fit = _fit(pool, source, pair, config.min_matches, excess)
        moved = pool.measured + terms @ fit.correction.solution
        doubt = np.sqrt(np.maximum(((terms @ fit.correction.covariance) * terms).sum(axis=1), 0.0))
        sure = np.flatnonzero(doubt < FAR * pool.radius)
        before, (some, pair) = len(source), mutual_pairs(moved[sure], pool.predicted, pool.radius, tree)
        source = sure[some]
        close = np.square(moved[source] - pool.predicted[pair]).sum(axis=1)
        reach = np.clip(4.0 * doubt[source], min(pool.radius, max(1.0, 5.0 * fit.rms)), pool.radius)
        source, pair = source[close < reach**2], pair[close < reach**2]
        excess = fit.rms
        if abs(len(source) - before) <= 2:
            break
    return source, pair


def _errors(pool: _Pool, source: _Index, pair: _Index) -> _Float:
    """Return the errors of measured and predicted places together, pixels; NaN for saturated stars."""
    chosen = pool.sources[source]
    centroid = np.sqrt(0.5 * (np.square(chosen["xErr"]) + np.square(chosen["yErr"])))
    return np.asarray(np.hypot(centroid, pool.blur[pair]))


def _frame(pool: _Pool) -> _Float:
    """Return the corners of the visit, and points between them, on the plane (9, 2)."""
    height, width = pool.plane.shape
    return np.array([(x * width, y * height) for x in (0.0, 0.5, 1.0) for y in (0.0, 0.5, 1.0)])


def _fit(pool: _Pool, source: _Index, pair: _Index, min_matches: int, excess: float) -> PolynomialFit:
    """Fit the shared polynomial alone."""
    measured, predicted, error = pool.measured[source], pool.predicted[pair], _errors(pool, source, pair)
    frame, shape = _frame(pool), pool.plane.shape
    return fit_polynomial(measured, predicted, error, shape, frame, min_stars=min_matches, excess=excess)


def _visit_map(pool: _Pool, source: _Index, pair: _Index) -> _Found:
    """Fit shared polynomial and detectors' own maps to the pairs with a centroid; raises DataError for a bad fit."""
    error = _errors(pool, source, pair)
    good = np.isfinite(error)
    source, pair, error = source[good], pair[good], error[good]
    terms = Design(pool.plane.shape)
    measured, owner = pool.measured[source], pool.owner[source]
    target = pool.predicted[pair] - measured
    number = len(pool.sights)
    found = fit_visit_map(terms(measured), _local(pool.own[source]), target, error, owner, number, terms(_frame(pool)))
    if found.rms > MAX_RMS:
        raise DataError(f"astrometry failed: {np.count_nonzero(found.kept)} matches of the visit, rms {found.rms:.2f}")
    return _Found(found, source[found.kept], pair[found.kept])


def _detector(pool: _Pool, found: _Found, k: int) -> Astrometry:
    """Return the WCS of one detector; raises DataError where its stars do not confirm the shared solution."""
    mine = pool.owner[found.source] == k
    stars = int(np.count_nonzero(mine))
    if stars < FEWEST:
        raise DataError(
            f"astrometry failed: {stars} of its stars agree with the solution of the visit, {FEWEST} are needed"
        )
    sight, plane = pool.sights[k], pool.plane
    grid = pixel_grid(sight.shape)
    moved, error = _mapped(pool, found, k, grid)
    if error > MAX_EDGE_ERROR:
        raise DataError(
            f"astrometry failed: the visit's stars leave a corner uncertain by {error:.2f} pixels ({MAX_EDGE_ERROR})"
        )
    _check_bright(pool, found, moved, k)
    wcs = sip_through(grid, *plane.sky(moved), sight.shape)
    source, row = found.source[mine], pool.rows[found.pair[mine]]
    rms = _bright_rms(pool, found, k)
    scale = plane.scale * 3600.0
    return Astrometry(wcs, source - np.flatnonzero(pool.owner == k)[0], row, rms * scale, error * scale)


def _mapped(pool: _Pool, found: _Found, k: int, pixels: _Float) -> tuple[_Float, float]:
    """Return where pixels (n, 2) of a detector are on the plane, and the largest expected error among them."""
    sight = pool.sights[k]
    there = pool.plane.points(*focal_to_sky(sight.start, pixel_to_focal(sight.start, pixels)))
    design, local = Design(pool.plane.shape)(there), _local(_scaled(pixels, sight.shape))
    variance = ((design @ found.map.shared.covariance) * design).sum(axis=1)
    variance += ((local @ found.map.own_covariance[k]) * local).sum(axis=1)
    moved = there + design @ found.map.shared.solution + local @ found.map.own[k]
    return moved, float(np.sqrt(max(variance.max(), 0.0)))


def _pixels(sight: Sight) -> _Float:
    """Return the sources' measured pixels (n, 2)."""
    return np.stack([sight.sources["x"], sight.sources["y"]], axis=1)


def _scaled(pixels: _Float, shape: tuple[int, int]) -> _Float:
    """Return pixels (n, 2) of a detector scaled to [-1, 1]."""
    return np.asarray(2.0 * (pixels + 0.5) / np.array(shape[::-1]) - 1.0)


def _local(scaled: _Float) -> _Float:
    """Return 1, u, v (n, 3) of scaled pixels (n, 2)."""
    return np.concatenate([np.ones((len(scaled), 1)), scaled], axis=1)


def _check_bright(pool: _Pool, found: _Found, moved: _Float, k: int) -> None:
    """Raise DataError where bright stars should be on the detector and are not: its header's WCS is another's."""
    matched = pool.flux[found.pair]
    bright = (pool.flux >= np.median(matched)) & (pool.flux <= np.percentile(matched, 95.0))
    across, up = moved[12] - moved[0], moved[-13] - moved[0]  # sides of the detector, from its 13 x 13 grid
    scaled = (pool.predicted - moved[0]) @ np.linalg.inv(np.stack([across, up]))
    inside = ((scaled > 0.0) & (scaled < 1.0)).all(axis=1)
    expected = np.count_nonzero(bright & inside)
    seen = np.count_nonzero(bright[found.pair[pool.owner[found.source] == k]])
    if expected >= EXPECTED and seen < LEAST_FOUND * expected:
        raise DataError(
            f"astrometry failed: the visit's solution puts {expected} bright stars on this detector and {seen} "
            "are there; its header's WCS or its sources are wrong"
        )


def _bright_rms(pool: _Pool, found: _Found, k: int) -> float:
    """Return the rms of measured minus predicted, pixels per coordinate, of a detector's bright stars."""
    mine = pool.owner[found.source] == k
    source, pair = found.source[mine], found.pair[mine]
    measured = pool.measured[source]
    corrected = measured + Design(pool.plane.shape)(measured) @ found.map.shared.solution
    corrected = corrected + _local(pool.own[source]) @ found.map.own[k]
    square = 0.5 * np.square(corrected - pool.predicted[pair]).sum(axis=1)
    bright = pool.sources["snr"][source] > BRIGHT_SNR
    return float(np.sqrt(np.mean(square[bright] if np.count_nonzero(bright) >= 8 else square)))
