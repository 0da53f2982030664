"""Tie the exposure to the sky: find its stars among the reference stars, then refine the header's WCS with them.

The reference stars' pixels by the header's WCS are computed once; all matching and fitting is done among these. A wrong
solution is kept out twice: the match must pass the test of `match_chance`, and the fit must leave no corner uncertain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from schemas.errors import DataError
from workers.imaging.reference import ReferenceCatalogue
from workers.imaging.sky_match import StarMatch, match_stars, mutual_pairs
from workers.imaging.wcs import SkyWcs, mirrored, pixel_to_focal, sky_to_focal
from workers.imaging.wcs_correction import Design
from workers.imaging.wcs_fit import FIRST_EXCESS, PolynomialFit, accept, composed, edge_points, fit_polynomial
from workers.survey.characterize_config import AstrometryConfig

__all__ = ["Astrometry", "solve_astrometry"]

_Float = NDArray[np.float64]
_Index = NDArray[np.int64]

BRIGHT_SNR = 100.0
"""Stars above it, whose centroids are not limited by noise, tell the quality of the WCS."""
LEAST_RADIUS = 2.0
"""Pixels: what the camera's distortion may have changed since it was measured."""
SETTLED = 0.3
"""Pixels: where a fit moves the edges by less than that, a new match would find the same stars."""


@dataclass(frozen=True)
class Astrometry:
    """The refined WCS and the stars that made it."""

    wcs: SkyWcs
    source: _Index
    """Rows of the sources matched and kept."""
    reference: _Index
    """Rows of the reference stars they are, in the catalogue given."""
    rms: float
    """Of the bright matches (S/N above 100, or all where fewer than 8), arcsec per coordinate."""
    edge_error: float = 0.0
    """Expected error of the WCS at the worst corner, arcsec per coordinate."""


@dataclass(frozen=True)
class Sight:
    """What a detector shows and what its header's WCS predicts."""

    start: SkyWcs
    sources: NDArray[Any]
    rows: _Index
    """Reference stars that may fall on the detector."""
    predicted: _Float
    """Their places (m, 2) in the focal plane, pixels, by the header's WCS."""
    flux: _Float
    """Their fluxes, nJy."""
    blur: _Float
    """Errors of their positions, pixels; 0 where not known."""
    shape: tuple[int, int]
    scale: float
    """Arcsec per pixel."""
    places: _Float
    """Of the sources (n, 2) in the focal plane, pixels: as measured, less the camera's distortion."""


@dataclass(frozen=True)
class _Solution:
    fit: PolynomialFit
    source: _Index
    pair: _Index
    """Rows of the sight's predicted stars."""


def solve_astrometry(
    start: SkyWcs,
    sources: NDArray[Any],
    reference: ReferenceCatalogue,
    band: str,
    shape: tuple[int, int],
    config: AstrometryConfig,
) -> Astrometry:
    """Refine `start`, the header's WCS, from `sources`: rows with x, y, xErr, yErr (pixels), flux, snr.

    Sources without xErr (saturated ones) take part in the search for the offset, not in the fit. `shape` (height,
    width) of the detector. Raises DataError 'astrometry failed: …' with the likely cause.
    """
    sight, match = _first_match(start, sources, reference, band, shape, config)
    solution = _solve(sight, match, config.min_matches)
    accept(solution.fit, config.max_edge_error)
    wcs = composed(sight.start, solution.fit.correction, shape)
    rms = _bright_rms(sight, solution)
    edge = solution.fit.correction.edge_error
    return Astrometry(wcs, solution.source, sight.rows[solution.pair], rms * sight.scale, edge * sight.scale)


def _first_match(
    start: SkyWcs,
    sources: NDArray[Any],
    reference: ReferenceCatalogue,
    band: str,
    shape: tuple[int, int],
    config: AstrometryConfig,
) -> tuple[Sight, StarMatch]:
    """Return the match by the header's WCS or, where parity is unknown and that finds none, by its mirror image."""
    try:
        sight = look(start, sources, reference, band, shape, config)
        return sight, match_sight(sight, config)
    except DataError:
        if config.parity == "known":
            raise
        sight = look(mirrored(start), sources, reference, band, shape, config)
        return sight, match_sight(sight, config)


def look(
    start: SkyWcs,
    sources: NDArray[Any],
    reference: ReferenceCatalogue,
    band: str,
    shape: tuple[int, int],
    config: AstrometryConfig,
) -> Sight:
    """Predict where the reference stars fall; raises DataError where there is none."""
    scale = start.pixel_scale(0.5 * shape[1], 0.5 * shape[0])
    flux = reference.in_band(band)[0]
    rows, predicted = _predict(start, reference, flux, shape, config.search_radius_pixels, scale)
    places = pixel_to_focal(start, np.stack([sources["x"], sources["y"]], axis=1))
    blur = np.sqrt(0.5 * np.nan_to_num(np.square(reference.raErr[rows]) + np.square(reference.decErr[rows])))
    return Sight(start, sources, rows, predicted, flux[rows], blur / (1e3 * scale), shape, scale, places)


def match_sight(sight: Sight, config: AstrometryConfig) -> StarMatch:
    """Find the stars among the predicted ones; raises DataError 'astrometry failed: …' where no match is sure."""
    try:
        return match_stars(
            sight.places,
            sight.sources["flux"],
            sight.predicted,
            sight.flux,
            search_radius=config.search_radius_pixels,
            match_radius=max(config.match_radius_arcsec / sight.scale, LEAST_RADIUS),
            max_rotation=config.max_rotation,
            bright_only=True,
        )
    except DataError as error:
        raise DataError(
            f"astrometry failed: {error}. Either the header's WCS is off by more than search_radius_pixels = "
            f"{config.search_radius_pixels:g} (survey.toml), or the reference catalogue is not of this field"
        ) from error


def _solve(sight: Sight, match: StarMatch, min_matches: int) -> _Solution:
    """Fit the correction; the refined one finds the faint stars, and those that the affine map missed in corners."""
    tree, design = KDTree(sight.predicted), Design(sight.shape)
    terms, edge = design(sight.places), design(edge_points(sight.start, sight.shape))
    solution = _fit(sight, match.source, match.reference, min_matches, FIRST_EXCESS)
    for _ in range(2):
        corrected = sight.places + terms @ solution.fit.correction.solution
        pairs = mutual_pairs(corrected, sight.predicted, max(1.0, 5.0 * solution.fit.rms), tree)
        before, solution = solution, _fit(sight, *pairs, min_matches, solution.fit.rms)
        if np.abs(edge @ (solution.fit.correction.solution - before.fit.correction.solution)).max() < SETTLED:
            break
    return solution


def _predict(
    start: SkyWcs, reference: ReferenceCatalogue, flux: _Float, shape: tuple[int, int], search: float, scale: float
) -> tuple[_Index, _Float]:
    """Return the rows of the reference stars that may be on the detector, and their places in the focal plane."""
    height, width = shape
    ra, dec = (float(value) for value in start.pixel_to_sky(0.5 * width, 0.5 * height))
    radius = (0.55 * np.hypot(height, width) + 1.5 * search) * scale / 3600.0
    rows = reference.rows_within(ra, dec, radius)
    rows = rows[np.isfinite(flux[rows]) & (flux[rows] > 0.0)]
    predicted = sky_to_focal(start, reference.ra[rows], reference.dec[rows])
    edge = edge_points(start, shape)
    with np.errstate(invalid="ignore"):
        inside = ((predicted > edge.min(axis=0) - search) & (predicted < edge.max(axis=0) + search)).all(axis=1)
    if not inside.any():
        raise DataError(
            f"astrometry failed: the reference catalogue {reference.name} has no star with a flux in this band within "
            f"{radius:.3f} degrees of ra {ra:.4f}, dec {dec:.4f}, where the header puts this exposure"
        )
    return rows[inside], predicted[inside]


def _fit(sight: Sight, source: _Index, pair: _Index, min_matches: int, excess: float) -> _Solution:
    """Fit the correction to the pairs whose source has a centroid; return it with the pairs kept."""
    good = np.isfinite(sight.sources["xErr"])[source]
    source, pair = source[good], pair[good]
    chosen = sight.sources[source]
    error = np.hypot(np.sqrt(0.5 * (np.square(chosen["xErr"]) + np.square(chosen["yErr"]))), sight.blur[pair])
    edge = edge_points(sight.start, sight.shape)
    fit = fit_polynomial(
        sight.places[source],
        sight.predicted[pair],
        error,
        sight.shape,
        edge,
        min_stars=min_matches,
        excess=excess,
    )
    return _Solution(fit, source[fit.kept], pair[fit.kept])


def _bright_rms(sight: Sight, solution: _Solution) -> float:
    """Return the rms of measured minus predicted, pixels per coordinate, of the bright stars."""
    places = sight.places[solution.source]
    corrected = places + Design(sight.shape)(places) @ solution.fit.correction.solution
    square = 0.5 * np.square(corrected - sight.predicted[solution.pair]).sum(axis=1)
    bright = sight.sources["snr"][solution.source] > BRIGHT_SNR
    return float(np.sqrt(np.mean(square[bright] if np.count_nonzero(bright) >= 8 else square)))
