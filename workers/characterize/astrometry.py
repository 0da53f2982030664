"""Tie the exposure to the sky: find its stars among the reference stars, then refine the header's WCS with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.reference import ReferenceCatalogue
from workers.imaging.sky_match import match_stars, mutual_pairs
from workers.imaging.wcs import SkyWcs
from workers.imaging.wcs_fit import WcsFit, fit_wcs
from workers.survey.characterize_config import AstrometryConfig

__all__ = ["Astrometry", "solve_astrometry"]

_Float = NDArray[np.float64]
_Index = NDArray[np.int64]

BRIGHT_SNR = 50.0
"""Stars above it, whose centroids are not limited by noise, tell the quality of the WCS."""


@dataclass(frozen=True)
class Astrometry:
    """The refined WCS and the stars that made it."""

    wcs: SkyWcs
    source: _Index
    """Rows of the sources matched and kept."""
    reference: _Index
    """Rows of the reference stars they are, in the catalogue given."""
    rms: float
    """Of the bright matches (S/N above 50, or all where fewer than 8), arcsec per coordinate."""


@dataclass(frozen=True)
class _Sight:
    """Everything that is fixed while the match improves."""

    start: SkyWcs
    sources: NDArray[Any]
    reference: ReferenceCatalogue
    rows: _Index
    """Reference stars that may fall on the detector."""
    shape: tuple[int, int]
    min_matches: int


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
    scale = start.pixel_scale(0.5 * shape[1], 0.5 * shape[0])
    search = config.search_radius_arcsec / scale
    flux = reference.in_band(band)[0]
    rows, predicted = _predict(start, reference, flux, shape, search, scale)
    sight = _Sight(start, sources, reference, rows, shape, config.min_matches)
    places = np.stack([sources["x"], sources["y"]], axis=1)
    try:
        match = match_stars(
            places,
            sources["flux"],
            predicted,
            flux[rows],
            search_radius=search,
            match_radius=config.match_radius_arcsec / scale,
        )
    except DataError as error:
        raise DataError(
            f"astrometry failed: {error}. Either the header's WCS is off by more than search_radius_arcsec = "
            f"{config.search_radius_arcsec:g} (survey.toml), or the reference catalogue is not of this field"
        ) from error
    fit, source, row = _fit(sight, match.source, match.reference)
    for _ in range(2):  # the refined WCS finds the stars that the affine map missed, in corners for example
        again = np.stack(fit.wcs.sky_to_pixel(reference.ra[rows], reference.dec[rows]), axis=1)
        pairs = mutual_pairs(places, np.where(np.isfinite(again), again, -1e6), max(1.0, 5.0 * fit.rms))
        fit, source, row = _fit(sight, *pairs)
    rms = _bright_rms(fit.wcs, sources[source], reference.ra[row], reference.dec[row])
    return Astrometry(fit.wcs, source, row, rms * scale)


def _predict(
    start: SkyWcs, reference: ReferenceCatalogue, flux: _Float, shape: tuple[int, int], search: float, scale: float
) -> tuple[_Index, _Float]:
    """Return the rows of the reference stars that may fall on the detector, and the pixels (n, 2) the header gives."""
    height, width = shape
    ra, dec = (float(value) for value in start.pixel_to_sky(0.5 * width, 0.5 * height))
    radius = (0.55 * np.hypot(height, width) + 1.5 * search) * scale / 3600.0
    rows = reference.rows_within(ra, dec, radius)
    rows = rows[np.isfinite(flux[rows]) & (flux[rows] > 0.0)]
    x, y = start.sky_to_pixel(reference.ra[rows], reference.dec[rows])
    inside = (x > -search) & (x < width + search) & (y > -search) & (y < height + search)
    if not inside.any():
        raise DataError(
            f"astrometry failed: the reference catalogue {reference.name} has no star with a flux in this band within "
            f"{radius:.3f} degrees of ra {ra:.4f}, dec {dec:.4f}, where the header puts this exposure"
        )
    return rows[inside], np.stack([x, y], axis=1)[inside]


def _fit(sight: _Sight, source: _Index, pair: _Index) -> tuple[WcsFit, _Index, _Index]:
    """Fit the WCS to the pairs whose source has a centroid; return it with the source and reference rows kept."""
    good = np.isfinite(sight.sources["xErr"])[source]
    source, row = source[good], sight.rows[pair[good]]
    chosen = sight.sources[source]
    error = np.sqrt(0.5 * (np.square(chosen["xErr"]) + np.square(chosen["yErr"])))
    ra, dec = sight.reference.ra[row], sight.reference.dec[row]
    fit = fit_wcs(sight.start, chosen["x"], chosen["y"], error, ra, dec, sight.shape, min_stars=sight.min_matches)
    return fit, source[fit.kept], row[fit.kept]


def _bright_rms(wcs: SkyWcs, sources: NDArray[Any], ra: _Float, dec: _Float) -> float:
    """Return the rms of measured minus predicted, pixels per coordinate, of the bright stars."""
    x, y = wcs.sky_to_pixel(ra, dec)
    square = 0.5 * (np.square(sources["x"] - x) + np.square(sources["y"] - y))
    bright = sources["snr"] > BRIGHT_SNR
    return float(np.sqrt(np.mean(square[bright] if np.count_nonzero(bright) >= 8 else square)))
