"""Star fields with galaxies and particle tracks, electron by electron, and how well a mask finds the tracks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.ndimage import binary_dilation, label

READ_NOISE, FULL = 6.0, 95000.0
KINDS = ("straight", "diffuse", "worm", "single")


@dataclass(frozen=True)
class Scene:
    """What the detector saw, and the truth; electrons."""

    image: np.ndarray
    variance: np.ndarray
    blocked: np.ndarray
    light: np.ndarray
    tracks: dict[str, np.ndarray]
    """Charge of the particles by kind."""
    stars: np.ndarray
    """x, y, flux."""

    @property
    def noise(self) -> np.ndarray:
        """One sigma of each pixel without the particles."""
        return np.sqrt(self.light + READ_NOISE**2)

    @property
    def charge(self) -> np.ndarray:
        return sum(self.tracks.values(), np.zeros(self.light.shape))


@njit(cache=True)
def add_star(image, x, y, flux, fwhm, beta=3.0, half=20, fine=3):
    """Add a Moffat star (beta 100 is all but a Gaussian) integrated over `fine`² points per pixel."""
    area = (fwhm / 2) ** 2 / (2 ** (1 / beta) - 1)
    scale = flux * (beta - 1) / (np.pi * area) / fine**2
    for row in range(max(0, round(y) - half), min(image.shape[0], round(y) + half + 1)):
        for column in range(max(0, round(x) - half), min(image.shape[1], round(x) + half + 1)):
            total = 0.0
            for j in range(fine):
                for i in range(fine):
                    dx, dy = column + (i + 0.5) / fine - 0.5 - x, row + (j + 0.5) / fine - 0.5 - y
                    total += (1 + (dx * dx + dy * dy) / area) ** -beta
            image[row, column] += scale * total


def add_galaxy(image, rng, x, y, flux, fwhm):
    """Add a bulge and an inclined disc of clumps."""
    size, ratio, turn = rng.uniform(1, 8), rng.uniform(0.3, 1), rng.uniform(0, np.pi)
    add_star(image, x, y, 0.3 * flux, np.hypot(fwhm, 0.6 * size), 2.5, 20, 1)
    radii, angles = size * rng.gamma(2, 0.6, 12), rng.uniform(0, 2 * np.pi, 12)
    u, v = radii * np.cos(angles), ratio * radii * np.sin(angles)
    for dx, dy in zip(u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn), strict=True):
        add_star(image, x + dx, y + dy, 0.7 * flux / 12, np.hypot(fwhm, size), 3.0, 16, 1)


def tracks_of(rng, shape, count, kind="straight"):
    """Electrons of `count` particles.

    Straight tracks have random directions, 1 pixel plus an exponential length of mean 6, and 250 electrons per pixel
    of path with log-normal scatter of 0.6; diffuse ones the same, spread by 0.35 pixel; worms wander, are spread by
    0.3 to 0.7 pixel and have 750 electrons per pixel; single ones are one pixel of 160 to 8000.
    """
    charge = np.zeros(shape)
    height, width = shape
    for _ in range(count):
        x, y, angle = rng.uniform(-0.5, width - 0.5), rng.uniform(-0.5, height - 0.5), rng.uniform(0, 2 * np.pi)
        if kind == "single":
            charge[round(y), round(x)] += 10 ** rng.uniform(2.2, 3.9)
            continue
        density = 250 * np.exp(0.6 * rng.standard_normal())
        length = 5 + rng.exponential(15) if kind == "worm" else 1 + rng.exponential(6)
        points = int((60 if kind == "worm" else 20) * length) + 2
        step = length / points
        if kind == "worm":
            density *= 3
            angle = angle + np.cumsum(rng.normal(0, 0.056, points))
        xs = x + np.cumsum(np.broadcast_to(np.cos(angle), points)) * step
        ys = y + np.cumsum(np.broadcast_to(np.sin(angle), points)) * step
        if kind != "straight":
            spread = 0.35 if kind == "diffuse" else rng.uniform(0.3, 0.7)
            xs, ys = xs + rng.normal(0, spread, points), ys + rng.normal(0, spread, points)
        xs, ys = np.rint(xs).astype(int), np.rint(ys).astype(int)
        inside = (xs >= 0) & (xs < width) & (ys >= 0) & (ys < height)
        np.add.at(charge, (ys[inside], xs[inside]), density * step)
    return charge


def observed(rng, electrons):
    """Return the noisy image and its variance, float32."""
    image = rng.poisson(electrons) + rng.normal(0, READ_NOISE, electrons.shape)
    return image.astype(np.float32), (np.maximum(image, 0) + READ_NOISE**2).astype(np.float32)


def make_scene(seed, size=4096, sky=500.0, fwhm=3.5, beta=3.0, kinds=KINDS, crowding=1.0):
    """Return 6000 stars up to saturation, 4000 galaxies and 1500 tracks and their kin per 4096² pixels."""
    rng = np.random.default_rng(seed)
    share = size * size / 4096**2
    light = sky * (1 + 0.05 * np.arange(size) / size - 0.03 * np.arange(size)[:, None] / size)
    count = round(6000 * share * crowding)
    places, fluxes = rng.uniform(-10, size + 10, (count, 2)), 10 ** np.minimum(2.6 + rng.exponential(0.75, count), 7.0)
    for (x, y), flux in zip(places, fluxes, strict=True):
        faint = flux < 1e5
        add_star(light, x, y, flux, fwhm, beta, 20 if faint else 60, 3 if flux < 3e4 else 5)
    for _ in range(round(4000 * share)):
        add_galaxy(light, rng, *rng.uniform(0, size, 2), 10 ** rng.uniform(3, 5.2), fwhm)
    numbers = {"straight": 1500, "diffuse": 375, "worm": 60, "single": 300}
    tracks = {kind: tracks_of(rng, light.shape, round(numbers[kind] * share), kind) for kind in kinds}
    image, variance = observed(rng, light + sum(tracks.values(), np.zeros(light.shape)))
    image = np.minimum(image, np.float32(1.05 * FULL))
    return Scene(image, variance, image >= FULL, light, tracks, np.column_stack([places, fluxes]))


def star_grid(seed, fwhm, beta, size=360, sky=300.0, pitch=32):
    """Return image, variance and x, y, flux of stars at random phases, 500 electrons up to a full well at the peak."""
    rng = np.random.default_rng(seed)
    light, stars = np.full((size, size), sky), []
    for y in np.arange(20, size - 20, pitch):
        for x in np.arange(20, size - 20, pitch):
            flux = min(10 ** rng.uniform(2.7, 6.5), FULL * 1.13 * fwhm**2)
            stars.append((x + rng.uniform(-3, 3), y + rng.uniform(-3, 3), flux))
            add_star(light, *stars[-1], fwhm, beta, 18 if flux < 1e5 else 40, 5 if fwhm < 3 else 3)
    return *observed(rng, light), np.array(stars)


def found_share(scene, hits, sigma=4.0, kind=None):
    """Share of unblocked pixels with more than `sigma` of charge that are hits."""
    charge = scene.charge if kind is None else scene.tracks[kind]
    return float(hits[(charge > sigma * scene.noise) & ~scene.blocked].mean())


def found_tracks(scene, hits, kind="straight", sigma=4.0):
    """Share of the groups of pixels of more than `sigma` of charge with a hit in them."""
    groups, count = label((scene.tracks[kind] > sigma * scene.noise) & ~scene.blocked, np.ones((3, 3)))
    return len(np.unique(groups[hits & (groups > 0)])) / count


def wrong_share(scene, hits, sigma=1.0):
    """Share of the hits with less than `sigma` of charge."""
    return float((hits & (scene.charge < sigma * scene.noise)).sum() / hits.sum())


def eaten_stars(hits, stars, reach=1, charge=None):
    """Number of stars with a hit within `reach` pixels of the centre; with `charge`, of hits with none around."""
    wrong = hits if charge is None else hits & ~binary_dilation(charge > 0, np.ones((3, 3)))
    inside = (np.rint(stars[:, :2]) >= 0).all(axis=1) & (np.rint(stars[:, :2]) < hits.shape[::-1]).all(axis=1)
    x, y = np.rint(stars[inside, :2]).astype(int).T
    steps = range(-reach, reach + 1)
    rows, columns = hits.shape
    near = [wrong[np.clip(y + j, 0, rows - 1), np.clip(x + i, 0, columns - 1)] for j in steps for i in steps]
    return int(np.any(near, axis=0).sum())
