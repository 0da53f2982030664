"""Atmospheric refraction and how it differs with colour: by how much a blue star stands nearer to the zenith.

A star's refraction is (mean of n - 1 over its photons in the band) x (a factor of the zenith distance), to one part in
a thousand: what depends on the star and what depends on where the telescope looks are told apart throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.errors import ConfigurationError
from workers.imaging.horizon import look_up

__all__ = [
    "BANDS",
    "Air",
    "Band",
    "ColorRefraction",
    "band_refractivity",
    "blackbody_color",
    "chromatic_shift",
    "effective_wavelength",
    "known_band",
    "lever",
    "lever_vectors",
    "mean_vector",
    "refraction",
    "refraction_vector",
    "refractivity",
]

_Float = NDArray[np.float64]
ARCSEC = float(np.degrees(3600.0))
"""Per radian."""
_C2 = 1.438776877e7
"""Second radiation constant, nm K (CODATA 2018)."""
_HPA_PER_MMHG = 1.33322387
_NODES = 24
"""Of the Gauss-Legendre rule over a band: sums over blackbodies in the widest of them are good to 1e-6."""
_GRID = np.geomspace(1500.0, 60000.0, 256)
"""Temperatures (K) between which colours are interpolated."""
LOWEST = 5.0
"""Degrees of altitude below which the two-term formula of refraction fails, and nobody observes."""


@dataclass(frozen=True)
class Band:
    """A filter as a top hat over wavelength, nm, in photons."""

    low: float
    high: float

    def __post_init__(self) -> None:
        """Check that it is a range inside the optical window of the formulae."""
        if not 200.0 <= self.low < self.high <= 2500.0:
            raise ConfigurationError(
                f"a band of [{self.low:g}, {self.high:g}] nm is none: give wavelength_nm = [shortest, longest] in "
                "camera.toml, nanometres between 200 and 2500"
            )

    def nodes(self) -> tuple[_Float, _Float]:
        """Return wavelengths (nm) and weights (nm) of the Gauss-Legendre rule over the band."""
        place, weight = np.polynomial.legendre.leggauss(_NODES)
        half = 0.5 * (self.high - self.low)
        return 0.5 * (self.low + self.high) + half * place, half * weight


BANDS: Mapping[str, Band] = MappingProxyType(
    {
        # LSST Science Book (arXiv:0912.0201), table 2.1; SDSS, PS1 and DECam differ by a few nm
        "u": Band(320.0, 400.0),
        "g": Band(402.0, 552.0),
        "r": Band(552.0, 691.0),
        "i": Band(691.0, 818.0),
        "z": Band(818.0, 922.0),
        "y": Band(950.0, 1080.0),
        # Johnson-Cousins: effective wavelength and FWHM of Binney & Merrifield 1998, table 2.1
        "U": Band(332.0, 398.0),
        "B": Band(398.0, 492.0),
        "V": Band(507.0, 595.0),
        "R": Band(589.0, 727.0),
        "I": Band(731.0, 881.0),
        # Gaia: Riello et al. 2021 (A&A 649, A3), section 1
        "BP": Band(330.0, 680.0),
        "G": Band(330.0, 1050.0),
        "RP": Band(630.0, 1050.0),
    }
)
"""Of filters by the names they go by, case-sensitive; a camera's own go before."""


def known_band(name: str, given: Mapping[str, Band] = BANDS) -> Band | None:
    """Return the band called `name`: the camera's own, else the standard one, else None: its DCR isn't known."""
    return given.get(name, BANDS.get(name))


@dataclass(frozen=True)
class Air:
    """The air at the telescope."""

    pressure: float
    """hPa."""
    temperature: float
    """Degrees Celsius."""
    humidity: float = 0.3
    """Relative, 0 to 1; it changes the difference between two wavelengths by less than 1 %."""

    @classmethod
    def at_height(cls, height: float) -> Air:
        """Return the air of the International Standard Atmosphere (ISO 2533) at `height` metres.

        A night's air differs from it by some 15 K and 10 hPa: refraction is off by up to 6 %.
        """
        return cls(1013.25 * (1.0 - 2.25577e-5 * height) ** 5.25588, 15.0 - 0.0065 * height)


def refractivity(wavelength: ArrayLike, air: Air) -> _Float:
    """Return n - 1 of `air` at vacuum `wavelength` (nm), float64.

    Edlén 1953 (J. Opt. Soc. Am. 43, 339) and Barrell 1951 as in Filippenko 1982 (PASP 94, 715), equations 1 to 3;
    Ciddor 1996 (Appl. Opt. 35, 1566) differs by up to 2e-8 between 320 and 1000 nm, and by less than 0.2 % in what is
    between two wavelengths.
    """
    wave2 = np.square(1000.0 / np.asarray(wavelength, float))  # per square micrometre
    standard = 64.328 + 29498.1 / (146.0 - wave2) + 255.4 / (41.0 - wave2)
    pressure, celsius = air.pressure / _HPA_PER_MMHG, air.temperature
    density = pressure * (1.0 + (1.049 - 0.0157 * celsius) * 1e-6 * pressure) / (720.883 * (1.0 + 0.003661 * celsius))
    # Magnus' formula of the saturation pressure (WMO-No. 8, annex 4.B), hPa
    vapour = air.humidity * 6.112 * np.exp(17.62 * celsius / (243.12 + celsius)) / _HPA_PER_MMHG
    wet = (0.0624 - 0.000680 * wave2) / (1.0 + 0.003661 * celsius) * vapour
    return np.asarray(1e-6 * (standard * density - wet))


def refraction(wavelength: ArrayLike, zenith: ArrayLike, air: Air) -> _Float:
    """Return the refraction in arcsec at observed zenith distance `zenith` (degrees): positive towards the zenith.

    Stone 1996 (PASP 108, 1051), equation 4: g (1 - b) tan z - g (b - g / 2) tan³ z, with g = n - 1 and b the scale
    height over the Earth's radius. SOFA's `refco` differs by 5e-4 of it at 65 degrees, 2e-3 at 80.
    """
    index, scale = refractivity(wavelength, air), _scale_height(air)
    tangent = np.tan(np.radians(zenith))
    return np.asarray(ARCSEC * index * ((1.0 - scale) * tangent - (scale - 0.5 * index) * tangent**3))


def lever(zenith: ArrayLike, air: Air) -> _Float:
    """Return d(refraction) / d(n - 1) at true zenith distance `zenith` (degrees), radians per unit, float64.

    The derivative of `refraction` by n - 1, near tan z; NaN within 5 degrees of the horizon and below it.
    """
    zenith = np.asarray(zenith, float)
    index, scale = float(refractivity(500.0, air)), _scale_height(air)
    tangent = np.tan(np.radians(np.where(zenith > 90.0 - LOWEST, np.nan, zenith)))
    # what is seen stands higher by the refraction itself
    tangent = np.tan(np.radians(zenith) - index * tangent)
    return np.asarray((1.0 - scale) * tangent - (scale - index) * tangent**3)


def _scale_height(air: Air) -> float:
    """Return the height of the homogeneous atmosphere over the Earth's radius (Stone 1996, equation 10)."""
    return 0.001254 * (273.15 + air.temperature) / 273.15


def chromatic_shift(wavelength: ArrayLike, reference: ArrayLike, zenith: ArrayLike, air: Air) -> _Float:
    """Return how much nearer to the zenith light of `wavelength` stands than that of `reference` (nm), arcsec."""
    return ARCSEC * lever(zenith, air) * (refractivity(wavelength, air) - refractivity(reference, air))


def _photons(temperature: ArrayLike, wavelength: _Float) -> _Float:
    """Return the photons per nm of blackbodies (n,) at wavelengths (m,), float64 (n, m), in units of their own."""
    heat = _C2 / (np.asarray(temperature, float)[..., None] * wavelength)
    return np.asarray(wavelength**-4.0 / np.expm1(heat))


def band_refractivity(temperature: ArrayLike, band: Band, air: Air) -> _Float:
    """Return the mean of n - 1 over the photons of a blackbody of `temperature` (K) in `band`, float64.

    It moves the star's centroid; to first order in n - 1 nothing else does.
    """
    wave, weight = band.nodes()
    light = _photons(temperature, wave) * weight
    return np.asarray((light * refractivity(wave, air)).sum(axis=-1) / light.sum(axis=-1))


def effective_wavelength(temperature: ArrayLike, band: Band) -> _Float:
    """Return the mean wavelength, nm, of the photons of a blackbody of `temperature` (K) in `band`, float64."""
    wave, weight = band.nodes()
    light = _photons(temperature, wave) * weight
    return np.asarray((light * wave).sum(axis=-1) / light.sum(axis=-1))


def blackbody_color(temperature: ArrayLike, blue: Band, red: Band) -> _Float:
    """Return the AB magnitude in `blue` less that in `red` of a blackbody of `temperature` (K), float64.

    Magnitudes by photons: those of the source over those of a constant flux per frequency.
    """
    counts = []
    for band in (blue, red):
        wave, weight = band.nodes()
        counts.append((_photons(temperature, wave) * weight).sum(axis=-1) / np.log(band.high / band.low))
    return np.asarray(-2.5 * np.log10(counts[0] / counts[1]))


@dataclass(frozen=True)
class ColorRefraction:
    """What colour does to a star's refraction in one band: stars as blackbodies, colours as AB magnitudes."""

    band: Band
    blue: Band
    """The bands of the colour, blue - red."""
    red: Band
    air: Air

    def excess(self, color: ArrayLike, pivot: float) -> _Float:
        """Return the mean of n - 1 of stars of `color` less that of a star of colour `pivot`, float64; NaN for NaN.

        Times `lever` it is how much nearer to the zenith they stand, radians. Colours bluer or redder than any
        blackbody from 1,500 to 60,000 K count as the extreme one.
        """
        colors = blackbody_color(_GRID, self.blue, self.red)[::-1]
        values = band_refractivity(_GRID, self.band, self.air)[::-1]
        return np.asarray(np.interp(np.asarray(color, float), colors, values) - np.interp(pivot, colors, values))

    def slope(self, color: float, zenith: float) -> float:
        """Return d(shift) / d(colour), arcsec per magnitude towards the zenith, at `color` and `zenith` (degrees)."""
        step = 0.05
        change = float(self.excess(color + step, color - step)) / (2.0 * step)
        return ARCSEC * float(lever(zenith, self.air)) * change


def lever_vectors(zenith: ArrayLike, parallactic: ArrayLike, air: Air) -> _Float:
    """Return `lever` as vectors (east, north) towards the zenith, near tan z (sin q, cos q), float64 (..., 2).

    True zenith distances and parallactic angles (north through east) in degrees. Times a star's excess of n - 1 it is
    the shift in radians.
    """
    angle = np.radians(parallactic)
    return np.asarray(lever(zenith, air)[..., None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1))


def refraction_vector(
    ra: float, dec: float, mjd_tai: float, air: Air, *, longitude: float, latitude: float, height: float
) -> _Float:
    """Return `lever_vectors` of (ra, dec), degrees ICRS, at a time, float64 (2,); NaN near and below the horizon.

    `longitude` (east) and `latitude` in degrees, `height` in metres, as of `look_up`.
    """
    seen = look_up(ra, dec, mjd_tai, longitude=longitude, latitude=latitude, height=height)
    return lever_vectors(90.0 - seen.altitude, seen.parallacticAngle, air)


def mean_vector(vectors: ArrayLike, weights: ArrayLike) -> _Float:
    """Return the mean of `refraction_vector`s (n, 2) with `weights` (n,): that of a mean of images, float64 (2,).

    Unknown (NaN) where it is not known of an input that has a weight.
    """
    vectors, weights = np.asarray(vectors, float).reshape(-1, 2), np.asarray(weights, float)
    inside = weights > 0.0
    if not inside.any():
        return np.full(2, np.nan)
    return np.asarray(np.average(vectors[inside], axis=0, weights=weights[inside]))
