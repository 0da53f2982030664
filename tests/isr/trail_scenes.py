"""Detectors of a realistic sky, drawn fast, with trails of known path, width and brightness."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numba import njit

from workers.imaging.masks import MaskPlane

SKY, NOISE, FULL = 400.0, 20.6, 120000.0


@dataclass(frozen=True)
class TrueTrail:
    """From (x0, y0) to (x1, y1) with a sagitta (pixels); peak in sigma of the sky per pixel; kind of profile."""

    x0: float
    y0: float
    x1: float
    y1: float
    sagitta: float = 0.0
    fwhm: float = 3.0
    peak: float = 0.5
    kind: str = "gauss"
    dashes: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    """Lit shares of the path."""


@dataclass
class Detector:
    image: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    boxes: list = field(default_factory=list)


def amplifiers(size, columns=8, rows=2):
    edges_x = np.linspace(0, size, columns + 1).astype(int)
    edges_y = np.linspace(0, size, rows + 1).astype(int)
    return [(y0, y1, x0, x1) for y0, y1 in pairwise(edges_y) for x0, x1 in pairwise(edges_x)]


def random_line(rng, size, margin=0.0):
    """Ends of a line through a random point of the detector at a random angle, where it leaves the detector."""
    px, py = rng.uniform(margin * size, (1 - margin) * size, 2)
    angle = rng.uniform(0, np.pi)
    return chord(px, py, angle, size)


def chord(px, py, angle, size):
    dx, dy = np.cos(angle), np.sin(angle)
    lows, highs = [], []
    for p, d in ((px, dx), (py, dy)):
        if abs(d) > 1e-12:
            a, b = sorted((((-0.5) - p) / d, (size - 0.5 - p) / d))
            lows.append(a)
            highs.append(b)
    a, b = max(lows), min(highs)
    return px + a * dx, py + a * dy, px + b * dx, py + b * dy


def detector(seed, size=4096, density=1.0, galaxies=1.0, steps=0.1, gradient=0.05, giant=None, columns=8, defects=True):
    """Draw a detector: `density` times 8000 stars on 4096 x 4096, and the rest."""
    rng = np.random.default_rng(seed)
    share = (size / 4096) ** 2
    image = np.zeros((size, size), np.float32)
    fwhm = rng.uniform(3.0, 6.0)
    sources(rng, image, share, density, galaxies, fwhm)
    if giant if giant is not None else rng.random() < 0.2:
        x, y = rng.uniform(0, size, 2)
        draw_galaxy(
            image,
            x,
            y,
            10 ** rng.uniform(6.3, 7.3),
            rng.uniform(60, 300),
            rng.uniform(0.4, 1),
            rng.uniform(0, 3.1),
            4.0,
        )
    image += SKY
    y, x = _axes(size)
    angle, bow = rng.uniform(0, 2 * np.pi), rng.normal(0, 1)
    image += np.float32(SKY * gradient) * (
        np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y + np.float32(0.3 * bow) * (x * x + y * y)
    )
    variance = image + np.float32(NOISE**2 - SKY)
    image += np.sqrt(np.maximum(variance, 1)) * rng.standard_normal((size, size), dtype=np.float32)
    mask = np.zeros((size, size), np.int32)
    saturate(image, mask)
    boxes = amplifiers(size, columns)
    for y0, y1, x0, x1 in boxes:
        image[y0:y1, x0:x1] += np.float32(rng.normal(0, steps * NOISE))
    if defects:
        bad_columns(rng, image, mask, share)
        cosmic_rays(rng, image, mask, share)
    return Detector(image, np.maximum(variance, 1).astype(np.float32), mask, boxes)


def _axes(size):
    line = np.linspace(-1, 1, size, dtype=np.float32)
    return line[:, None], line[None, :]


def sources(rng, image, share, density, galaxies, fwhm):
    size = image.shape[0]
    count = rng.poisson(8000 * share * density)
    flux = 300.0 * rng.random(count) ** (-1 / 0.75)
    flux = np.minimum(flux, 3e8)
    spot = rng.uniform(-100, size + 100, (count, 2))
    draw_stars(image, spot[:, 0], spot[:, 1], flux, fwhm)
    angle = rng.uniform(0, np.pi / 2)
    for index in np.nonzero(flux > 3e6)[0]:
        draw_spikes(image, spot[index, 0], spot[index, 1], flux[index], angle, fwhm)
    for _ in range(rng.poisson(3000 * share * galaxies)):
        radius = min(2.0 * rng.random() ** -0.4, 60.0)
        bright = 400 * rng.random() ** -0.9 * radius**1.2
        draw_galaxy(
            image,
            *rng.uniform(0, size, 2),
            min(bright, 3e6),
            radius,
            max(rng.random(), 0.1),
            rng.uniform(0, np.pi),
            1.0,
        )


def saturate(image, mask):
    full = image > FULL
    if not full.any():
        return
    for column in np.nonzero(full.any(axis=0))[0]:
        excess = float((image[full[:, column], column] - FULL).sum())
        rows = np.nonzero(full[:, column])[0]
        reach = int(min(excess / FULL, 1500)) // 2
        low, high = max(rows[0] - reach, 0), min(rows[-1] + reach + 1, len(image))
        image[low:high, column] = FULL
        mask[low:high, column] |= int(MaskPlane.SATURATED)
        # the ends of a bleed are not full
        for edge in (low - 1, high):
            if 0 <= edge < len(image):
                image[edge, column] += 0.3 * FULL
    image[full] = FULL
    mask[full] |= int(MaskPlane.SATURATED)


def bad_columns(rng, image, mask, share):
    size = image.shape[0]
    for turned in (False, False, False, True):
        plane, bits = (image.T, mask.T) if turned else (image, mask)
        for _ in range(rng.poisson(3 if not turned else 1)):
            x, width = rng.integers(0, size - 4), rng.integers(1, 4)
            y0 = rng.integers(0, size) if rng.random() < 0.6 else 0
            y1 = size if rng.random() < 0.7 else rng.integers(y0, size)
            plane[y0:y1, x : x + width] += np.float32(NOISE * rng.choice([-1, 1, 1]) * 10 ** rng.uniform(-0.7, 2))
            if rng.random() < 0.6:
                bits[y0:y1, x : x + width] |= int(MaskPlane.BAD)


def cosmic_rays(rng, image, mask, share):
    size = image.shape[0]
    for _ in range(rng.poisson(400 * share)):
        x, y = rng.uniform(0, size, 2)
        length, angle = min(3 * rng.random() ** -0.8, 200), rng.uniform(0, np.pi)
        t = np.arange(0, length, 0.7)
        xs, ys = (x + t * np.cos(angle)).astype(int), (y + t * np.sin(angle)).astype(int)
        ok = (xs >= 0) & (ys >= 0) & (xs < size) & (ys < size)
        image[ys[ok], xs[ok]] += np.float32(rng.uniform(200, 3000))
        if rng.random() < 0.95:
            mask[ys[ok], xs[ok]] |= int(MaskPlane.CR)


def add_trail(scene, trail, rng):
    """Add the trail with its own photon noise."""
    draw_trail(scene.image, trail, rng)


def profile(kind, fwhm):
    """Profile across on steps of 0.1 pixel, peak 1, and its reach in pixels."""
    reach = 3.0 * fwhm + 8
    u = np.arange(-reach, reach + 0.05, 0.1)
    if kind == "gauss":
        return np.exp(-4 * np.log(2) * (u / fwhm) ** 2), reach
    if kind == "moffat":
        return (1 + (2 * u / fwhm) ** 2 * (2 ** (1 / 3.0) - 1)) ** -3.0, reach
    outer = fwhm / 2
    inner = 0.5 * outer  # a defocused pupil seen edge-on: a ring's shadow, two peaks
    ring = np.sqrt(np.maximum(outer**2 - u**2, 0)) - np.sqrt(np.maximum(inner**2 - u**2, 0))
    seeing = np.exp(-4 * np.log(2) * (np.arange(-12, 12.05, 0.1) / 4.0) ** 2)
    ring = np.convolve(ring, seeing, mode="same")
    return ring / ring.max(), reach


def draw_trail(image, trail, rng):
    shape, reach = profile(trail.kind, trail.fwhm)
    add = np.zeros_like(image)
    dashes = np.array(trail.dashes, float)
    _draw_path(add, trail.x0, trail.y0, trail.x1, trail.y1, trail.sagitta, shape, reach, dashes)
    lit = add > 0
    light = add[lit] * np.float32(trail.peak * NOISE)
    image[lit] += light + np.sqrt(light) * rng.standard_normal(light.size, dtype=np.float32)


@njit(cache=True)
def _draw_path(add, x0, y0, x1, y1, sagitta, shape, reach, dashes):
    height, width = add.shape
    dx, dy = x1 - x0, y1 - y0
    long = np.sqrt(dx * dx + dy * dy)
    tx, ty = dx / long, dy / long
    for y in range(height):
        # only the pixels near the chord of this row
        if abs(ty) > 1e-6:
            t = (y - y0) / ty
            centre = x0 + t * tx
            room = (reach + abs(sagitta) + 2) / abs(ty)
            low, high = int(max(centre - room, 0)), int(min(centre + room + 1, width))
        else:
            low, high = 0, width
        for x in range(low, high):
            s = ((x - x0) * tx + (y - y0) * ty) / long
            if s < 0 or s > 1:
                continue
            slope = 4 * sagitta * (1 - 2 * s) / long
            u = (-(x - x0) * ty + (y - y0) * tx - 4 * sagitta * s * (1 - s)) / np.sqrt(1 + slope * slope)
            if abs(u) >= reach:
                continue
            lit = False
            for k in range(len(dashes)):
                if dashes[k, 0] <= s <= dashes[k, 1]:
                    lit = True
            if lit:
                add[y, x] = shape[int((u + reach) * 10)]


def draw_stars(image, xs, ys, flux, fwhm):
    _stars(image, xs, ys, flux, fwhm)


@njit(cache=True)
def _stars(image, xs, ys, flux, fwhm):
    height, width = image.shape
    scale = (0.5 * fwhm) ** 2 / (2 ** (1 / 3.0) - 1)
    for k in range(len(xs)):
        peak = flux[k] * 2.0 / (np.pi * scale)
        # an aureole of r^-2.5 holds a few per cent
        reach = max((peak / 0.3) ** (1 / 6.0) * np.sqrt(scale), (2e-4 * flux[k] / 0.3) ** 0.4 if flux[k] > 1e5 else 0.0)
        reach = min(reach + 3, 700.0)
        for y in range(max(int(ys[k] - reach), 0), min(int(ys[k] + reach) + 1, height)):
            for x in range(max(int(xs[k] - reach), 0), min(int(xs[k] + reach) + 1, width)):
                r2 = (x - xs[k]) ** 2 + (y - ys[k]) ** 2
                value = peak / (1 + r2 / scale) ** 3
                if flux[k] > 1e5:
                    value += 2e-4 * flux[k] / (r2 + 100.0) ** 1.25
                image[y, x] += value


def draw_spikes(image, x, y, flux, angle, fwhm):
    for arm in range(4):
        _spike(image, x, y, flux, angle + arm * np.pi / 2, fwhm)


@njit(cache=True)
def _spike(image, x0, y0, flux, angle, fwhm):
    height, width = image.shape
    tx, ty = np.cos(angle), np.sin(angle)
    sigma = fwhm / 2.355
    top = 0.0025 * flux * 8.0 / (sigma * 2.5066)
    reach = min(np.sqrt(top / 0.3), 3000.0)
    t = 0.0
    while t < reach:
        cx, cy = x0 + t * tx, y0 + t * ty
        bright = top / (t + 8.0) ** 2
        # spread over the pixels of the row or column across
        half = int(4 * sigma) + 1
        if abs(tx) > abs(ty):
            column = int(np.floor(cx + 0.5))
            if 0 <= column < width:
                centre = y0 + (column - x0) * ty / tx
                for row in range(int(centre) - half, int(centre) + half + 1):
                    if 0 <= row < height:
                        u = (row - centre) * abs(tx)
                        image[row, column] += bright * np.exp(-0.5 * (u / sigma) ** 2)
            t += 1.0 / abs(tx)
        else:
            row = int(np.floor(cy + 0.5))
            if 0 <= row < height:
                centre = x0 + (row - y0) * tx / ty
                for column in range(int(centre) - half, int(centre) + half + 1):
                    if 0 <= column < width:
                        u = (column - centre) * abs(ty)
                        image[row, column] += bright * np.exp(-0.5 * (u / sigma) ** 2)
            t += 1.0 / abs(ty)


def draw_galaxy(image, x, y, flux, radius, ratio, angle, index):
    _galaxy(image, x, y, flux, radius, max(ratio, 0.1), angle, index)


@njit(cache=True)
def _galaxy(image, x0, y0, flux, radius, ratio, angle, index):
    height, width = image.shape
    b = 1.678 if index == 1.0 else 7.669
    # total flux of the profile exp(-b (r/re)^(1/n))
    norm = 2 * np.pi * radius * radius * ratio * index * b ** (-2 * index) * (1.0 if index == 1.0 else 5040.0)
    level = flux / norm
    reach = radius * (max(np.log(max(level / 0.2, 1.01)), 0.1) / b) ** index
    reach = min(reach, 2500.0) + 2
    c, s = np.cos(angle), np.sin(angle)
    for y in range(max(int(y0 - reach), 0), min(int(y0 + reach) + 1, height)):
        for x in range(max(int(x0 - reach), 0), min(int(x0 + reach) + 1, width)):
            u = (x - x0) * c + (y - y0) * s
            v = (-(x - x0) * s + (y - y0) * c) / ratio
            r = np.sqrt(u * u + v * v + 0.5)
            if r > reach:
                continue
            image[y, x] += level * np.exp(-b * (r / radius) ** (1 / index))
