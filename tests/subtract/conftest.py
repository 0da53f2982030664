"""A synthetic pair of exposures with truth: Moffat stars, galaxies, transients of both signs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.masks import MaskPlane
from workers.imaging.psf import PsfModel
from workers.imaging.wcs import SkyWcs
from workers.subtract.pipeline import Subtraction, subtract
from workers.survey.config import SubtractConfig

Floats = NDArray[np.float64]
PSF_SIZE = 25  # pixels; fluxes mean what lies in this square


@dataclass(frozen=True)
class Scene:
    """Parameters of a pair; fluxes in electrons, widths in pixels."""

    size: int = 1024
    seed: int = 1
    stars: int = 600
    brightest: float = 3e6
    galaxies: int = 120
    transients: int = 170
    snr: tuple[float, float] = (5.0, 60.0)
    """Range of the transients' S/N against the sky, log-uniform."""
    negative: float = 0.33
    hosted: float = 0.3
    fwhm: float = 3.2
    template_fwhm: float = 2.7
    epochs: float = 8.0
    sky: float = 500.0
    gradient: float = 0.02
    offset: tuple[float, float] = (0.15, -0.1)
    saturation: float = 60000.0
    nJy: float = 20.0
    variables: float = 0.01
    correlated: float = 0.0
    """Share of each pixel's template noise that its right neighbour gets."""


@dataclass(frozen=True)
class Pair:
    science: Exposure
    template: Exposure
    x: Floats
    y: Floats
    flux: Floats
    """True flux of the transients, nJy on the science scale; negative: in the template only."""
    stars: Floats
    """Columns x, y, electrons, whether variable."""


@dataclass(frozen=True)
class Optics:
    """A Moffat PSF whose width and ellipticity vary over the field."""

    fwhm: float
    beta: float
    size: int

    def stamp(self, x: float, y: float, n: int, dx: float = 0.0, dy: float = 0.0) -> Floats:
        """The PSF at (x, y), shifted by (dx, dy), scaled to unit sum within PSF_SIZE."""
        u, v = 2 * x / self.size - 1, 2 * y / self.size - 1
        alpha = self.fwhm * (1 + 0.03 * u - 0.02 * v + 0.01 * u * v) / (2 * np.sqrt(2 ** (1 / self.beta) - 1))
        stretch = 0.015 * u

        def profile(size: int, sx: float, sy: float) -> Floats:
            axis = (np.arange(3 * size) - 1) / 3 - size // 2  # three samples per pixel
            r2 = np.add.outer(((axis - sy) * (1 - stretch)) ** 2, ((axis - sx) * (1 + stretch)) ** 2)
            return np.asarray((1 + r2 / alpha**2) ** -self.beta).reshape(size, 3, size, 3).sum(axis=(1, 3))

        return np.asarray(profile(n, dx, dy) / profile(PSF_SIZE, 0.0, 0.0).sum())

    def model(self) -> PsfModel:
        grid = np.linspace(0, self.size - 1, 5)
        x, y = (g.ravel() for g in np.meshgrid(grid, grid))
        stamps = np.array([self.stamp(a, b, PSF_SIZE) for a, b in zip(x, y, strict=True)])
        return PsfModel.fit(stamps, x, y, degree=2, width=self.size, height=self.size)

    def paint(self, image: Floats, x: Floats, y: Floats, electrons: Floats) -> None:
        for px, py, flux in zip(x, y, electrons, strict=True):
            n = 61 if flux > 1e4 else 31
            half, ix, iy = n // 2, round(px), round(py)
            stamp = flux * self.stamp(px, py, n, px - ix, py - iy)
            y0, y1 = max(iy - half, 0), min(iy + half + 1, len(image))
            x0, x1 = max(ix - half, 0), min(ix + half + 1, len(image))
            if y1 > y0 and x1 > x0:
                image[y0:y1, x0:x1] += stamp[y0 - iy + half : y1 - iy + half, x0 - ix + half : x1 - ix + half]


def build(scene: Scene) -> Pair:
    """Paint, add noise, saturate."""
    rng = np.random.default_rng(scene.seed)
    n = scene.size
    ours, theirs = Optics(scene.fwhm, 3.0, n), Optics(scene.template_fwhm, 3.3, n)
    science, template = np.zeros((n, n)), np.zeros((n, n))
    sx, sy = rng.uniform(-10, n + 10, (2, scene.stars))
    electrons = np.minimum(300.0 * rng.pareto(0.6, scene.stars) + 300.0, scene.brightest)
    variable = rng.random(scene.stars) < scene.variables
    gx, gy = rng.uniform(0, n, (2, scene.galaxies))
    light = np.minimum(2000.0 * rng.pareto(1.0, scene.galaxies) + 1000.0, 5e4)
    kx, ky = (np.repeat(g, 8) + rng.normal(0, 2.0, 8 * len(g)) for g in (gx, gy))
    dx, dy = scene.offset
    ours.paint(science, sx, sy, np.where(variable, 0.7, 1.0) * electrons)
    theirs.paint(template, sx + dx, sy + dy, electrons)
    ours.paint(science, kx, ky, np.repeat(light / 8, 8))
    theirs.paint(template, kx + dx, ky + dy, np.repeat(light / 8, 8))
    tx, ty, te = _transients(scene, rng, np.column_stack([sx, sy]), np.column_stack([gx, gy]))
    new = te > 0
    ours.paint(science, tx[new], ty[new], te[new])
    theirs.paint(template, tx[~new] + dx, ty[~new] + dy, -te[~new])
    yy, xx = np.mgrid[:n, :n] / n - 0.5
    gain = 1.0 + scene.gradient * (xx - 0.5 * yy)
    seen = _observed(scene, rng, science, gain, 1.0), _observed(scene, rng, template, np.ones((n, n)), scene.epochs)
    seen[0][0][...] += 30.0 * xx  # sky that the background model left
    wcs = SkyWcs.tangent(150.0, -30.0, (n / 2, n / 2), 0.25, rotation=20.0)
    info = ExposureInfo("sim", 4711, 3, "r", 60500.25, 30.0, 150.0, -30.0, 20240101, "science", "0" * 64, "x.fits")
    exposures = [
        Exposure(
            info=info,
            image=(image * scene.nJy).astype(np.float32),
            mask=np.where(saturated, int(MaskPlane.SATURATED), 0).astype(np.int32),
            variance=(variance * scene.nJy**2).astype(np.float32),
            unit="nJy",
            wcs=wcs,
            psf=optics.model(),
        )
        for (image, variance, saturated), optics in zip(seen, (ours, theirs), strict=True)
    ]
    there = 1.0 + scene.gradient * ((tx - n / 2) - 0.5 * (ty - n / 2)) / n
    return Pair(*exposures, tx, ty, te * there * scene.nJy, np.column_stack([sx, sy, electrons, variable]))


def _observed(
    scene: Scene, rng: np.random.Generator, light: Floats, gain: Floats, epochs: float
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Image less sky, variance plane as a pipeline would make it, saturated pixels."""
    expected = (light + scene.sky) * gain
    noise = rng.normal(size=light.shape) * np.sqrt((expected + 25.0) / epochs)
    if epochs > 1 and scene.correlated:
        noise = (noise + scene.correlated * np.roll(noise, 1, axis=1)) / np.hypot(1.0, scene.correlated)
    observed = expected + noise
    variance = np.maximum(observed if epochs == 1 else expected, 0.0) + 25.0
    saturated = observed > scene.saturation
    return np.minimum(observed, scene.saturation) - scene.sky * gain, variance / epochs, saturated


def _transients(
    scene: Scene, rng: np.random.Generator, stars: Floats, galaxies: Floats
) -> tuple[Floats, Floats, Floats]:
    """Positions and electrons; away from stars and each other, a share on galaxies."""
    trial = rng.uniform(25, scene.size - 25, (20 * scene.transients, 2))
    hosted = int(scene.hosted * scene.transients) if len(galaxies) else 0
    trial[:hosted] = galaxies[rng.integers(0, len(galaxies), hosted)] + rng.normal(0, 2, (hosted, 2))
    inside = np.all((trial > 25) & (trial < scene.size - 25), axis=1)
    trial = trial[inside & (cKDTree(stars).query(trial)[0] > 6)]
    near = cKDTree(trial).query_pairs(20)
    drop = {max(pair) for pair in near}
    place = trial[[i for i in range(len(trial)) if i not in drop]][: scene.transients]
    area = 4 * np.pi * (scene.fwhm / 2.355) ** 2 * 1.15
    sigma = np.sqrt((scene.sky + 25) * (1 + 1 / scene.epochs) * area)
    flux = sigma * np.exp(rng.uniform(*np.log(scene.snr), len(place)))
    return place[:, 0], place[:, 1], np.where(rng.random(len(place)) < scene.negative, -flux, flux)


Make = Callable[..., tuple[Pair, Subtraction]]


@pytest.fixture(scope="session")
def subtracted() -> Make:
    """Build and subtract a pair by its parameters, once per session."""
    made: dict[Scene, Any] = {}

    def make(**changes: Any) -> tuple[Pair, Subtraction]:
        scene = replace(Scene(), **changes)
        if scene not in made:
            pair = build(scene)
            made[scene] = pair, subtract(pair.science, pair.template, SubtractConfig())
        return made[scene]

    return make


@pytest.fixture(scope="session")
def small_pair() -> Pair:
    """320 pixels, no galaxies, few transients: for the paths that don't need statistics."""
    return build(Scene(size=320, stars=90, galaxies=0, transients=8, seed=7, snr=(20.0, 60.0), brightest=2e5))
