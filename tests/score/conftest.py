"""Synthetic stamps of real and bogus detections, and a small pair of exposures, both with truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas import table_dtype
from workers.imaging.exposure import Exposure, ExposureInfo, PhotoCalib
from workers.imaging.injection import INJECTION_DTYPE, inject_sources
from workers.imaging.masks import MaskPlane
from workers.imaging.psf import PsfModel
from workers.imaging.stamps import Stamps
from workers.imaging.wcs import SkyWcs

Floats = NDArray[np.float64]
SIZE, FWHM, SKY = 31, 3.2, 10.0
BOGUS = ("dipole", "ring", "hit", "hot", "line", "edge")


@dataclass(frozen=True)
class Drawn:
    """n detections with what they are."""

    sources: NDArray[Any]
    stamps: Stamps
    real: NDArray[np.bool_]
    kind: NDArray[np.str_]


def blob(dx: Floats, dy: Floats, fwhm: float = FWHM) -> Floats:
    """Unit-sum Gaussians at (dx, dy) from the middle pixel, (n, SIZE, SIZE)."""
    axis = np.arange(SIZE) - SIZE // 2
    sigma = fwhm / 2.3548
    x = np.exp(-0.5 * np.square((axis - dx[:, None]) / sigma))
    y = np.exp(-0.5 * np.square((axis - dy[:, None]) / sigma))
    return np.asarray(y[:, :, None] * x[:, None, :] / (2 * np.pi * sigma**2))


def draw(real: int, bogus: int, seed: int, *, visit: int = 1) -> Drawn:
    """Draw detections in random order; S/N 5 to 60, log-uniform; a third of the real ones negative."""
    rng = np.random.default_rng(seed)
    n = real + bogus
    kind = np.array(["real"] * real + [BOGUS[i % len(BOGUS)] for i in range(bogus)])
    snr = np.exp(rng.uniform(np.log(5.0), np.log(60.0), n))
    offset = rng.uniform(-0.5, 0.5, (2, n))
    psf = blob(*offset)
    unit = SKY * np.sqrt(2.0) / np.sqrt(np.square(psf).sum(axis=(1, 2)))  # noise of a PSF flux
    science, template = _hosts(rng, n, unit), np.zeros((n, SIZE, SIZE))
    template += science
    change = _change(rng, kind, snr * unit, offset, psf, science, template)
    negative = rng.random(n) < np.where(kind == "real", 0.33, 0.4)
    science, template = (
        np.where(negative[:, None, None], template, science + change),
        np.where(negative[:, None, None], template + change, template),
    )
    variances = np.maximum(science, 0.0) + SKY**2, np.maximum(template, 0.0) + SKY**2
    science = science + rng.normal(size=science.shape) * np.sqrt(variances[0])
    template = template + rng.normal(size=science.shape) * np.sqrt(variances[1])
    mask = np.zeros(science.shape, np.int32)
    cut = np.flatnonzero((kind == "edge") | (rng.random(n) < 0.03))
    for i in cut:
        columns = slice(SIZE // 2 + 2 + int(rng.integers(0, 10)), None)
        mask[i, :, columns] = int(MaskPlane.NO_DATA)
        science[i, :, columns] = np.nan
    planes = (science - template, variances[0] + variances[1]), (science, variances[0]), (template, variances[1])
    centred = blob(np.zeros(n), np.zeros(n))[:, 3:-3, 3:-3]
    parts = [
        part
        for image, variance in planes
        for part in (image.astype("f4"), variance.astype("f4"), mask.copy(), centred.astype("f4"))
    ]
    rows = _rows(rng, offset, snr, negative, visit)
    order = rng.permutation(n)
    stamps = Stamps(*(part[order] for part in parts))
    return Drawn(rows[order], stamps, (kind == "real")[order], kind[order])


def _hosts(rng: np.random.Generator, n: int, unit: Floats) -> Floats:
    """Galaxies under half of the detections."""
    there = rng.random(n) < 0.5
    light = np.where(there, unit * np.exp(rng.uniform(np.log(10), np.log(300), n)), 0.0)
    return blob(*rng.normal(0, 2.0, (2, n)), fwhm=7.0) * light[:, None, None]


def _change(
    rng: np.random.Generator,
    kind: NDArray[np.str_],
    flux: Floats,
    offset: Floats,
    psf: Floats,
    science: Floats,
    template: Floats,
) -> Floats:
    """What distinguishes the two images, strong enough to be detected; static stars go into both."""
    n, sigma = len(kind), FWHM / 2.3548
    middle = SIZE // 2
    change = psf * flux[:, None, None]
    angle = rng.uniform(0, 2 * np.pi, n)
    step = rng.uniform(0.1, 0.7, n)
    moved = blob(offset[0] + step * np.cos(angle), offset[1] + step * np.sin(angle)) - psf
    wide = blob(*offset, fwhm=1.15 * FWHM) - psf
    for name, pattern, gain in (("dipole", moved, sigma / (0.43 * step)), ("ring", wide, np.full(n, 8.0))):
        pick = kind == name
        star = (flux * gain)[:, None, None]
        change[pick] = (pattern * star)[pick]
        for image in (science, template):
            image[pick] += (psf * star)[pick]
    sharp = flux * 0.5  # a delta with half the flux has the S/N of the PSF
    for name, longest in (("hit", 6), ("hot", 0), ("line", 60)):
        for i in np.flatnonzero(kind == name):
            along = np.linspace(-0.5, 0.5, 2 * longest + 1) * longest * (1.0 if name == "line" else rng.random())
            x = np.round(middle + offset[0, i] + along * np.cos(angle[i])).astype(int)
            y = np.round(middle + offset[1, i] + along * np.sin(angle[i])).astype(int)
            inside = (x >= 0) & (x < SIZE) & (y >= 0) & (y < SIZE)
            change[i] = 0.0
            np.add.at(change[i], (y[inside], x[inside]), sharp[i] / len(along) * (3.0 if longest else 1.0))
            if name == "line":
                change[i] = change[i] * 12.0
    slope = np.arange(SIZE) / SIZE
    edge = kind == "edge"
    change[edge] = (SKY * 3.0 * slope[None, None, :] + np.zeros((n, SIZE, 1)))[edge]
    return change


def _rows(
    rng: np.random.Generator, offset: Floats, snr: Floats, negative: NDArray[np.bool_], visit: int
) -> NDArray[Any]:
    n = len(snr)
    rows = np.zeros(n, table_dtype("alert", "diaSource"))
    for name in rows.dtype.names or ():
        if rows.dtype[name].kind == "f":
            rows[name] = np.nan
    error = FWHM / 2.3548 / snr
    rows["x"] = 40.0 * (1 + np.arange(n) % 25) + offset[0] + np.clip(rng.normal(0, error), -0.4, 0.4)
    rows["y"] = 40.0 * (1 + np.arange(n) // 25) + offset[1] + np.clip(rng.normal(0, error), -0.4, 0.4)
    # the middle pixel of the stamp is where the source was put
    for axis in ("x", "y"):
        pixel = np.round(rows[axis] / 40.0) * 40.0
        rows[axis] = np.clip(rows[axis], pixel - 0.49, pixel + 0.49)
    rows["ra"], rows["dec"] = 150.0 + rows["x"] / 3600.0 + visit, rows["y"] / 3600.0
    rows["snr"], rows["isNegative"], rows["visit"] = snr, negative, visit
    return rows


def truth_of(drawn: Drawn, keep: NDArray[np.bool_]) -> NDArray[Any]:
    """The detections that `keep` selects as a table of injections."""
    truth = np.zeros(int(keep.sum()), INJECTION_DTYPE)
    truth["x"], truth["y"] = drawn.sources["x"][keep], drawn.sources["y"][keep]
    truth["flux"] = np.where(drawn.sources["isNegative"][keep], -1.0, 1.0)
    return truth


def auc(scores: NDArray[Any], real: NDArray[np.bool_]) -> float:
    """Area under the ROC curve."""
    ranks = np.argsort(np.argsort(scores, kind="stable"), kind="stable") + 1.0
    positive, negative = real.sum(), (~real).sum()
    return float((ranks[real].sum() - positive * (positive + 1) / 2) / (positive * negative))


@dataclass(frozen=True)
class Pair:
    science: Exposure
    template: Exposure


def make_pair(size: int, stars: int, seed: int, *, visit: int = 77, mjd: float = 61000.0) -> Pair:
    """A science image and a sharper, deeper template of the same stars."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(stars, INJECTION_DTYPE)
    rows["x"], rows["y"] = rng.uniform(5, size - 5, (2, stars))
    rows["flux"] = 2e4 * np.minimum(rng.pareto(0.8, stars) + 1.0, 60.0)
    info = ExposureInfo("sim", visit, 3, "r", mjd, 30.0, 150.0, -30.0, 20240101, "science", "0" * 64, "x.fits")
    wcs = SkyWcs.tangent(150.0, -30.0, (size / 2, size / 2), 0.25)
    made = []
    for fwhm, epochs in ((3.2, 1.0), (2.8, 8.0)):
        zero, sky = np.zeros((size, size), np.float32), np.float32(500.0 * 400.0 / epochs)
        blank = Exposure(
            info=info,
            image=zero,
            mask=zero.astype(np.int32),
            variance=zero + sky,
            unit="nJy",
            wcs=wcs,
            psf=PsfModel.gaussian(fwhm, size=25, width=size, height=size),
            photo=PhotoCalib(20.0, 0.01, 50),
            metrics={"seeingFwhm": fwhm, "backgroundRms": float(np.sqrt(sky))},
        )
        full = inject_sources(blank, rows, None)
        variance = full.variance + 20.0 / np.float32(epochs) * np.maximum(full.image, 0.0)
        noise = rng.normal(size=zero.shape).astype(np.float32) * np.sqrt(variance)
        made.append(full.replaced(image=full.image + noise, variance=variance, mask=zero.astype(np.int32)))
    return Pair(*made)


@pytest.fixture(scope="session")
def drawer() -> Callable[..., Drawn]:
    return draw


@pytest.fixture(scope="session")
def pair_maker() -> Callable[..., Pair]:
    return make_pair


@pytest.fixture(scope="session")
def truth_maker() -> Callable[..., NDArray[Any]]:
    return truth_of


@pytest.fixture(scope="session")
def area() -> Callable[..., float]:
    return auc


@pytest.fixture(scope="session")
def drawn() -> Drawn:
    """600 + 300 detections."""
    return draw(600, 300, 1)
