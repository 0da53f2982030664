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
from workers.survey.config import CharacterizeConfig

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
class _Predicted:
    """The reference stars near the detector."""

    rows: _Index
    pixels: _Float
    flux: _Float


def solve_astrometry(
    start: SkyWcs,
    sources: NDArray[Any],
    reference: ReferenceCatalogue,
    band: str,
    shape: tuple[int, int],
    config: CharacterizeConfig,
) -> Astrometry:
    """Refine `start`, the header's WCS, from `sources`: rows with x, y, xErr, yErr (pixels), flux, snr.

    Sources without xErr (saturated ones) take part in the search for the offset, not in the fit. `shape` (height,
    width) of the detector. Raises DataError 'astrometry failed: …' with the likely cause.
    """
    scale = start.pixel_scale(0.5 * shape[1], 0.5 * shape[0])
    search = config.search_radius_arcsec / scale
    near = _predict(start, reference, band, shape, search, scale)
    places = np.stack([sources["x"], sources["y"]], axis=1)
    try:
        match = match_stars(
            places,
            sources["flux"],
            near.pixels,
            near.flux,
            search_radius=search,
            match_radius=config.match_radius_arcsec / scale,
        )
    except DataError as error:
        raise DataError(
            f"astrometry failed: {error}. Either the header's WCS is off by more than search_radius_arcsec = "
            f"{config.search_radius_arcsec:g} (survey.toml), or the reference catalogue is not of this field"
        ) from error
    measured = np.isfinite(sources["xErr"])
    fit, source, row = _fit(start, sources, measured, reference, near, match.source, match.reference, shape, config)
    radius = max(1.0, 5.0 * fit.rms)
    for _ in range(2):  # the refined WCS finds the stars that the affine map missed, in corners for example
        again = np.stack(fit.wcs.sky_to_pixel(reference.ra[near.rows], reference.dec[near.rows]), axis=1)
        again = np.where(np.isfinite(again), again, -1e6)
        pairs = mutual_pairs(places, again, radius)
        fit, source, row = _fit(start, sources, measured, reference, near, *pairs, shape, config)
        radius = max(1.0, 5.0 * fit.rms)
    rms = _bright_rms(fit.wcs, sources[source], reference.ra[row], reference.dec[row])
    return Astrometry(fit.wcs, source, row, rms * scale)


def _predict(
    start: SkyWcs, reference: ReferenceCatalogue, band: str, shape: tuple[int, int], search: float, scale: float
) -> _Predicted:
    """Return the reference stars that may fall on the detector, with the pixels where the header puts them."""
    height, width = shape
    ra, dec = (float(value) for value in start.pixel_to_sky(0.5 * width, 0.5 * height))
    radius = (0.55 * np.hypot(height, width) + 1.5 * search) * scale / 3600.0
    flux = reference.in_band(band)[0]
    rows = reference.rows_within(ra, dec, radius)
    rows = rows[np.isfinite(flux[rows]) & (flux[rows] > 0.0)]
    x, y = start.sky_to_pixel(reference.ra[rows], reference.dec[rows])
    inside = (x > -search) & (x < width + search) & (y > -search) & (y < height + search)
    if not inside.any():
        raise DataError(
            f"astrometry failed: the reference catalogue {reference.name} has no star with flux_{band} within "
            f"{radius:.3f} degrees of ra {ra:.4f}, dec {dec:.4f}, where the header puts this exposure"
        )
    return _Predicted(rows[inside], np.stack([x, y], axis=1)[inside], flux[rows[inside]])


def _fit(
    start: SkyWcs,
    sources: NDArray[Any],
    measured: NDArray[np.bool_],
    reference: ReferenceCatalogue,
    near: _Predicted,
    source: _Index,
    pair: _Index,
    shape: tuple[int, int],
    config: CharacterizeConfig,
) -> tuple[WcsFit, _Index, _Index]:
    """Fit the WCS to the pairs whose source has a centroid; return it with the rows kept."""
    good = measured[source]
    source, row = source[good], near.rows[pair[good]]
    chosen = sources[source]
    error = np.sqrt(0.5 * (np.square(chosen["xErr"]) + np.square(chosen["yErr"])))
    ra, dec = reference.ra[row], reference.dec[row]
    fit = fit_wcs(start, chosen["x"], chosen["y"], error, ra, dec, shape, min_stars=config.min_matches)
    return fit, source[fit.kept], row[fit.kept]


def _bright_rms(wcs: SkyWcs, sources: NDArray[Any], ra: _Float, dec: _Float) -> float:
    """Return the rms of measured minus predicted, pixels per coordinate, of the bright stars."""
    x, y = wcs.sky_to_pixel(ra, dec)
    square = 0.5 * (np.square(sources["x"] - x) + np.square(sources["y"] - y))
    bright = sources["snr"] > BRIGHT_SNR
    return float(np.sqrt(np.mean(square[bright] if np.count_nonzero(bright) >= 8 else square)))
