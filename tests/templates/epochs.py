"""Simulated epochs of a cell: stars, some of them variable, galaxies and transients, with seeing of its own each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.signal import fftconvolve

SIDE, BORDER = 288, 16
_SKY, _GAIN = 5.0, 50.0
"""Noise of a pixel of dark sky, nJy, and nJy of light per nJy² of its variance."""
_STAMP, _SUB = 41, 5


def moffat(fwhm, beta, ellipticity, size, dx=0.0, dy=0.0):
    """Return a Moffat profile over `size` pixels, integrated over each, of unit sum."""
    alpha = fwhm / 2.0 / np.sqrt(2.0 ** (1.0 / beta) - 1.0)
    axis = (np.arange(size * _SUB) - (size * _SUB - 1) / 2.0) / _SUB
    x, y = np.meshgrid(axis - dx, axis - dy)
    fine = (1.0 + ((x * (1 + ellipticity)) ** 2 + (y * (1 - ellipticity)) ** 2) / alpha**2) ** -beta
    profile = fine.reshape(size, _SUB, size, _SUB).mean(axis=(1, 3))
    return profile / profile.sum()


def supernova(times, start, stretch):
    """Return a light curve of height 1: a rise of 18 days, a fall, a tail of 45 days; days are times `stretch`."""
    phase = (times - start) / stretch
    fall = np.exp(-0.5 * (phase / 16.0) ** 2) * 0.85 + 0.15
    last = np.exp(-0.5 * (25.0 / 16.0) ** 2) * 0.85 + 0.15
    tail = last * np.exp(-(phase - 25.0) / 45.0)
    rise = np.where(phase > -18.0, np.exp(-0.5 * (phase / 8.0) ** 2), 0.0)
    curve = np.where(phase < 0.0, rise, np.where(phase < 25.0, fall, tail))
    return np.where(curve < 0.01, 0.0, curve)


@dataclass
class Epochs:
    """`count` epochs of one cell with its border; `shift` and `error` are what registration and PSF models lack."""

    seed: int
    count: int = 12
    shift: float = 0.0
    """Of each epoch, rms pixels in x and in y."""
    error: float = 0.0
    """Of the FWHM and of the ellipticity, rms."""
    stars: list = field(default_factory=list)
    """(x, y, flux of each epoch)."""
    galaxies: list = field(default_factory=list)
    """(x, y, flux, scale, axis ratio, angle)."""
    transients: list = field(default_factory=list)
    """(x, y, flux of each epoch)."""

    def __post_init__(self):
        """Draw what each epoch is like."""
        self.rng = np.random.default_rng(self.seed)
        count = self.count
        self.fwhm = self.rng.uniform(2.6, 4.0, count)
        self.beta, self.shape = self.rng.uniform(2.7, 3.5, count), self.rng.normal(0, 0.03, count)
        self.sky = _SKY * self.rng.uniform(0.8, 1.4, count)
        self.times = np.sort(self.rng.uniform(0.0, 180.0, count))
        self.shifts = self.rng.normal(0.0, 1.0, (count, 2)) * self.shift
        self.errors = self.rng.normal(0.0, 1.0, (2, count)) * self.error
        self.psfs = np.stack([moffat(*one, 31) for one in zip(self.fwhm, self.beta, self.shape, strict=True)])
        self.weights = 1.0 / (self.sky * self.fwhm) ** 2

    def populate(self, stars=25, galaxies=25):
        """Add stars and galaxies at random places; fluxes are those of a survey's field, to 3e5 nJy."""
        for _ in range(stars):
            x, y = self.rng.uniform(5, SIDE - 5, 2)
            self.stars.append((x, y, np.full(self.count, 10 ** self.rng.uniform(2.5, 5.5))))
        for _ in range(galaxies):
            x, y = self.rng.uniform(5, SIDE - 5, 2)
            self.galaxies.append((x, y, 10 ** self.rng.uniform(3, 4.5), *self._shape()))

    def _shape(self):
        return self.rng.uniform(0.8, 3.0), self.rng.uniform(0.3, 1.0), self.rng.uniform(0.0, np.pi)

    def add_variable(self, x, y):
        """Put a star with a sine of a period of 0.5 to 300 days and 5 to 60 %; return its flux in each epoch."""
        flux, swing = 10 ** self.rng.uniform(3, 5.5), self.rng.uniform(0.05, 0.6)
        period = self.rng.choice([0.5, 3.0, 30.0, 300.0])
        curve = flux * (1.0 + swing * np.sin(2 * np.pi * (self.times / period + self.rng.uniform())))
        self.stars.append((x, y, curve))
        return curve

    def draw_supernova(self):
        """Return a light curve of height 1 that is in two to two thirds of the epochs."""
        while True:
            curve = supernova(self.times, self.rng.uniform(-5, 190), self.rng.uniform(0.5, 3.5))
            if 2 <= np.count_nonzero(curve) <= 2 * self.count // 3 and curve.max() > 0.6:
                return curve

    def add_host(self, x, y):
        """Put a galaxy here; return a place in it."""
        self.galaxies.append((x, y, 10 ** self.rng.uniform(3, 4.5), *self._shape()))
        return x + self.rng.normal(0, 1.5), y + self.rng.normal(0, 1.5)

    def add_transient(self, x, y, curve, significance):
        """Put a transient whose brightest epoch has this S/N, with the light that is there already; return its peak."""
        best = int(np.argmax(curve))
        _, variance = self._frame(best, [])
        psf = self.psfs[best]
        row, column = round(y) - 15, round(x) - 15
        noise = np.sqrt((psf**2 * variance[row : row + 31, column : column + 31]).sum()) / (psf**2).sum()
        self.transients.append((x, y, significance * noise * curve))
        return significance * noise * curve[best]

    def frames(self):
        """Return images and variances, float32 (count, SIDE, SIDE)."""
        images, variances = [], []
        for k in range(self.count):
            image, variance = self._frame(k, self.transients)
            images.append(image + self.rng.normal(0, 1, image.shape) * np.sqrt(variance))
            variances.append(variance)
        return np.array(images, np.float32), np.array(variances, np.float32)

    def _frame(self, k, transients):
        image = np.zeros((SIDE, SIDE))
        for galaxy in self.galaxies:
            self._add_disc(image, galaxy, k)
        image = fftconvolve(image, self._true_psf(k, 0.0, 0.0), mode="same")
        image += self.light([*self.stars, *transients], k)
        return image, self.sky[k] ** 2 + np.maximum(image, 0.0) / _GAIN

    def _add_disc(self, image, galaxy, k):
        """Add an exponential disc, integrated over each pixel, as it is before the seeing."""
        x0, y0, flux, scale, ratio, angle = galaxy
        x0, y0 = x0 + self.shifts[k, 0], y0 + self.shifts[k, 1]
        half = int(6 * scale) + 3
        rows, columns = (slice(max(round(at) - half, 0), min(round(at) + half + 1, SIDE)) for at in (y0, x0))
        y, x = (
            np.arange((cut.stop - cut.start) * _SUB) / _SUB + cut.start - 0.5 + 0.5 / _SUB for cut in (rows, columns)
        )
        dx, dy = np.meshgrid(x - x0, y - y0)
        u, v = dx * np.cos(angle) + dy * np.sin(angle), (dy * np.cos(angle) - dx * np.sin(angle)) / ratio
        disc = np.exp(-1.68 * np.hypot(u, v) / scale) * 1.68**2 / (2 * np.pi * ratio * scale**2)
        image[rows, columns] += flux * disc.reshape(len(y) // _SUB, _SUB, len(x) // _SUB, _SUB).mean(axis=(1, 3))

    def light(self, points, k):
        """Return the image of points (x, y, flux of each epoch) in epoch k, without noise."""
        image, half = np.zeros((SIDE, SIDE)), _STAMP // 2
        for x, y, curve in points:
            if curve[k] == 0.0:
                continue
            x, y = x + self.shifts[k, 0], y + self.shifts[k, 1]
            column, row = round(x), round(y)
            rows = slice(max(row - half, 0), min(row + half + 1, SIDE))
            columns = slice(max(column - half, 0), min(column + half + 1, SIDE))
            stamp = self._true_psf(k, x - column, y - row)
            cut = stamp[rows.start - row + half :, columns.start - column + half :]
            image[rows, columns] += curve[k] * cut[: rows.stop - rows.start, : columns.stop - columns.start]
        return image

    def _true_psf(self, k, dx, dy):
        fwhm, shape = self.fwhm[k] * (1.0 + self.errors[0, k]), self.shape[k] + self.errors[1, k]
        return moffat(fwhm, self.beta[k], shape, _STAMP, dx, dy)

    def template_flux(self, point, masked):
        """Return the point-source flux that a point has in the weighted mean of the epochs without masked pixels."""
        weights = self.weights[:, None, None] * ~masked
        mean = sum(weights[k] * self.light([point], k) for k in range(self.count)) / weights.sum(axis=0)
        psf = np.tensordot(self.weights / self.weights.sum(), self.psfs, axes=1)
        row, column = round(point[1]) - 15, round(point[0]) - 15
        return (mean[row : row + 31, column : column + 31] * psf).sum() / (psf**2).sum()
