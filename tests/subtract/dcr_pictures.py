"""A science exposure and a template of stars seen through air, for the whole subtraction, with their catalogue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.subtract.dcr_scenes import DEC, HALF, PIVOT_T, RA, SCALE, Pointing, Scene, color_of
from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.horizon import look_up
from workers.imaging.psf import PsfModel
from workers.imaging.reference import ReferenceCatalogue
from workers.imaging.wcs import SkyWcs
from workers.survey.camera import Site

SITE = Site(longitude=-70.74, latitude=-30.24, height=2663.0)
SIZE = 640
DEPTH = 10.0
"""Of the template, in exposures."""
MJD = 60500.0


@dataclass(frozen=True)
class Picture:
    science: Exposure
    template: Exposure
    inputs: tuple[tuple[float, float], ...]
    reference: ReferenceCatalogue
    x: np.ndarray
    """Pixels of the new sources."""
    y: np.ndarray


def times(airmass, rising):
    """Return the MJD on which the field stands at `airmass`, before or after it culminates."""
    when = MJD + np.linspace(0.0, 1.0, 400)
    seen = [look_up(RA, DEC, mjd, **SITE.model_dump()) for mjd in when]
    east = np.array([one.parallacticAngle < 0.0 for one in seen]) == rising
    off = np.where(east, np.abs(np.array([one.airmass for one in seen]) - airmass), np.inf)
    best = int(np.nanargmin(off))
    return float(when[best]), Pointing(90.0 - seen[best].altitude, seen[best].parallacticAngle)


def picture(band, seed, airmass=1.8, stars=110, new=12, noise=20.0):
    """Return a field at `airmass` in the west, its template from three inputs at 1.05 to 1.2, and `new` transients."""
    rng = np.random.default_rng(seed)
    moment, science = times(airmass, False)
    chosen = [times(one, rising) for one, rising in ((1.05, True), (1.1, False), (1.2, True))]
    wcs = SkyWcs.tangent(RA, DEC, (SIZE / 2, SIZE / 2), SCALE, rotation=15.0)
    scene = Scene(band, science, [one[1] for one in chosen], noise=noise, wcs=wcs)
    middle = _spread(rng, stars + new)
    temperature = np.clip(np.exp(rng.normal(np.log(PIVOT_T), 0.35, stars)), 2500.0, 15000.0)
    flux = scene.error * np.exp(rng.uniform(np.log(30.0), np.log(1500.0), stars))
    planes = np.zeros((2, SIZE, SIZE))
    for place, kelvin, light in zip(middle[:stars], temperature, flux, strict=True):
        seen = scene.image(science, kelvin, place - np.round(place))
        before = np.mean([scene.image(one, kelvin, place - np.round(place)) for one in scene.template], axis=0)
        _paint(planes, place, light * np.array([seen, before]))
    for place in middle[stars:]:
        light = scene.error * rng.uniform(8.0, 40.0)
        _paint(planes, place, np.array([light * scene.image(science, PIVOT_T, place - np.round(place)), 0 * scene.x]))
    ra, dec = wcs.pixel_to_sky(*middle[:stars].T)
    ratio = 10.0 ** (0.4 * color_of(temperature))
    fluxes = {"g": flux, "r": flux * ratio} if band == "g" else {"g": flux / ratio, "r": flux, "u": flux}
    catalogue = ReferenceCatalogue(ra, dec, fluxes, {name: 0.01 * one for name, one in fluxes.items()})
    names = (science, PIVOT_T), (scene.template[1], PIVOT_T)
    exposures = [
        _exposure(rng, scene, band, plane, noise / np.sqrt(deep), mjd, scene.image(*name, (0.0, 0.0)))
        for plane, deep, mjd, name in zip(planes, (1.0, DEPTH), (moment, moment), names, strict=True)
    ]
    return Picture(*exposures, tuple((one[0], 1.0) for one in chosen), catalogue, *middle[stars:].T)


def _spread(rng, count):
    """Return places at least 25 pixels apart."""
    kept = np.zeros((0, 2))
    while len(kept) < count:
        place = rng.uniform(30.0, SIZE - 30.0, 2)
        if not len(kept) or np.hypot(*(kept - place).T).min() > 25.0:
            kept = np.concatenate([kept, place[None]])
    return kept


def _paint(planes, place, stamps):
    column, row = np.round(place).astype(int)
    planes[:, row - HALF : row + HALF + 1, column - HALF : column + HALF + 1] += stamps


def _exposure(rng, scene, band, plane, noise, mjd, stamp):
    variance = noise**2 + np.maximum(plane, 0.0) * noise**2 / 5e4
    return Exposure(
        info=ExposureInfo("sim", 1, 0, band, mjd, 30.0, RA, DEC, 20240101, "science", "0" * 64, "x.fits"),
        image=(plane + rng.normal(0.0, np.sqrt(variance))).astype(np.float32),
        mask=np.zeros(plane.shape, np.int32),
        variance=variance.astype(np.float32),
        unit="nJy",
        wcs=scene.wcs,
        psf=PsfModel((stamp / stamp.sum())[None].astype(np.float32), 0, SIZE, SIZE),
    )
