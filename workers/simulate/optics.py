"""Telescope and atmosphere: WCS of the header and of the truth, the PSF across the field, photon counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workers.imaging.bright_stars import AB_NJY
from workers.imaging.wcs import SkyWcs
from workers.simulate.cadence import Visit
from workers.simulate.profiles import Mixture, moffat
from workers.simulate.settings import BANDS, SimulatedSurvey
from workers.simulate.streams import stream

__all__ = [
    "PsfField",
    "boresight",
    "electrons_per_njy",
    "focal_plane_size",
    "header_wcs",
    "nominal_error",
    "pointing",
    "psf_field",
    "sky_electrons",
    "true_wcs",
]

_Float = NDArray[np.float64]
Cards = dict[str, float | int | str]


def focal_plane_size(config: SimulatedSurvey) -> tuple[int, int]:
    """Return (width, height) of the row of detectors with its gaps, pixels."""
    design = config.detectors
    return design.count * design.width + (design.count - 1) * design.gap, design.height


def boresight(config: SimulatedSurvey, detector: int) -> tuple[float, float]:
    """Return the 0-based (x, y) of the boresight in one detector's pixel frame."""
    width, height = focal_plane_size(config)
    step = config.detectors.width + config.detectors.gap
    return 0.5 * (width - 1) - detector * step, 0.5 * (height - 1)


def header_wcs(config: SimulatedSurvey, visit: Visit, detector: int) -> Cards:
    """Return the TAN-SIP cards that the header carries: distortion right, pointing and rotation nominal."""
    return _wcs_cards(config, visit, detector, (0.0, 0.0), 0.0)


def true_wcs(config: SimulatedSurvey, visit: Visit, detector: int) -> SkyWcs:
    """Return the WCS that the pixels obey: the header's, off by the visit's pointing and rotation error."""
    conditions = visit.conditions
    if conditions is None:
        return SkyWcs.from_cards(header_wcs(config, visit, detector))
    error, rotation = conditions.pointing_error, conditions.rotation_error
    return SkyWcs.from_cards(_wcs_cards(config, visit, detector, error, rotation))


def pointing(config: SimulatedSurvey, visit: Visit) -> tuple[float, float]:
    """Return the pointing (ra, dec) that the header gives, degrees ICRS."""
    dither = visit.conditions.dither if visit.conditions else (0.0, 0.0)
    dec = config.sky.dec + dither[1] / 3600.0
    return config.sky.ra + dither[0] / 3600.0 / np.cos(np.radians(config.sky.dec)), dec


def _wcs_cards(
    config: SimulatedSurvey, visit: Visit, detector: int, error: tuple[float, float], rotation: float
) -> Cards:
    """North up, east left; SIP (Shupe et al. 2005) with the cubic radial terms only."""
    ra, dec = pointing(config, visit)
    x, y = boresight(config, detector)
    step, angle = config.optics.pixel_scale / 3600.0, np.radians(rotation)
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    cards: Cards = {
        "WCSAXES": 2,
        "CTYPE1": "RA---TAN-SIP",
        "CTYPE2": "DEC--TAN-SIP",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "RADESYS": "ICRS",
        "CRVAL1": float(ra + error[0] / 3600.0 / np.cos(np.radians(dec))),
        "CRVAL2": float(dec + error[1] / 3600.0),
        "CRPIX1": x + 1.0,
        "CRPIX2": y + 1.0,
        "CD1_1": -step * cosine,
        "CD1_2": step * sine,
        "CD2_1": step * sine,
        "CD2_2": step * cosine,
        "A_ORDER": 3,
        "B_ORDER": 3,
    }
    for key in ("A_3_0", "A_1_2", "B_2_1", "B_0_3"):
        cards[key] = config.optics.distortion
    return cards


@dataclass(frozen=True)
class PsfField:
    """The PSF of one visit on one detector: a Moffat mixture, stretched by a matrix that varies with position.

    It includes the pixel: its value at a pixel's centre is the fraction of the light in that pixel.
    """

    mixture: Mixture
    fwhm: float
    """At the boresight, pixels."""
    gradient: tuple[float, float, float]
    """Relative change of the FWHM: along x, along y, and with radius squared."""
    shear: NDArray[np.float64]
    """(2, 3): both ellipticity components as constant, along x, along y."""
    origin: tuple[float, float]
    """Boresight, 0-based pixels of this detector."""
    radius: float
    """Of the focal plane, pixels: the unit of the coordinates u, v."""

    def widths(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return the FWHM at 0-based pixel positions, pixels, shape (n,)."""
        u, v = self._scaled(x, y)
        along_x, along_y, with_radius = self.gradient
        return np.asarray(self.fwhm * (1.0 + along_x * u + along_y * v + with_radius * (u * u + v * v)))

    def covariances(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return (n, 3) matrices xx, xy, yy, pixels²: a component of width s has the covariance s² times this."""
        u, v = self._scaled(x, y)
        e1, e2 = (row[0] + row[1] * u + row[2] * v for row in self.shear)
        area = self.widths(x, y) ** 2 / np.sqrt(1.0 - e1 * e1 - e2 * e2)
        return np.stack([area * (1.0 + e1), area * e2, area * (1.0 - e1)], axis=-1)

    def noise_area(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return 1 / sum(PSF²), pixels², shape (n,)."""
        return np.asarray(self.widths(x, y) ** 2 / self.mixture.squared)

    def peak(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return the PSF's central value, shape (n,)."""
        return np.asarray(self.mixture.peak / self.widths(x, y) ** 2)

    def _scaled(self, x: ArrayLike, y: ArrayLike) -> tuple[_Float, _Float]:
        u = (np.atleast_1d(np.asarray(x, float)) - self.origin[0]) / self.radius
        return u, (np.atleast_1d(np.asarray(y, float)) - self.origin[1]) / self.radius


def psf_field(config: SimulatedSurvey, visit: Visit, detector: int) -> PsfField:
    """Return the PSF of a science visit; its gradients are the visit's own, the same on all detectors."""
    optics = config.optics
    draws = 2.0 * stream(config.seed, "psf", visit.number).random(9) - 1.0
    seeing = visit.conditions.seeing if visit.conditions else float(np.mean(optics.seeing))
    gradient = optics.psf_gradient * np.array([draws[0], draws[1], 0.6 + 0.4 * draws[2]]) / 2.0
    shear = optics.ellipticity * draws[3:9].reshape(2, 3) * np.array([0.5, 0.7, 0.7])
    return PsfField(
        mixture=moffat(optics.moffat_beta),
        fwhm=seeing,
        gradient=(float(gradient[0]), float(gradient[1]), float(gradient[2])),
        shear=shear,
        origin=boresight(config, detector),
        radius=0.5 * float(np.hypot(*focal_plane_size(config))),
    )


def electrons_per_njy(config: SimulatedSurvey, visit: Visit) -> float:
    """Return the electrons that one nJy outside the atmosphere gives in this visit."""
    transparency = visit.conditions.transparency if visit.conditions else 1.0
    return float(visit.exposure_time * transparency * 10.0 ** (0.4 * (BANDS[visit.band].zero_point - AB_NJY)))


def sky_electrons(config: SimulatedSurvey, visit: Visit) -> float:
    """Return the sky background of a visit, electrons per pixel before the flat field."""
    brightness = visit.conditions.sky if visit.conditions else BANDS[visit.band].sky
    area = config.optics.pixel_scale**2
    return float(visit.exposure_time * area * 10.0 ** (0.4 * (BANDS[visit.band].zero_point - brightness)))


def nominal_error(config: SimulatedSurvey, band: str) -> float:
    """Return the error of a faint point source's flux, nJy, in one live exposure under mean conditions."""
    optics, seconds = config.optics, config.cadence.exposure_time
    sky = seconds * optics.pixel_scale**2 * 10.0 ** (0.4 * (BANDS[band].zero_point - BANDS[band].sky))
    area = float(np.mean(optics.seeing)) ** 2 / moffat(optics.moffat_beta).squared
    variance = area * (sky + config.detectors.read_noise**2) * (1.0 + 1.0 / max(config.cadence.archive, 1))
    scale = seconds * float(np.mean(optics.transparency)) * 10.0 ** (0.4 * (BANDS[band].zero_point - AB_NJY))
    return float(np.sqrt(variance) / scale)
