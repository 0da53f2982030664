"""The synthetic sky: stars (some variable), galaxies and transients round the field centre."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from workers.imaging.bright_stars import AB_NJY
from workers.simulate.lightcurves import CONSTANT, transient_shape, variable_factor
from workers.simulate.optics import focal_plane_size, nominal_error
from workers.simulate.profiles import DE_VAUCOULEURS, EXPONENTIAL
from workers.simulate.settings import BANDS, SimulatedSurvey
from workers.simulate.streams import stream

__all__ = [
    "GALAXY_ID",
    "STAR_ID",
    "TRANSIENT_ID",
    "Sky",
    "band_fluxes",
    "magnitudes",
    "make_sky",
    "scattered",
    "star_fluxes",
    "transient_fluxes",
]

_Float = NDArray[np.float64]
_Rows = NDArray[np.void]
STAR_ID, GALAXY_ID, TRANSIENT_ID = 10_000_000, 20_000_000, 30_000_000
"""First id of each population."""


@dataclass(frozen=True)
class Sky:
    """Structured arrays, read-only. All have id, ra, dec (degrees ICRS) and flux (n, bands) in nJy, mean or peak.

    `stars`: variability (codes of `lightcurves`), period (days), phase, amplitude.
    `galaxies`: profile, radius (half-light, arcsec), axisRatio, angle (degrees, north through east).
    `transients`: reference (MJD TAI), rise, fall (days), hostId (0: none), hostOffset (arcsec).
    """

    stars: _Rows
    galaxies: _Rows
    transients: _Rows


@lru_cache(maxsize=4)
def make_sky(config: SimulatedSurvey) -> Sky:
    """Return the sky of a survey; a pure function of the settings."""
    galaxies = _galaxies(config)
    sky = Sky(_stars(config), galaxies, _transients(config, galaxies))
    for rows in (sky.stars, sky.galaxies, sky.transients):
        rows.flags.writeable = False
    return sky


def star_fluxes(stars: _Rows, band: int, mjd: float) -> _Float:
    """Return the flux of each star, nJy, in the band of index `band` at `mjd`."""
    phase = stars["phase"] + mjd / stars["period"]
    return np.asarray(stars["flux"][:, band] * variable_factor(stars["variability"], phase, stars["amplitude"]))


def transient_fluxes(transients: _Rows, band: int, mjd: float) -> _Float:
    """Return the flux of each transient, nJy, in the band of index `band` at `mjd`."""
    shape = transient_shape(mjd - transients["reference"], transients["rise"], transients["fall"])
    return np.asarray(transients["flux"][:, band] * shape)


def scattered(config: SimulatedSurvey, density: float, purpose: str) -> tuple[int, _Float, _Float]:
    """Return (count, ra, dec) of a uniform population of `density` per arcmin² over the field and its border."""
    width, height = (
        size + 120.0 + 4.0 * config.cadence.dither / config.optics.pixel_scale for size in focal_plane_size(config)
    )
    scale = config.optics.pixel_scale
    count = round(density * width * height * (scale / 60.0) ** 2)
    draws = stream(config.seed, f"{purpose}.position").random((count, 2)) - 0.5
    dec = config.sky.dec + draws[:, 1] * height * scale / 3600.0
    ra = config.sky.ra + draws[:, 0] * width * scale / 3600.0 / np.cos(np.radians(dec))
    return count, ra, dec


def magnitudes(config: SimulatedSurvey, count: int, purpose: str, limits: tuple[float, float], slope: float) -> _Float:
    """Draw magnitudes with counts N(<m) growing as 10^(slope m) between `limits`."""
    draws = stream(config.seed, f"{purpose}.magnitude").random(count)
    growth = 10.0 ** (slope * (limits[1] - limits[0])) - 1.0
    return np.asarray(limits[0] + np.log10(1.0 + draws * growth) / slope)


def band_fluxes(config: SimulatedSurvey, magnitude: _Float, colour: _Float) -> _Float:
    """Return fluxes, nJy (n, bands), from the r magnitude and g - r."""
    colours = np.array([BANDS[band].colour for band in config.bands])
    return np.asarray(10.0 ** (-0.4 * (magnitude[:, None] + colour[:, None] * colours - AB_NJY)))


def _stars(config: SimulatedSurvey) -> _Rows:
    """Constant stars, then variable ones."""
    count, ra, dec = scattered(config, config.sky.stars, "stars")
    variable, ra2, dec2 = scattered(config, config.sky.variables, "variables")
    rows = _empty(count + variable, STAR_ID, config, ("period", "phase", "amplitude"), ("variability",))
    rows["ra"], rows["dec"] = np.append(ra, ra2), np.append(dec, dec2)
    # two colour peaks: disk and halo turn-off stars, and M dwarfs
    draws = stream(config.seed, "stars.colour").standard_normal((count, 2))
    colour = np.where(draws[:, 0] > 0.2, 1.4 + 0.08 * draws[:, 1], 0.5 + 0.15 * draws[:, 1])
    faint = magnitudes(config, count, "stars", config.sky.star_magnitudes, 0.22)
    rows["flux"][:count] = band_fluxes(config, faint, colour)
    rows["period"], rows["variability"] = 1.0, CONSTANT
    faint = magnitudes(config, variable, "variables", config.sky.variable_magnitudes, 0.15)
    rows["flux"][count:] = band_fluxes(config, faint, np.full(variable, 0.4))
    kind = stream(config.seed, "variables.kind").integers(1, 4, variable)
    draws = stream(config.seed, "variables.period").random((variable, 3))
    shortest, longest = np.array([0.5, 0.45, 0.4])[kind - 1], np.array([60.0, 0.75, 4.0])[kind - 1]
    low, high = np.array([0.10, 0.4, 0.2])[kind - 1], np.array([0.35, 1.0, 0.6])[kind - 1]
    rows["variability"][count:] = kind
    rows["period"][count:] = shortest * (longest / shortest) ** draws[:, 0]
    rows["phase"][count:] = draws[:, 1]
    rows["amplitude"][count:] = low + (high - low) * draws[:, 2]
    return rows


def _galaxies(config: SimulatedSurvey) -> _Rows:
    count, ra, dec = scattered(config, config.sky.galaxies, "galaxies")
    rows = _empty(count, GALAXY_ID, config, ("radius", "axisRatio", "angle"), ("profile",))
    rows["ra"], rows["dec"] = ra, dec
    draws = stream(config.seed, "galaxies.shape").random((count, 4))
    normal = stream(config.seed, "galaxies.size").standard_normal((count, 2))
    faint = magnitudes(config, count, "galaxies", config.sky.galaxy_magnitudes, 0.35)
    rows["flux"] = band_fluxes(config, faint, 0.7 + 0.2 * normal[:, 0])
    rows["profile"] = np.where(draws[:, 0] < 0.3, DE_VAUCOULEURS, EXPONENTIAL)
    rows["radius"] = np.clip(0.8 * 10.0 ** (-0.2 * (faint - 20.0) + 0.15 * normal[:, 1]), 0.25, 6.0)
    rows["axisRatio"] = 0.25 + 0.75 * draws[:, 1]
    rows["angle"] = 180.0 * draws[:, 2]
    return rows


def _transients(config: SimulatedSurvey, galaxies: _Rows) -> _Rows:
    """Fast ones near their peak in the live night, and slow ones that were bright in the archive."""
    sky, live = config.sky, config.cadence.live_mjd
    count, ra, dec = scattered(config, sky.transients, "transients")
    rows = _empty(count, TRANSIENT_ID, config, ("reference", "rise", "fall", "hostOffset"), ("hostId",))
    rows["ra"], rows["dec"] = ra, dec
    _place_on_hosts(config, rows, galaxies)
    draws = stream(config.seed, "transients.curve").random((count, 5))
    slow = draws[:, 0] < sky.slow
    middle = live - config.cadence.archive_begin + 0.5 * config.cadence.archive_span
    rows["reference"] = np.where(slow, middle - 40.0 + 60.0 * draws[:, 1], live + 6.0 - 30.0 * draws[:, 1])
    rows["rise"] = np.where(slow, 10.0 + 15.0 * draws[:, 2], 2.0 + 3.0 * draws[:, 2])
    rows["fall"] = np.where(slow, 120.0 + 120.0 * draws[:, 3], 12.0 + 30.0 * draws[:, 3])
    then = transient_shape(middle - rows["reference"], rows["rise"], rows["fall"])
    now = transient_shape(live - rows["reference"], rows["rise"], rows["fall"])
    low, high = sky.transient_snr
    snr = low * (high / low) ** draws[:, 4]
    errors = np.array([nominal_error(config, band) for band in config.bands])
    rows["flux"] = (snr / np.abs(now - then))[:, None] * errors
    return rows


def _place_on_hosts(config: SimulatedSurvey, rows: _Rows, galaxies: _Rows) -> None:
    """Move some transients onto galaxies, with the light's distribution; fills hostId and hostOffset."""
    draws = stream(config.seed, "transients.host").random((len(rows), 4))
    hosted = np.flatnonzero(draws[:, 0] < config.sky.hosted) if len(galaxies) else np.zeros(0, int)
    # luminous galaxies have more, and no galaxy has two
    order = np.argsort(-galaxies["flux"][:, 0], kind="stable")
    chosen, first = np.unique(order[(draws[hosted, 1] ** 2 * len(galaxies)).astype(int)], return_index=True)
    hosted = hosted[first]
    draws, host = draws[hosted], galaxies[chosen]
    radius = host["radius"] * np.sqrt(-np.log1p(-draws[:, 2])) * 0.9
    turn, angle = 2.0 * np.pi * draws[:, 3], np.radians(host["angle"])
    major, minor = radius * np.cos(turn), radius * np.sin(turn) * host["axisRatio"]
    north, east = major * np.cos(angle) - minor * np.sin(angle), major * np.sin(angle) + minor * np.cos(angle)
    rows["dec"][hosted] = host["dec"] + north / 3600.0
    rows["ra"][hosted] = host["ra"] + east / 3600.0 / np.cos(np.radians(host["dec"]))
    rows["hostId"][hosted] = host["id"]
    rows["hostOffset"][hosted] = np.hypot(major, minor)


def _empty(
    count: int, first: int, config: SimulatedSurvey, floats: tuple[str, ...], integers: tuple[str, ...]
) -> _Rows:
    """Return zeroed rows with ids from `first` and the named extra columns."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int, ...]]] = [("id", "i8"), ("ra", "f8"), ("dec", "f8")]
    fields += [("flux", "f8", (len(config.bands),))]
    fields += [(name, "f8") for name in floats] + [(name, "i8") for name in integers]
    rows = np.zeros(count, np.dtype(fields))
    rows["id"] = first + np.arange(count)
    return rows
