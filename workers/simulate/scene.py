"""What one detector looks at in one visit: every source at its pixel, with its electrons and its shape."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from workers.imaging.wcs import SkyWcs
from workers.simulate.asteroids import asteroid_positions, make_asteroids
from workers.simulate.cadence import Visit
from workers.simulate.optics import electrons_per_njy, true_wcs
from workers.simulate.profiles import POINT
from workers.simulate.render import Sources
from workers.simulate.settings import SimulatedSurvey
from workers.simulate.sky import Sky, make_sky, star_fluxes, transient_fluxes

__all__ = ["Population", "Scene", "make_scene"]

_Float = NDArray[np.float64]
_MARGIN = 60.0
"""pixels round the detector from which sources still shine in"""


@dataclass(frozen=True)
class Population:
    """Sources of one kind in or near the detector, with the rows that describe them."""

    rows: NDArray[np.void]
    ra: _Float
    dec: _Float
    x: _Float
    y: _Float
    flux: _Float
    """nJy at the epoch, outside the atmosphere."""

    def within(self, width: int, height: int, margin: float) -> Population:
        """Return those whose position is less than `margin` pixels outside the detector."""
        keep = (self.x > -0.5 - margin) & (self.x < width - 0.5 + margin)
        keep &= (self.y > -0.5 - margin) & (self.y < height - 0.5 + margin)
        return self.where(keep)

    def where(self, keep: NDArray[np.bool_]) -> Population:
        """Return those that the mask `keep` names."""
        return Population(*(getattr(self, item.name)[keep] for item in fields(self)))


@dataclass(frozen=True)
class Scene:
    """The populations, and all of them together as the renderer takes them."""

    stars: Population
    galaxies: Population
    transients: Population
    asteroids: Population
    wcs: SkyWcs
    """The true one."""
    sources: Sources


def make_scene(config: SimulatedSurvey, visit: Visit, detector: int) -> Scene:
    """Return what a science visit's detector looks at; positions by the true WCS, at the middle of the exposure."""
    sky, wcs, band = make_sky(config), true_wcs(config, visit, detector), config.bands.index(visit.band)
    asteroids = make_asteroids(config, visit.night_begin)
    places = {
        "stars": (sky.stars, sky.stars["ra"], sky.stars["dec"], star_fluxes(sky.stars, band, visit.midpoint)),
        "galaxies": (sky.galaxies, sky.galaxies["ra"], sky.galaxies["dec"], sky.galaxies["flux"][:, band]),
        "transients": _transients(sky, band, visit.midpoint),
        "asteroids": (
            asteroids,
            *asteroid_positions(asteroids, visit.night_begin, visit.midpoint),
            asteroids["flux"][:, band],
        ),
    }
    width, height = config.detectors.width, config.detectors.height
    populations = {}
    for name, (rows, ra, dec, flux) in places.items():
        x, y = wcs.sky_to_pixel(ra, dec)
        populations[name] = Population(rows, ra, dec, x, y, flux).within(width, height, _MARGIN)
    sources = _sources(config, visit, populations)
    return Scene(**populations, wcs=wcs, sources=sources)


def _transients(sky: Sky, band: int, mjd: float) -> tuple[NDArray[np.void], _Float, _Float, _Float]:
    rows = sky.transients
    return rows, rows["ra"], rows["dec"], transient_fluxes(rows, band, mjd)


def _sources(config: SimulatedSurvey, visit: Visit, populations: dict[str, Population]) -> Sources:
    """Join the populations, in their order, with shapes and trails."""
    parts = list(populations.values())
    count = [len(part.x) for part in parts]
    profile = np.full(sum(count), POINT, np.int64)
    shape, trail = np.zeros((sum(count), 3)), np.zeros((sum(count), 3))
    start = count[0]
    profile[start : start + count[1]] = populations["galaxies"].rows["profile"]
    shape[start : start + count[1]] = _galaxy_shapes(populations["galaxies"].rows, config.optics.pixel_scale)
    moving = populations["asteroids"].rows
    if len(moving):
        trail[-len(moving) :] = _trails(moving, visit.exposure_time, config.optics.pixel_scale)
    return Sources(
        x=np.concatenate([part.x for part in parts]),
        y=np.concatenate([part.y for part in parts]),
        electrons=np.concatenate([part.flux for part in parts]) * electrons_per_njy(config, visit),
        profile=profile,
        shape=shape,
        trail=trail,
    )


def _galaxy_shapes(galaxies: NDArray[np.void], scale: float) -> _Float:
    """Covariances (n, 3), pixels², at the half-light radius; east is left, so the angle turns towards -x."""
    angle = np.radians(galaxies["angle"])
    along = np.stack([-np.sin(angle), np.cos(angle)])
    across = np.stack([np.cos(angle), np.sin(angle)])
    major, minor = (galaxies["radius"] / scale) ** 2, (galaxies["radius"] * galaxies["axisRatio"] / scale) ** 2
    pairs = ((0, 0), (0, 1), (1, 1))
    return np.stack([major * along[i] * along[j] + minor * across[i] * across[j] for i, j in pairs], axis=-1)


def _trails(asteroids: NDArray[np.void], seconds: float, scale: float) -> _Float:
    """Covariances (n, 3), pixels², of a uniform motion of `seconds`: length² / 12 along it."""
    dx = -asteroids["rateEast"] * seconds / 60.0 / scale
    dy = asteroids["rateNorth"] * seconds / 60.0 / scale
    return np.stack([dx * dx, dx * dy, dy * dy], axis=-1) / 12.0
