"""Colour terms refitted from the calibrated exposures of some nights: their stars are measured once more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy.spatial import KDTree

from schemas.errors import ConfigurationError, DataError
from workers.characterize.color_terms import STAR_DTYPE, ColorTerm, fit_color_terms, load_color_terms
from workers.characterize.zero_point_noise import expected_error
from workers.imaging.exposure import Exposure
from workers.imaging.fits import read_exposure
from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.photometry import psf_centroids, psf_fluxes
from workers.imaging.reference import ReferenceCatalogue
from workers.imaging.reference_field import MOTION, field_cone
from workers.imaging.reference_store import Reference
from workers.survey.characterize_config import PhotometryConfig

__all__ = ["catalogue_colors", "known_color_terms", "measure_stars", "refit"]

_Float = NDArray[np.float64]

MIN_SNR = 20.0
"""Expected, of the stars used."""
ISOLATION = 3.0
"""FWHM within which no other catalogue star of a tenth of the flux may lie."""
FAINT_NEIGHBOUR = 0.1
MAX_SHIFT = 1.0
"""Pixels between a star and where the WCS puts it."""
MAGNITUDE = 2.5 / float(np.log(10.0))


@dataclass(frozen=True)
class _Calexp:
    """A calibrated exposure on disk."""

    path: Path
    band: str
    night: int


def known_color_terms(path: Path, config: PhotometryConfig) -> dict[str, ColorTerm]:
    """Return the colour terms by band: those of the file `path` (`refit`'s), survey.toml's in front of them."""
    told = {
        band: ColorTerm(term.color, term.slope, term.error, term.pivot) for band, term in config.color_terms.items()
    }
    return {**load_color_terms(path), **told}


def catalogue_colors(reference: ReferenceCatalogue, color: str) -> tuple[_Float, _Float]:
    """Return the stars' `color` (``blue-red``, mag) and its error, NaN where unknown; float64 (n,).

    Raises ConfigurationError where the catalogue lacks one of the bands.
    """
    blue, _, red = color.partition("-")
    square, ratio = np.zeros(len(reference)), np.ones(len(reference))
    for band, power in ((blue, 1.0), (red, -1.0)):
        flux, error = reference.in_band(band)
        fine = flux > 0.0
        ratio = ratio * np.where(fine, np.where(fine, flux, 1.0) ** power, np.nan)
        square = square + np.square(np.nan_to_num(error) / np.where(fine, flux, 1.0))
    return np.asarray(-MAGNITUDE * np.log(ratio)), np.asarray(MAGNITUDE * np.sqrt(square))


def refit(
    folder: Path,
    reference: Reference,
    bands: Mapping[str, str],
    *,
    nights: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, ColorTerm]:
    """Return the colour terms of the calibrated exposures (``*.fits``) below `folder`, in any order of files.

    `bands`: the colour to fit by band, ``{"r": "g-r"}``; the others, and those whose bands the catalogue lacks, are
    left out. `nights`: the latest so many, 0 for all. Raises DataError where no exposure or no star is left.
    """
    wanted = {band: color for band, color in bands.items() if {band, *color.split("-")} <= set(reference.bands)}
    if not wanted:
        raise ConfigurationError(
            f"no colour term can be fitted: the reference catalogue {reference.name} has the bands "
            f"{', '.join(reference.bands) or '(none)'}; [characterize.photometry] colors asks for "
            f"{', '.join(f'{band}: {color}' for band, color in sorted(bands.items())) or '(none)'}"
        )
    calexps = _calexps(folder, set(wanted), nights)
    if not calexps:
        raise DataError(
            f"there is no calibrated exposure of {', '.join(sorted(wanted))} in {folder}; set [isr] keep_calexps in "
            "survey.toml, or name their folder"
        )
    parts = []
    for number, calexp in enumerate(calexps):
        rows = measure_stars(read_exposure(calexp.path), reference, wanted[calexp.band])
        rows["exposure"] = number
        parts.append(rows)
        if progress is not None:
            progress(number + 1, len(calexps))
    terms = fit_color_terms(np.concatenate(parts), wanted)
    counts = {band: len({calexp.night for calexp in calexps if calexp.band == band}) for band in terms}
    return {band: replace(term, nights=counts[band]) for band, term in terms.items()}


def _calexps(folder: Path, bands: set[str], nights: int) -> list[_Calexp]:
    """Return the exposures of `bands` in the latest `nights`, by their headers."""
    found = []
    for path in sorted(folder.rglob("*.fits")):
        try:
            header = fits.getheader(path)
            calexp = _Calexp(path, unquote(str(header["BAND"])), int(header["NIGHT"]))
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"{path} is not a calibrated exposure ({error}); move it away") from error
        if calexp.band in bands:
            found.append(calexp)
    latest = sorted({calexp.night for calexp in found})[-nights:]
    return [calexp for calexp in found if calexp.night in latest]


def measure_stars(exposure: Exposure, reference: Reference, color: str) -> NDArray[Any]:
    """Return rows of `STAR_DTYPE`, one per catalogue star of known `color` measured on `exposure` (nJy, with WCS, PSF).

    Stars are chosen by catalogue flux and place: expected S/N above 20, alone within three times the seeing, no flag.
    """
    wcs, psf, band = exposure.need_wcs(), exposure.need_psf(), exposure.info.band
    height, width = exposure.shape
    listed = reference.within(*field_cone(wcs, exposure.shape, MOTION))
    stars, names = listed.at(exposure.info.midpointMjdTai), _names(listed)
    flux, flux_error = stars.in_band(band)
    hue = catalogue_colors(stars, color)[0]
    near = np.flatnonzero(flux > 0.0)
    x, y = wcs.sky_to_pixel(stars.ra[near], stars.dec[near])
    inside = (x > 0.0) & (x < width - 1) & (y > 0.0) & (y < height - 1)
    near, x, y = near[inside], x[inside], y[inside]
    use = _isolated(x, y, flux[near], ISOLATION * psf.fwhm(0.5 * width, 0.5 * height)) & np.isfinite(hue[near])
    near, x, y = near[use], x[use], y[use]
    image, usable = exposure.image, usable_pixels(exposure.image, exposure.variance, exposure.mask)
    places = psf_centroids(image, exposure.variance, usable, psf, x, y)
    found = psf_fluxes(image, exposure.variance, usable, psf, places["x"], places["y"])
    fine = (places["flags"] == 0) & (found["flags"] == 0) & (found["flux"] > 0.0)
    fine &= np.hypot(places["x"] - x, places["y"] - y) < MAX_SHIFT
    near, found = near[fine], found[fine]
    scale = 1.0 if exposure.photo is None else exposure.photo.nJyPerElectron
    return _rows(names[near], found, (flux[near], np.nan_to_num(flux_error[near])), hue[near], scale, band)


def _names(stars: ReferenceCatalogue) -> NDArray[np.int64]:
    """Return a number for each star that is the same whatever part of the catalogue was read: its place to 0.04"."""
    east, north = np.floor(stars.ra * 1e5).astype(np.int64), np.floor((stars.dec + 90.0) * 1e5).astype(np.int64)
    return np.asarray(east * 20_000_000 + north)


def _isolated(x: _Float, y: _Float, flux: _Float, radius: float) -> NDArray[np.bool_]:
    """Tell which stars have no neighbour of a tenth of their flux within `radius` pixels."""
    alone = np.ones(len(x), bool)
    if len(x) < 2:
        return alone
    for one, other in KDTree(np.stack([x, y], axis=1)).query_pairs(radius):
        alone[one] &= flux[other] < FAINT_NEIGHBOUR * flux[one]
        alone[other] &= flux[one] < FAINT_NEIGHBOUR * flux[other]
    return alone


def _rows(
    star: NDArray[np.int64], found: NDArray[Any], catalogue: tuple[_Float, _Float], hue: _Float, scale: float, band: str
) -> NDArray[Any]:
    """Return the magnitude differences of the stars that should be bright enough."""
    flux, flux_error = catalogue
    error = np.zeros(0)
    if len(star):
        error = scale * expected_error(found["flux"] / scale, found["fluxErr"] / scale, flux / scale)
    bright = flux > MIN_SNR * error
    rows = np.zeros(int(np.count_nonzero(bright)), STAR_DTYPE)
    rows["star"], rows["band"], rows["color"] = star[bright], band, hue[bright]
    rows["difference"] = -MAGNITUDE * np.log(found["flux"][bright] / flux[bright])
    rows["error"] = MAGNITUDE * np.hypot(error[bright], flux_error[bright]) / flux[bright]
    return rows
