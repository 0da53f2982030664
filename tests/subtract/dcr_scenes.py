"""Stars seen through air: each wavelength at its own place, science and template at their own zenith distances.

The truth is summed over wavelengths with the whole formula of refraction and Planck's law written out here; only the
air's n - 1 is the code's. The kernel is perfect: it takes the template's star of the pivot's temperature to the
science image's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from workers.imaging.psf import PsfModel
from workers.imaging.refraction import BANDS, Air, ColorRefraction, blackbody_color, lever_vectors, refraction
from workers.imaging.wcs import SkyWcs
from workers.subtract.dcr import DCR_DTYPE, KnownStars, predict_dipoles

AIR = Air.at_height(2663.0)
WAVES = 20
HALF = 20
SCALE = 0.25
RA, DEC = 150.0, -20.0
PIVOT_T = 5200.0
ROW = np.dtype(
    [(name, "f8") for name in ("x", "y", "snr", "psfFluxErr", "templateFlux", "templateFluxErr", "dipoleAngle")]
    + [("isNegative", "?"), ("dipoleFitAttempted", "?")]
)


def moffat(dx, dy, fwhm, beta=3.0):
    """Return a Moffat PSF of unit flux at offsets in pixels."""
    alpha2 = (0.5 * fwhm) ** 2 / (2.0 ** (1.0 / beta) - 1.0)
    return (beta - 1.0) / (np.pi * alpha2) * (1.0 + (dx**2 + dy**2) / alpha2) ** -beta


def lit(temperature, band):
    """Return wavelengths (nm) and the share of a blackbody's photons at each."""
    edges = np.linspace(BANDS[band].low, BANDS[band].high, WAVES + 1)
    wave = 0.5 * (edges[1:] + edges[:-1])
    photons = wave**-4.0 / (np.exp(1.438776877e7 / (wave * temperature)) - 1.0)
    return wave, photons / photons.sum()


@dataclass
class Pointing:
    """Where a telescope looks: zenith distance and parallactic angle, degrees."""

    zenith: float
    angle: float

    def places(self, temperature, band):
        """Return the places (east, north), arcsec, of a star's light relative to the pivot's centroid, and shares."""
        wave, share = lit(temperature, band)
        pivot = lit(PIVOT_T, band)[1] @ refraction(wave, self.zenith, AIR)
        toward = refraction(wave, self.zenith, AIR) - pivot
        angle = np.radians(self.angle)
        return toward[:, None] * np.array([np.sin(angle), np.cos(angle)]), share

    @property
    def vector(self):
        return lever_vectors(self.zenith, self.angle, AIR)


@dataclass
class Scene:
    """One exposure against one template, in one band."""

    band: str
    science: Pointing
    template: list[Pointing]
    fwhm: float = 4.0
    noise: float = 1.0
    wcs: SkyWcs = field(default_factory=lambda: SkyWcs.tangent(RA, DEC, (2000.0, 2000.0), SCALE))

    def __post_init__(self):
        axis = np.arange(-HALF, HALF + 1, dtype=float)
        self.x, self.y = np.meshgrid(axis, axis)
        stamp = self.image(self.science, PIVOT_T, (0.0, 0.0))  # what a PSF fitted to stars is
        self.psf = PsfModel((stamp / stamp.sum())[None].astype(np.float32), 0, 4001, 4001)
        self.area = 1.0 / np.square(self.psf.stamps(2000.0, 2000.0)[0]).sum()
        self.error = self.noise * np.sqrt(self.area)

    def to_pixels(self, sky):
        """Return pixel offsets of offsets (east, north) in arcsec, (n, 2), by way of the WCS itself."""
        x, y = self.wcs.sky_to_pixel(RA + sky[:, 0] / 3600.0 / np.cos(np.radians(DEC)), DEC + sky[:, 1] / 3600.0)
        x0, y0 = self.wcs.sky_to_pixel(RA, DEC)
        return np.stack([x - x0, y - y0], axis=-1)

    def image(self, pointing, temperature, place):
        """Return the stamp of a star of unit flux at `place` (x, y) from the stamp's middle."""
        sky, share = pointing.places(temperature, self.band)
        offsets = self.to_pixels(sky) + place
        return sum(w * moffat(self.x - dx, self.y - dy, self.fwhm) for w, (dx, dy) in zip(share, offsets, strict=True))

    def difference(self, temperature, place=(0.0, 0.0)):
        """Return science less template of a star of unit flux, by the kernel that the pivot has, and that template."""
        (science, _), (template, pivot) = (
            [
                np.mean([self.image(p, t, at) for p in group], axis=0)
                for t, at in ((temperature, place), (PIVOT_T, (0, 0)))
            ]
            for group in ([self.science], self.template)
        )
        kernel = self.spectrum(self.image(self.science, PIVOT_T, (0.0, 0.0))) / self.spectrum(pivot)
        matched = np.fft.irfft2(np.fft.rfft2(template) * kernel, template.shape)
        return science - matched, matched

    def spectrum(self, image):
        """Return the transform of an image whose middle is (0, 0)."""
        return np.fft.rfft2(np.fft.ifftshift(image))

    @property
    def vector(self):
        """Science less template, as the code is given it."""
        return self.science.vector - np.mean([p.vector for p in self.template], axis=0)

    @property
    def response(self):
        return ColorRefraction(BANDS[self.band], BANDS["g"], BANDS["r"], AIR)


def color_of(temperature):
    return blackbody_color(np.asarray(temperature, float), BANDS["g"], BANDS["r"])


PIVOT = float(color_of(PIVOT_T))


def random_scene(rng, band, airmass=None, inputs=8, template_airmass=1.1, **kwargs):
    """Return a scene at `airmass` (default: 1 to 2.2) and any parallactic angle."""
    airmass = rng.uniform(1.0, 2.2) if airmass is None else airmass
    angles = rng.uniform(-180.0, 180.0, inputs)
    template = [Pointing(zenith_of(template_airmass), angle) for angle in angles]
    return Scene(band, Pointing(zenith_of(airmass), rng.uniform(-180.0, 180.0)), template, **kwargs)


def zenith_of(airmass):
    return float(np.degrees(np.arccos(1.0 / airmass)))


def detected(scene, image, template, middle):
    """Return the ROW of the greatest score, either sign, of a noisy difference, placed at `middle`; None below 5."""
    score = scores(scene, image)
    inner = score[5:-5, 5:-5]
    row, column = np.unravel_index(np.abs(inner).argmax(), inner.shape)
    row, column = row + 5, column + 5
    peak = score[row, column]
    if abs(peak) < 5.0:
        return None
    cross = np.abs([score[row, column - 1 : column + 2], score[row - 1 : row + 2, column]])
    dx, dy = (0.5 * (c[2] - c[0]) / (2.0 * c[1] - c[0] - c[2]) for c in cross)
    out = np.zeros(1, ROW)
    out["x"], out["y"] = middle[0] + column - HALF + dx, middle[1] + row - HALF + dy
    out["snr"], out["isNegative"], out["psfFluxErr"] = abs(peak), peak < 0.0, scene.error
    shifted = moffat(scene.x - (column - HALF + dx), scene.y - (row - HALF + dy), scene.fwhm)
    out["templateFlux"] = (shifted * template).sum() / np.square(shifted).sum()
    out["templateFluxErr"] = 0.3 * scene.error
    other = np.where(np.hypot(scene.x - dx + HALF - column, scene.y - dy + HALF - row) <= 1.5 * scene.fwhm, -score, 0.0)
    other *= np.sign(peak)
    out["dipoleFitAttempted"], out["dipoleAngle"] = other.max() >= 2.0, np.nan
    if other.max() >= 2.0:  # from the negative to the positive lobe
        y, x = np.unravel_index(other.argmax(), other.shape)
        line = np.sign(peak) * np.array([column + dx - x, row + dy - y])
        out["dipoleAngle"] = np.degrees(np.arctan2(*(scene.wcs.jacobian(*middle) @ line)))
    return out


def predicted(scene, rows, temperature, flux, x, y, limits=None, known=True):
    """Return the prediction for rows at stars whose true pixels are (x, y)."""
    ra, dec = scene.wcs.pixel_to_sky(x, y)
    stars = KnownStars(ra, dec, color_of(temperature), np.asarray(flux, float))
    if not known:
        stars = KnownStars(*(np.zeros(0) for _ in range(4)))
    found = predict_dipoles(rows, stars, scene.vector, scene.response, PIVOT, scene.psf, scene.wcs, limits)
    assert found.dtype == DCR_DTYPE
    return found


@dataclass
class Sky:
    """Sources found at stars of one band, each with its own scene."""

    rows: np.ndarray
    predicted: np.ndarray
    blind: np.ndarray
    """The prediction without a catalogue."""
    share: np.ndarray
    """Of the source's S/N that refraction truly gives: the greatest noiseless score of the star's dipole."""
    tried: int


def crowd(rng, band, count, real=False, limits=None, fwhm=4.0):
    """Return what is found at `count` stars of 2,500 to 15,000 K and S/N 20 to 1,000, airmass 1 to 2.2.

    With `real` each has a change of its own, S/N 5 to 50: half of them of the star, half within a FWHM of it.
    """
    rows, found, blind, share = [], [], [], []
    for number in range(count):
        scene = random_scene(rng, band, inputs=4, fwhm=fwhm)
        temperature = np.exp(rng.uniform(np.log(2500.0), np.log(15000.0)))
        place, middle = rng.uniform(-0.5, 0.5, 2), np.array([2000.0, 2000.0])
        flux = scene.error * np.exp(rng.uniform(np.log(20.0), np.log(1000.0)))
        unit, template = scene.difference(temperature, place)
        image = flux * unit
        if real:
            angle = rng.uniform(0.0, 2.0 * np.pi)
            away = rng.uniform(0.0, fwhm) * (number % 2) * np.array([np.cos(angle), np.sin(angle)])
            source = scene.image(scene.science, PIVOT_T, place + away)
            image = image + scene.error * np.exp(rng.uniform(np.log(5.0), np.log(50.0))) * rng.choice([-1, 1]) * source
        noise = rng.normal(0.0, scene.noise, image.shape)
        row = detected(scene, image + noise, flux * template, middle)
        if row is None:
            continue
        seen = middle + place + rng.normal(0.0, 0.03, 2) / SCALE  # the catalogue and the WCS are that good
        given = [temperature * np.exp(rng.normal(0.0, 0.03))], [flux], [seen[0]], [seen[1]]
        rows.append(row)
        found.append(predicted(scene, row, *given, limits))
        blind.append(predicted(scene, row, *given, limits, known=False))
        share.append(greatest(scene, flux * unit) / row["snr"][0])
    return Sky(*map(np.concatenate, (rows, found, blind)), np.array(share), count)


def greatest(scene, image):
    """Return the greatest score, either sign, of an image without noise."""
    return float(np.abs(scores(scene, image)).max())


def scores(scene, image):
    """Return the S/N of the PSF at each pixel."""
    spectrum = np.conj(scene.spectrum(scene.psf.stamps(2000.0, 2000.0)[0]))
    return np.fft.irfft2(np.fft.rfft2(image) * spectrum, image.shape) * np.sqrt(scene.area) / scene.noise
