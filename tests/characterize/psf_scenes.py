"""Detectors of stars whose PSF is known everywhere, with the traps that star selection meets, drawn fast."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit

NODES, WEIGHTS = np.polynomial.legendre.leggauss(5)
SKY, READ_NOISE, FULL = 600.0, 5.0, 120000.0


@dataclass(frozen=True)
class Shape:
    """A Moffat profile whose width and ellipticity vary over the detector, u and v from -1 to 1."""

    fwhm: float = 3.6
    beta: float = 3.0
    variation: float = 0.10
    """Of the width, from its least to its largest over the detector."""
    ellipticity: float = 0.04
    twist: float = 1.0
    coma: float = 0.0
    """FWHM by which a wider component, a fifth of the light, is off the first at the detector's edge."""

    def at(self, u, v):
        """FWHM, g1, g2 at scaled positions."""
        bowl = 0.25 * (u**2 + v**2) + 0.3 * self.twist * u - 0.2 * v + 0.06 * u**3
        width = self.fwhm * (1.0 + self.variation * 0.62 * (bowl - 0.17))
        g1 = self.ellipticity * (0.3 + 0.5 * u - 0.3 * v**2 + 0.2 * u * v)
        g2 = self.ellipticity * (-0.2 + 0.4 * v + 0.4 * u * v)
        return width, g1, g2

    def draw(self, image, x, y, flux, shape, reach, *, scale=1.0, g1=0.0, g2=0.0):
        """Add a source to an image whose detector has the `shape` (height, width), seen at (x, y) of it."""
        u, v = 2 * x / shape[1] - 1, 2 * y / shape[0] - 1
        self.draw_at(image, x, y, flux, (u, v), reach, scale=scale, g1=g1, g2=g2)

    def draw_at(self, image, x, y, flux, where, reach, *, scale=1.0, g1=0.0, g2=0.0):
        u, v = where
        fwhm, s1, s2 = self.at(u, v)
        common = (s1 + g1, s2 + g2, self.beta, reach, NODES, WEIGHTS)
        share = 0.2 if self.coma else 0.0
        add_moffat(image, x, y, flux * (1 - share), fwhm * scale, *common)
        if share:
            away = self.coma * fwhm
            add_moffat(image, x + away * (0.5 + u), y + away * v, flux * share, 1.4 * fwhm * scale, *common)


@dataclass
class Scene:
    image: np.ndarray
    """Sky-subtracted, electrons."""
    variance: np.ndarray
    usable: np.ndarray
    noise: np.ndarray
    shape: Shape
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    """Of the stars."""
    galaxies: np.ndarray
    """x and y."""
    blends: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))

    def stamps(self, x, y, size, phase=False):
        """True unit-flux stamps at positions: centred on the middle pixel, or with the position's pixel phase."""
        x, y = np.atleast_1d(x).astype(float), np.atleast_1d(y).astype(float)
        height, width = self.image.shape
        out = np.zeros((len(x), size, size))
        for i in range(len(x)):
            dx, dy = (x[i] - np.round(x[i]), y[i] - np.round(y[i])) if phase else (0.0, 0.0)
            where = 2 * x[i] / width - 1, 2 * y[i] / height - 1
            self.shape.draw_at(out[i], size // 2 + dx, size // 2 + dy, 1.0, where, size)
        return out


@njit(cache=True, nogil=True)
def add_moffat(image, x, y, flux, fwhm, g1, g2, beta, reach, nodes, weights):
    """Add a pixel-integrated Moffat of reduced shear (g1, g2): five nodes a pixel in the core, one far out."""
    height, width = image.shape
    a2 = (0.5 * fwhm) ** 2 / (2.0 ** (1.0 / beta) - 1.0)
    norm = flux * (beta - 1.0) / (np.pi * a2)
    shrink = 1.0 / (1.0 - g1 * g1 - g2 * g2)
    cx, cy = int(np.round(x)), int(np.round(y))
    core = (1.6 * fwhm + 2.0) ** 2
    for row in range(max(cy - reach, 0), min(cy + reach + 1, height)):
        for column in range(max(cx - reach, 0), min(cx + reach + 1, width)):
            dx, dy = column - x, row - y
            if dx * dx + dy * dy < core:
                total = 0.0
                for i in range(len(nodes)):
                    for j in range(len(nodes)):
                        px, py = dx + 0.5 * nodes[i], dy + 0.5 * nodes[j]
                        tx, ty = (1.0 - g1) * px - g2 * py, (1.0 + g1) * py - g2 * px
                        r2 = (tx * tx + ty * ty) * shrink
                        total += 0.25 * weights[i] * weights[j] * (1.0 + r2 / a2) ** -beta
            else:
                tx, ty = (1.0 - g1) * dx - g2 * dy, (1.0 + g1) * dy - g2 * dx
                total = (1.0 + (tx * tx + ty * ty) * shrink / a2) ** -beta
            image[row, column] += norm * total


def power_law(rng, number, faintest, brightest, slope):
    lo, hi = faintest**-slope, brightest**-slope
    return (lo + rng.random(number) * (hi - lo)) ** (-1 / slope)


def draw_scene(
    seed,
    size=4096,
    *,
    shape=None,
    stars=2000,
    galaxies=1500,
    blends=0.05,
    cosmics=300,
    faintest=2e3,
    brightest=3e6,
    slope=0.6,
    noise=1.0,
):
    """Draw one detector; the sky is flat and already subtracted, the variance is what a detector's own counts give."""
    rng = np.random.default_rng(seed)
    shape = Shape() if shape is None else shape
    expected = np.zeros((size, size))

    def add(x, y, flux, scale, g1, g2, reach):
        for i in range(len(x)):
            far = int(min(reach + 12 * np.log10(flux[i] / 1e3 + 1.0), 120))
            shape.draw(expected, x[i], y[i], flux[i], expected.shape, far, scale=scale[i], g1=g1[i], g2=g2[i])

    x, y = rng.uniform(-20, size + 20, (2, stars))
    flux = power_law(rng, stars, faintest, brightest, slope)
    none = np.zeros(stars)
    add(x, y, flux, np.ones(stars), none, none, 25)
    pairs = rng.choice(stars, int(blends * stars), replace=False)
    apart, angle = shape.fwhm * rng.uniform(0.3, 2.0, len(pairs)), rng.uniform(0, 2 * np.pi, len(pairs))
    bx, by = x[pairs] + apart * np.cos(angle), y[pairs] + apart * np.sin(angle)
    same = np.ones(len(pairs))
    add(bx, by, flux[pairs] * rng.uniform(0.05, 1.0, len(pairs)), same, none[pairs], none[pairs], 25)
    gx, gy = rng.uniform(0, size, (2, galaxies))
    spread = np.abs(rng.normal(0, 0.2, (2, galaxies)))
    sign = rng.choice([-1, 1], (2, galaxies))
    scale = 1.0 + rng.gamma(2.0, 0.35, galaxies) + 0.08
    add(gx, gy, power_law(rng, galaxies, faintest, 1e5, 0.8), scale, *np.clip(spread * sign, -0.5, 0.5), 25)
    return _observed(rng, expected, shape, (x, y, flux), np.c_[gx, gy], np.c_[bx, by], cosmics, noise)


def _observed(rng, expected, shape, stars, galaxies, blends, cosmics, scale):
    """Add noise, saturation and cosmic rays that nobody masked."""
    size = len(expected)
    total = expected + SKY
    counts = total + scale * np.sqrt(total) * rng.standard_normal(expected.shape, dtype=np.float32)
    counts += scale * READ_NOISE * rng.standard_normal(expected.shape, dtype=np.float32)
    hits = rng.integers(5, size - 5, (cosmics, 2))
    energy = 10 ** rng.uniform(2.3, 4.3, cosmics)
    for (row, column), electrons in zip(hits, energy, strict=True):
        run = rng.integers(1, 4)
        counts[row, column : column + run] += electrons / run
    saturated = counts > FULL
    usable = ~saturated
    variance = (np.maximum(counts, 0.0) + READ_NOISE**2).astype(np.float32)
    image = (np.minimum(counts, FULL) - SKY).astype(np.float32)
    noise = np.full(expected.shape, np.sqrt(SKY + READ_NOISE**2), np.float32)
    return Scene(image, variance, usable, noise, shape, *stars, galaxies, blends)
