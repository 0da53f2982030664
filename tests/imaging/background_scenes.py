"""Simulated fields whose sky is known at every pixel: stars with Moffat wings, Sersic galaxies, amplifier steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

READ_NOISE = 5.0
BETA = 2.5


@dataclass(frozen=True)
class Scene:
    """One field, electrons."""

    image: NDArray[np.float32]
    sky: NDArray[np.float32]
    """What a perfect background is: no light of any source, no amplifier step."""
    sigma: float
    """Noise of a sky pixel."""
    light: NDArray[np.float32]
    """Of the sources."""
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    steps: tuple[float, ...] = ()

    @property
    def blocked(self) -> NDArray[np.bool_]:
        return np.zeros(self.image.shape, bool)


@njit(cache=True, nogil=True)
def _paint(light: Any, x: Any, y: Any, flux: Any, alpha: float, least: float) -> None:  # pragma: no cover - compiled
    height, width = light.shape
    for i in range(len(x)):
        peak = flux[i] * 1.5 / (math.pi * alpha * alpha)
        reach = alpha * math.sqrt(max((peak / least) ** 0.4 - 1.0, 4.0))
        for row in range(max(int(y[i] - reach), 0), min(int(y[i] + reach) + 2, height)):
            for column in range(max(int(x[i] - reach), 0), min(int(x[i] + reach) + 2, width)):
                u = 1.0 + ((row - y[i]) ** 2 + (column - x[i]) ** 2) / (alpha * alpha)
                light[row, column] += peak / (u * u * math.sqrt(u))


def add_stars(light, rng, number, faint, bright, sigma, *, fwhm=4.0, slope=1.0):
    """Add stars of flux `faint` to `bright` (electrons), N(>F) ~ F^-slope; wings down to 0.0005 sigma."""
    height, width = light.shape
    low, high = (bright / faint) ** -slope, 1.0
    flux = faint * rng.uniform(low, high, number) ** (-1.0 / slope)
    alpha = 0.5 * fwhm / math.sqrt(2.0 ** (1.0 / BETA) - 1.0)
    # stars beyond the edge shine into the field, too
    x, y = rng.uniform(-50, width + 50, number), rng.uniform(-50, height + 50, number)
    _paint(light, x, y, flux, alpha, 5e-4 * sigma)


@njit(cache=True, nogil=True)
def _sersic(light: Any, x0: float, y0: float, radius: float, edge: float, n: float, ratio: float, scale: float) -> None:
    # pragma: no cover - compiled
    power = 1.0 / n
    b = 2.0 * n - 0.324
    c, s = math.cos(0.6), math.sin(0.6)
    base = (radius * scale) ** power
    for row in range(light.shape[0]):
        for column in range(light.shape[1]):
            dx, dy = column - x0, row - y0
            r = math.sqrt((dx * c + dy * s) ** 2 + ((dy * c - dx * s) / ratio) ** 2 + 0.5)
            light[row, column] += edge * math.exp(-b * (r**power - radius**power) / base)


def add_galaxy(light, x, y, radius, edge, n, *, ratio=0.7, scale=1 / 3):
    """Add a Sersic galaxy of brightness `edge` (electrons) at `radius` (pixels, major axis); R_e = scale x radius."""
    _sersic(light, float(x), float(y), float(radius), float(edge), float(n), ratio, scale)


def gradient(shape, level, amount=0.05):
    """Return a sky of `level` with a tilt and a bow of `amount` of it."""
    v, u = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    return (level * (1.0 + amount * (0.7 * u - 0.4 * v + 0.3 * (u * u - v * v) + 0.2 * u * v))).astype(np.float32)


def nebula(shape, rng, scale, amplitude):
    """Return smooth random structure of Gaussian correlation length `scale` / 2.35 pixels and rms `amplitude`."""
    from scipy import ndimage

    step = max(int(scale // 16), 1)
    small = rng.standard_normal([side // step + 64 for side in shape])
    small = ndimage.gaussian_filter(small, scale / 2.35 / step, mode="wrap")
    small *= amplitude / small.std()
    grid = [np.arange(side) / step + 16 for side in shape]
    return ndimage.map_coordinates(small, np.meshgrid(*grid, indexing="ij"), order=3).astype(np.float32)


def amplifiers(shape, across=8, down=2):
    """Return boxes (y0, y1, x0, x1) of a regular layout."""
    ys = np.linspace(0, shape[0], down + 1).astype(int)
    xs = np.linspace(0, shape[1], across + 1).astype(int)
    return tuple((int(ys[j]), int(ys[j + 1]), int(xs[i]), int(xs[i + 1])) for j in range(down) for i in range(across))


def observe(rng, sky, light, boxes=(), steps=()):
    """Return the scene as exposed: Poisson noise of sky and sources, read noise, a step per amplifier."""
    image = rng.poisson(sky + light).astype(np.float32)
    image += READ_NOISE * rng.standard_normal(image.shape, dtype=np.float32)
    for (y0, y1, x0, x1), step in zip(boxes, steps, strict=True):
        image[y0:y1, x0:x1] += np.float32(step)
    sigma = math.sqrt(float(np.median(sky)) + READ_NOISE**2)
    return Scene(image, sky, sigma, light, tuple(boxes), tuple(float(step) for step in steps))


def sky_noise(level):
    return math.sqrt(level + READ_NOISE**2)


def make(kind, *, size=4096, level=500.0, seed=0, amount=0.05, **options):
    """Return a scene: empty, plain, galaxy, mixed (a disc and a bulge), crowd, cluster, steps or nebula.

    Options: n, edge, radius of the galaxy; faint, slope, number of the stars; across: amplifiers; scale, rough of the
    nebula.
    """
    rng = np.random.default_rng(seed)
    shape, sigma = (size, size), sky_noise(level)
    light = np.zeros(shape, np.float32)
    sky = gradient(shape, level, 0.0 if kind == "empty" else amount)
    boxes, steps = (), ()
    area = (size / 4096) ** 2
    if kind == "crowd":
        number = int(options.get("number", 100_000) * area)
        faint = options.get("faint", 3.0) * 6.0 * sigma
        add_stars(light, rng, number, faint, 2e4 * 6.0 * sigma, sigma, slope=options.get("slope", 1.0))
    elif kind != "empty":
        add_stars(light, rng, int(10_000 * area), 30.0 * sigma, 1e5 * sigma, sigma)
    if kind == "galaxy":
        radius = options.get("radius", 300.0)
        add_galaxy(light, 0.47 * size, 0.52 * size, radius, options.get("edge", 0.5) * sigma, options.get("n", 4.0))
    if kind == "mixed":
        add_galaxy(light, 0.47 * size, 0.52 * size, 300.0, 0.5 * sigma, 1.0, ratio=0.4)
        add_galaxy(light, 0.47 * size, 0.52 * size, 300.0, 0.1 * sigma, 4.0, ratio=0.95)
    if kind == "cluster":
        number, middle = options.get("number", 25_000), 0.5 * size
        flux = 18.0 * sigma * rng.uniform(1.5e-4, 1.0, number) ** -1.0
        alpha = 2.0 / math.sqrt(2.0 ** (1.0 / BETA) - 1.0)
        _paint(light, *(middle + 300.0 * rng.standard_normal((2, number))), flux, alpha, 5e-4 * sigma)
    if kind == "steps":
        boxes = amplifiers(shape, options.get("across", 8))
        steps = rng.choice([-1.0, 1.0], len(boxes)) * rng.uniform(0.05, 0.5, len(boxes)) * sigma
        steps -= steps.mean()
    if kind == "nebula":
        sky = sky + np.maximum(
            nebula(shape, rng, options.get("scale", 300.0), options.get("rough", 0.5) * sigma), -0.5 * level
        )
    return observe(rng, sky, light, boxes, steps)


def with_image(scene, image):
    return replace(scene, image=image)
