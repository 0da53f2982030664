"""Differential chromatic refraction: which sources may be a star's dipole, the star being bluer or redder than others.

WCSs hold for stars of the mean colour. Another star stands, by what its colour adds to n - 1, nearer to or farther from
the zenith, and the zenith lies elsewhere over the template's inputs: science and template show it `s` apart. To first
order the difference is -flux (s . gradient of the PSF), a dipole. With W = sum(gradient gradient^T) / sum(PSF²) and the
error of a PSF flux the S/N of all its pixels is (flux / error) sqrt(s W s), of a Gaussian (flux / error) |s| /
(sqrt(2) sigma); without the first order sqrt(2 (1 - exp(-s W s / 2))) (flux / error). Detection looks with the PSF: it
scores (flux / error) (s . r) / (2 sigma²) exp(-r² / 4 sigma²) at r from the star, at most exp(-1/2) times the S/N of
all pixels, sqrt(2) sigma away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from workers.imaging.exposure import Exposure
from workers.imaging.psf import PsfModel, shift_gradients
from workers.imaging.reference import ReferenceCatalogue
from workers.imaging.reference_field import field_stars
from workers.imaging.reference_store import Reference
from workers.imaging.refraction import (
    ARCSEC,
    BANDS,
    Air,
    Band,
    ColorRefraction,
    blackbody_color,
    known_band,
    mean_vector,
    refraction_vector,
)
from workers.imaging.wcs import SkyWcs
from workers.survey.camera import Site

__all__ = [
    "DCR_DTYPE",
    "DcrLimits",
    "KnownStars",
    "color_pair",
    "dcr_of",
    "dipole_snr",
    "known_stars",
    "predict_dipoles",
    "vector_between",
]

_Float = NDArray[np.float64]
_Index = NDArray[np.intp]
_Bool = NDArray[np.bool_]
_Rows = NDArray[Any]

DCR_DTYPE = np.dtype([("dcrShift", "f8"), ("dcrAngle", "f8"), ("dcrSnr", "f8"), ("dcrDipole", "?")])
"""Shift (arcsec, science less template), its direction (degrees from north through east), S/N of the dipole, the flag.

The numbers are NaN where they are not known or there is nothing to shift; the flag is False there.
"""
_USUAL = 5200.0
"""K: of the stars that set the WCS, where the catalogue tells too few colours."""
_FEWEST = 5
_PAIRS = (("g", "r"), ("g", "i"), ("r", "i"), ("BP", "RP"), ("B", "V"), ("V", "R"), ("V", "I"))
_LOBE = float(np.exp(-0.5))
_CENTROID = 1.6
"""Sigma of the PSF: where the centroid of a lobe lies, for a star whose own place isn't known; the peak is at 1.41."""
_WORTH = 5.0
"""S/N of the template's flux that makes a static source."""


@dataclass(frozen=True)
class DcrLimits:
    """When a dipole that is predicted may be the source that is seen."""

    min_snr: float = 5.0
    """Predicted, of the whole dipole; a lobe has 0.61 of it."""
    min_share: float = 0.5
    """Of the source's S/N that the predicted dipole gives at its place."""
    radius: float = 1.5
    """To the star, in units of the PSF's FWHM, and no less than `least_radius`."""
    least_radius: float = 1.0
    """Arcsec."""
    slack: float = 0.3
    """FWHM: how far the source's place or the star's may be off."""
    coolest: float = 2500.0
    """K; of a static source of unknown colour."""
    hottest: float = 15000.0
    max_turn: float = 45.0
    """Degrees between the dipole that was fitted to such a source and the direction of the shift, either way."""


@dataclass(frozen=True)
class KnownStars:
    """n stars of the reference catalogue at the date of the exposure, float64; NaN where not known."""

    ra: _Float
    dec: _Float
    color: _Float
    """AB magnitudes, blue - red as in `ColorRefraction`."""
    flux: _Float
    """nJy in the band of the exposure."""


def color_pair(bands: tuple[str, ...]) -> tuple[str, str] | None:
    """Return the blue and the red band of the colour to use of a catalogue with `bands`; None where it has none."""
    return next((pair for pair in _PAIRS if set(pair) <= set(bands)), None)


def known_stars(stars: ReferenceCatalogue, band: str, blue: str, red: str) -> KnownStars:
    """Return what `predict_dipoles` asks of the catalogue's stars; a band that it lacks gives no fluxes."""
    flux = stars.flux.get(band, np.full(len(stars), np.nan))
    return KnownStars(stars.ra, stars.dec, stars.color(blue, red), np.asarray(flux, float))


def dipole_snr(psf: NDArray[np.floating], shift: _Float, snr: _Float) -> _Float:
    """Return the S/N, float64 (n,), of the dipoles of stars of S/N `snr` that are `shift` (n, 2) pixels (x, y) apart.

    `psf` is one stamp of unit sum; S/N of a PSF flux in the difference. Right to first order for any PSF, and to all
    orders for a Gaussian one.
    """
    square = np.einsum("ni,ij,nj->n", shift, _gradient_power(psf), shift)
    return np.asarray(snr * np.sqrt(2.0 * -np.expm1(-0.5 * square)))


def _gradient_power(psf: NDArray[np.floating]) -> _Float:
    """Return sum(gradient gradient^T) / sum(PSF²), per square pixel, float64 (2, 2); of a Gaussian 1 / (2 sigma²)."""
    stamp = np.asarray(psf, float)[None]
    _, by_x, by_y = shift_gradients(stamp, 0.0, 0.0)
    slopes = np.stack([by_x.ravel(), by_y.ravel()])
    return np.asarray(slopes @ slopes.T / np.square(stamp).sum())


def vector_between(
    ra: float, dec: float, mjd_tai: float, inputs: Iterable[tuple[float, float]], site: Site, air: Air
) -> _Float:
    """Return the `refraction_vector` at a time less the weighted mean of the inputs', (east, north), float64 (2,).

    `inputs` are (mid-exposure time MJD TAI, weight) of what the template was made of; ra and dec in degrees ICRS. NaN
    where one of them looked near the horizon, by its time.
    """
    place = {"longitude": site.longitude, "latitude": site.latitude, "height": site.height}
    told = list(inputs)
    vectors = [refraction_vector(ra, dec, mjd, air, **place) for mjd, _ in told]
    now = refraction_vector(ra, dec, mjd_tai, air, **place)
    return now - mean_vector(np.array(vectors).reshape(-1, 2), [weight for _, weight in told])


def dcr_of(
    rows: _Rows,
    difference: Exposure,
    inputs: Iterable[tuple[float, float]],
    site: Site | None,
    bands: Mapping[str, Band],
    reference: Reference | None,
    limits: DcrLimits | None = None,
) -> _Rows | None:
    """Return `predict_dipoles` for the sources of a difference; None where site or band's wavelengths aren't known.

    `inputs` as of `vector_between`, `bands` the camera's own. The catalogue's bands are the standard ones of their
    names; without it, or without colours in it, every source is one of unknown colour. The pivot is the median colour
    of the field's stars: what kernel and WCS take up is theirs, give or take the colours of the few brightest.
    """
    info, wcs = difference.info, difference.need_wcs()
    band = known_band(info.band, bands)
    if site is None or band is None:
        return None
    height, width = difference.shape
    ra, dec = (float(axis) for axis in wcs.pixel_to_sky(0.5 * (width - 1), 0.5 * (height - 1)))
    air = Air.at_height(site.height)
    vector = vector_between(ra, dec, info.midpointMjdTai, inputs, site, air)
    pair = None if reference is None else color_pair(reference.bands)
    blue, red = pair or ("g", "r")
    response = ColorRefraction(band, BANDS[blue], BANDS[red], air)
    stars = KnownStars(*(np.zeros(0) for _ in range(4)))
    if reference is not None and pair is not None:
        near = field_stars(reference, wcs, difference.shape, 0.0, info.midpointMjdTai)
        stars = known_stars(near, info.band, blue, red)
    told = stars.color[np.isfinite(stars.color)]
    usual = blackbody_color(_USUAL, response.blue, response.red)
    pivot = float(np.median(told) if len(told) >= _FEWEST else usual)
    return predict_dipoles(rows, stars, vector, response, pivot, difference.need_psf(), wcs, limits)


def predict_dipoles(
    rows: _Rows,
    stars: KnownStars,
    vectors: _Float,
    response: ColorRefraction,
    pivot: float,
    psf: PsfModel,
    wcs: SkyWcs,
    limits: DcrLimits | None = None,
) -> _Rows:
    """Return rows of `DCR_DTYPE`: what refraction does to the star at each diaSource of `rows`, and whether it shows.

    `vectors` float64 (n, 2) or (2,): `refraction_vector` of the science exposure less the template's mean, (east,
    north); `pivot` the mean colour of the stars that set the WCS; `psf` the difference's, on the pixels of `wcs`. Stars
    without a colour, and static sources that are no catalogued star, get the colour between `coolest` and `hottest`
    that shifts most, a direction that is not known (NaN), and instead of the test of place and sign another: a second
    lobe must be there (dipoleFitAttempted), along the line to the zenith.
    """
    limits = limits or DcrLimits()
    out = np.zeros(len(rows), DCR_DTYPE)
    for name in ("dcrShift", "dcrAngle", "dcrSnr"):
        out[name] = np.nan
    if not len(rows):
        return out
    middle = 0.5 * (psf.width - 1), 0.5 * (psf.height - 1)
    stamp = psf.on_pixels().stamps(*middle)[0]
    sigma = float(1.0 / np.sqrt(np.trace(_gradient_power(stamp))))
    to_pixel = np.linalg.inv(3600.0 * wcs.jacobian(*middle))
    scale = wcs.pixel_scale(*middle)
    fwhm = psf.fwhm(*middle)
    star, offset = _nearest(rows, stars, wcs, max(limits.radius * fwhm, limits.least_radius / scale))
    colored = (star >= 0) & np.isfinite(stars.color[star] if len(stars.color) else np.nan)
    excess = _excess(stars, star, colored, response, pivot, limits)
    shift = ARCSEC * excess[:, None] * np.broadcast_to(np.asarray(vectors, float), (len(rows), 2))
    snr = _static_flux(rows, stars, star, offset, sigma) / rows["psfFluxErr"].astype(float)
    pixels = shift @ to_pixel.T
    whole = dipole_snr(stamp, pixels, snr)
    score = np.where(colored, _score_near(rows, offset, pixels, whole, sigma, limits.slack * fwhm), _LOBE * whole)
    there = np.isfinite(whole)
    out["dcrShift"] = np.where(there, np.hypot(*shift.T), np.nan)
    angle = np.degrees(np.arctan2(shift[:, 0], shift[:, 1])) % 360.0
    out["dcrAngle"] = np.where(there & colored, angle, np.nan)
    out["dcrSnr"] = whole
    shows = (whole >= limits.min_snr) & (score >= limits.min_share * rows["snr"])
    out["dcrDipole"] = there & shows & (colored | _is_along(rows, angle, limits.max_turn))
    return out


def _is_along(rows: _Rows, angle: _Float, max_turn: float) -> _Bool:
    """Return which sources have a second lobe and no fitted dipole that lies across `angle` (degrees; either way)."""
    turn = np.abs((rows["dipoleAngle"] - angle + 90.0) % 180.0 - 90.0)
    return np.asarray(rows["dipoleFitAttempted"] & ~(turn > max_turn))


def _nearest(rows: _Rows, stars: KnownStars, wcs: SkyWcs, radius: float) -> tuple[_Index, _Float]:
    """Return the row of the nearest star within `radius` pixels, else -1, and the place relative to it, (n, 2)."""
    star, offset = np.full(len(rows), -1, np.intp), np.full((len(rows), 2), np.nan)
    if not len(stars.ra):
        return star, offset
    places = np.stack(wcs.sky_to_pixel(stars.ra, stars.dec), axis=-1)
    mine = np.stack([rows["x"], rows["y"]], axis=-1).astype(float)
    fine, good = np.isfinite(places).all(axis=1), np.isfinite(mine).all(axis=1)
    if not fine.any() or not good.any():
        return star, offset
    far, index = cKDTree(places[fine]).query(mine[good], distance_upper_bound=radius)
    hit = np.flatnonzero(good)[np.isfinite(far)]
    star[hit] = np.flatnonzero(fine)[index[np.isfinite(far)]]
    offset[hit] = mine[hit] - places[star[hit]]
    return star, offset


def _excess(
    stars: KnownStars, star: _Index, colored: _Bool, response: ColorRefraction, pivot: float, limits: DcrLimits
) -> _Float:
    """Return the excess of n - 1 of each source's star; of an unknown colour the extreme one."""
    ends = blackbody_color(np.array([limits.coolest, limits.hottest]), response.blue, response.red)
    extremes = response.excess(ends, pivot)
    excess = np.full(len(star), extremes[np.argmax(np.abs(extremes))])
    excess[colored] = response.excess(stars.color[star[colored]], pivot)
    return excess


def _static_flux(rows: _Rows, stars: KnownStars, star: _Index, offset: _Float, sigma: float) -> _Float:
    """Return the flux of what the template shows, nJy: the catalogue's, else the forced one; NaN where nothing is.

    The forced flux is measured beside the star, on a lobe, and sees exp(-r² / 4 sigma²) of it.
    """
    forced = rows["templateFlux"].astype(float)
    apart = np.where(star >= 0, np.hypot(*offset.T) / sigma, _CENTROID)
    flux = forced * np.exp(0.25 * np.square(np.minimum(apart, 2.0)))
    seen = forced > _WORTH * rows["templateFluxErr"]
    flux = np.where(seen, flux, np.nan)
    if not len(stars.flux):
        return flux
    told = np.where(star >= 0, stars.flux[star], np.nan)
    return np.where(told > 0.0, told, flux)


def _score_near(rows: _Rows, offset: _Float, shift: _Float, whole: _Float, sigma: float, slack: float) -> _Float:
    """Return the greatest score of the source's sign that the dipole gives within `slack` pixels of its place.

    `whole` is the S/N of the dipole, `shift` (n, 2) its direction. The positive lobe lies where the star has gone.
    """
    length = np.hypot(*shift.T)
    unit = shift / np.where(length > 0.0, length, 1.0)[:, None]
    sign = np.where(rows["isNegative"], -1.0, 1.0)
    along = sign * (offset * unit).sum(axis=1)
    across = np.maximum(np.abs(offset[:, 0] * unit[:, 1] - offset[:, 1] * unit[:, 0]) - slack, 0.0)
    best = np.clip(np.sqrt(2.0) * sigma, along - slack, along + slack)
    shape = best / (np.sqrt(2.0) * sigma) * np.exp(-0.25 * (np.square(best) + np.square(across)) / sigma**2)
    return np.asarray(whole * shape)
