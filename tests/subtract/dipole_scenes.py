"""Differences with truth for the dipole fits: a grid of cells, each with one star, galaxy or transient.

Science and template are drawn with their own Moffat PSFs and noise; the difference is science minus a template matched
to the science image's PSF without error, its noise the science image's and what the template adds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal
from scipy.spatial import cKDTree

from schemas import table_dtype
from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.photometry import psf_centroids, psf_fluxes
from workers.imaging.psf import PsfModel
from workers.imaging.wcs import SkyWcs
from workers.subtract.detect import PEAK_DTYPE
from workers.subtract.dipole import pair_lobes
from workers.subtract.dipoles import dipole_candidates, measure_dipoles
from workers.subtract.measure import blank_rows

Floats = NDArray[np.float64]
CELL, PSF_SIZE, SKY, READ = 64, 41, 500.0, 25.0
FWHM, BETA, TEMPLATE_FWHM, TEMPLATE_BETA = 4.4, 3.0, 3.2, 3.3
THRESHOLD = 5.0


@dataclass
class Light:
    """Point sources: cell, offset from the cell's middle in science and template (pixels), electrons in each."""

    cell: NDArray[np.integer]
    x: Floats
    y: Floats
    science: Floats
    dx: Floats
    """Where the template has it, less where the science image has it."""
    dy: Floats
    template: Floats


@dataclass
class Field:
    """Exposures in nJy (one per electron), and the score."""

    difference: Exposure
    science: Exposure
    template: Exposure
    score: NDArray[np.float32]
    cells: int
    """Along a side."""


def moffat(fwhm: float, beta: float, x: Floats, y: Floats, size: int = PSF_SIZE) -> Floats:
    """Stamps (m, size, size), averaged over pixels, centred (x, y) from the middle; unit sum in the infinite plane."""
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    axis = (np.arange(3 * size) - 1) / 3 - size // 2
    r2 = np.square(axis[None, :, None] - y[:, None, None]) + np.square(axis[None, None, :] - x[:, None, None])
    fine = (beta - 1) / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -beta
    return fine.reshape(len(x), size, 3, size, 3).mean(axis=(2, 4))


def model(fwhm: float, beta: float, side: int) -> PsfModel:
    zero = np.zeros(1)
    stamp = moffat(fwhm, beta, zero, zero)
    return PsfModel((stamp / stamp.sum()).astype(np.float32), 0, side, side)


@dataclass(frozen=True)
class Setting:
    """How the template differs from the science image."""

    depth: float = 9.0
    """Exposures in it."""
    through: float = 0.15
    """Share of its variance that its matching kernel leaves."""
    offset: float = 0.0
    """Pixels along x by which it is out of place as a whole, which the matching kernel takes out."""
    scale: float = 1.0
    """Of its fluxes, which the kernel takes out too."""


def draw(side: int, light: Light, optics: tuple[float, float], which: str) -> Floats:
    """An image of `side` x `side` cells with the sources as science or template have them, seen through `optics`."""
    image = np.zeros((side * CELL, side * CELL))
    moved = which == "template"
    electrons = light.template if moved else light.science
    x, y = (light.x + light.dx, light.y + light.dy) if moved else (light.x, light.y)
    half = PSF_SIZE // 2
    norm = moffat(*optics, np.zeros(1), np.zeros(1)).sum()
    column, row = np.round(x).astype(int), np.round(y).astype(int)
    for first in range(0, len(x), 500):
        part = slice(first, first + 500)
        stamps = moffat(*optics, (x - column)[part], (y - row)[part]) * (electrons[part] / norm)[:, None, None]
        left = light.cell[part] % side * CELL + CELL // 2 + column[part] - half
        top = light.cell[part] // side * CELL + CELL // 2 + row[part] - half
        for stamp, i, j in zip(stamps, top, left, strict=True):
            image[i : i + PSF_SIZE, j : j + PSF_SIZE] += stamp
    return image


def field(light: Light, cells: int, rng: np.random.Generator, setting: Setting = Setting()) -> Field:
    """Expose `cells` cells, one after the other in a square."""
    side, depth = int(np.ceil(np.sqrt(cells))), setting.depth
    ours, theirs = (FWHM, BETA), (TEMPLATE_FWHM, TEMPLATE_BETA)
    seen, matched = draw(side, light, ours, "science"), draw(side, light, ours, "template")
    deep = setting.scale * draw(side, replace(light, dx=light.dx + setting.offset), theirs, "template")
    shape = seen.shape
    noise = rng.normal(size=shape) * np.sqrt(seen + SKY + READ)
    science = seen + noise
    template = deep + rng.normal(size=shape) * np.sqrt((deep + SKY + READ) / depth)
    added = (matched + SKY + READ) / depth * setting.through
    difference = seen - matched + noise + rng.normal(size=shape) * np.sqrt(added)
    variance = np.maximum(science + SKY, 0.0) + READ
    wcs = SkyWcs.tangent(150.0, -30.0, (shape[1] / 2, shape[0] / 2), 0.25, rotation=20.0)
    info = ExposureInfo("sim", 4711, 3, "r", 60500.25, 30.0, 150.0, -30.0, 20240101, "science", "0" * 64, "x.fits")

    def exposure(image: Floats, spread: Floats, optics: tuple[float, float]) -> Exposure:
        planes = image.astype(np.float32), np.zeros(shape, np.int32), spread.astype(np.float32)
        return Exposure(info, *planes, unit="nJy", wcs=wcs, psf=model(*optics, shape[0]))

    out = exposure(difference, variance + added, ours)
    psf = out.need_psf().stamps(0, 0)[0][::-1, ::-1]
    score = signal.oaconvolve(difference, psf, mode="same")
    score /= np.sqrt(signal.oaconvolve(variance + added, np.square(psf), mode="same"))
    pair = exposure(science, variance, ours), exposure(template, (deep + SKY + READ) / depth, theirs)
    return Field(out, *pair, score.astype(np.float32), side)


def peaks_of(score: NDArray[np.float32], radius: float) -> Any:
    """Maxima of either sign beyond the threshold, strongest first, one of a sign within `radius` pixels."""
    strength = np.abs(score)
    top = (ndimage.maximum_filter(score, 3) == score) & (score > THRESHOLD)
    top |= (ndimage.minimum_filter(score, 3) == score) & (score < -THRESHOLD)
    y, x = np.nonzero(top)
    order = np.argsort(-strength[y, x], kind="stable")
    rows = np.zeros(len(x), PEAK_DTYPE)
    rows["x"], rows["y"], rows["score"] = x[order], y[order], score[y[order], x[order]]
    keep = np.ones(len(rows), bool)
    for first, second in cKDTree(np.column_stack([rows["x"], rows["y"]])).query_pairs(radius):
        if rows["score"][first] * rows["score"][second] > 0:
            keep[max(first, second)] = False
    return rows[keep]


def sources(scene: Field) -> tuple[Any, Any]:
    """Rows measured as `subtract` measures them, and the dipole candidates."""
    difference = scene.difference
    psf, usable = difference.need_psf(), difference.variance > 0.0
    peaks = peaks_of(scene.score, FWHM)
    stronger, weaker = pair_lobes(peaks, 1.5 * FWHM)
    partner = np.zeros(len(peaks), peaks.dtype)
    partner[stronger] = peaks[weaker]
    keep = np.ones(len(peaks), bool)
    keep[weaker] = False
    peaks, partner = peaks[keep], partner[keep]
    rows = blank_rows(table_dtype("alert", "diaSource"), len(peaks))
    rows["snr"], rows["isNegative"] = np.abs(peaks["score"]), peaks["score"] < 0.0
    fit = psf_centroids(difference.image, difference.variance, usable, psf, peaks["x"], peaks["y"])
    rows["x"], rows["y"] = fit["x"], fit["y"]
    for name, seen in (("psf", difference), ("template", scene.template)):
        flux = psf_fluxes(seen.image, seen.variance, usable, seen.need_psf(), fit["x"], fit["y"])
        rows[f"{name}Flux"], rows[f"{name}FluxErr"] = flux["flux"], flux["fluxErr"]
    return rows, dipole_candidates(rows, partner, scene.score, FWHM)


def probabilities(scene: Field, every: bool = False) -> tuple[Any, Any, Floats]:
    """Rows, their cells and the probability of each; with `every` all sources are fitted, candidates or not."""
    rows, candidates = sources(scene)
    if every:
        others = np.setdiff1d(np.arange(len(rows)), candidates["row"])
        more = np.zeros(len(others), candidates.dtype)
        more["row"], more["x"], more["y"] = others, rows["x"][others], rows["y"][others]
        candidates = np.concatenate([candidates, more])
    usable = scene.difference.variance > 0.0
    found = measure_dipoles(rows, candidates, scene.difference, scene.science, scene.template, usable)
    cell = (rows["y"] // CELL).astype(int) * scene.cells + (rows["x"] // CELL).astype(int)
    return rows, cell, found


def electrons_of(snr: Floats) -> Floats:
    """Electrons of a point source with that S/N in the science image."""
    area = 1 / np.square(moffat(FWHM, BETA, np.zeros(1), np.zeros(1))).sum()
    return 0.5 * snr * (snr + np.sqrt(snr**2 + 4 * (SKY + READ) * area))


def places(count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    x, y = rng.uniform(-0.5, 0.5, (2, count))
    return x, y


def steps(size: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    angle = rng.uniform(0, 2 * np.pi, len(size))
    return size * np.cos(angle), size * np.sin(angle)


def joined(*lights: Light) -> Light:
    names = ("cell", "x", "y", "science", "dx", "dy", "template")
    return Light(*(np.concatenate([getattr(light, name) for light in lights]) for name in names))


def stars(
    snr: Floats, shift: Floats, rng: np.random.Generator, change: Floats | float = 0.0, scatter: float = 0.0
) -> Light:
    """Stars of that S/N, `shift` pixels from where the template has them, brighter by the share `change`."""
    count = len(snr)
    flux = electrons_of(snr) * np.exp(scatter * rng.normal(size=count))
    return Light(np.arange(count), *places(count, rng), flux * (1 + change), *steps(shift, rng), flux)


def transients(snr: Floats, rng: np.random.Generator, reach: Floats | float = 0.0, lost: float = 0.3) -> Light:
    """New point sources up to `reach` pixels from the cell's middle; the share `lost` is in the template alone."""
    count = len(snr)
    x, y = places(count, rng)
    away = steps(np.broadcast_to(reach, count) * np.sqrt(rng.random(count)), rng)
    flux, zero = electrons_of(snr), np.zeros(count)
    gone = rng.random(count) < lost
    place = np.arange(count), x + away[0], y + away[1]
    return Light(*place, np.where(gone, 0.0, flux), zero, zero, np.where(gone, flux, 0.0))


def galaxies(snr: Floats, radius: Floats, shift: Floats, rng: np.random.Generator, knots: int = 60) -> Light:
    """Exponential discs of scale length `radius` pixels made of points; S/N as of point sources of their flux."""
    count = len(snr)
    r = np.repeat(radius, knots) * rng.gamma(2.0, 1.0, count * knots)
    x, y = steps(np.minimum(r, 9.0), rng)
    stretch = np.repeat(rng.uniform(0.4, 1.0, count), knots)
    flux = np.repeat(electrons_of(snr) / knots, knots)
    dx, dy = (np.repeat(step, knots) for step in steps(shift, rng))
    return Light(np.repeat(np.arange(count), knots), x, y * stretch, flux, dx, dy, flux)


def matched(rows: Any, light: Light, side: int, reach: float) -> NDArray[np.intp]:
    """Index of the rows that lie within `reach` pixels of a source of `light`."""
    x = light.cell % side * CELL + CELL // 2 + light.x
    y = light.cell // side * CELL + CELL // 2 + light.y
    away = cKDTree(np.column_stack([x, y])).query(np.column_stack([rows["x"], rows["y"]]))[0]
    return np.flatnonzero(away <= reach)
