"""A small renderer of star fields: pixel-integrated Moffat or Gaussian PSFs that vary over the detector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.reference import ReferenceCatalogue
from workers.imaging.wcs import SkyWcs

NODES, WEIGHTS = np.polynomial.legendre.leggauss(3)


@dataclass(frozen=True)
class Field:
    """One simulated exposure, in electrons, and its truth."""

    exposure: Exposure
    wcs: SkyWcs
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    electrons: NDArray[np.float64]
    reference: ReferenceCatalogue
    zero_point: float
    fwhm: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
    beta: float
    expected: NDArray[np.float64] = field(repr=False)

    def psf_stamp(self, x: float, y: float, size: int) -> NDArray[np.float64]:
        """Return the true PSF, integrated over pixels, centred on the middle one."""
        width = self.fwhm(np.array([x]), np.array([y]))
        return moffat(np.zeros(1), np.zeros(1), width, self.beta, size)[0]


def moffat(dx, dy, fwhm, beta, size):
    """Return unit-flux profiles (m, size, size) at offsets from the middle pixel; beta inf is a Gaussian."""
    axis = np.arange(size) - size // 2
    step = (axis[:, None] + 0.5 * NODES).ravel()
    x = (step - dx[:, None])[:, None, :]
    y = (step - dy[:, None])[:, :, None]
    r2 = x**2 + y**2
    if np.isinf(beta):
        sigma2 = (fwhm / 2.354820045)[:, None, None] ** 2
        value = np.exp(-0.5 * r2 / sigma2) / (2 * np.pi * sigma2)
    else:
        alpha2 = ((0.5 * fwhm) ** 2 / (2 ** (1 / beta) - 1))[:, None, None]
        value = (beta - 1) / (np.pi * alpha2) * (1 + r2 / alpha2) ** -beta
    n = len(NODES)
    weight = np.outer(WEIGHTS, WEIGHTS) / 4.0
    return np.einsum("maibj,ij->mab", value.reshape(len(dx), size, n, size, n), weight)


def info(**changes) -> ExposureInfo:
    base = {
        "instrument": "sim",
        "visit": 7,
        "detector": 3,
        "band": "r",
        "midpointMjdTai": 60000.0,
        "exposureTime": 30.0,
        "ra": 0.0,
        "dec": 0.0,
        "night": 20230225,
        "kind": "science",
        "sha256": "0" * 64,
        "fileName": "sim.fits",
    }
    return ExposureInfo(**{**base, **changes})


def true_wcs(rng, shape, scale=0.4) -> SkyWcs:
    """Return a TAN-SIP WCS of random pointing with about half a pixel of cubic distortion at the edges."""
    height, width = shape
    wcs = SkyWcs.tangent(
        rng.uniform(0, 360),
        rng.uniform(-75, 75),
        (width / 2, height / 2),
        scale,
        rng.uniform(0, 360),
        int(rng.choice([1, -1])),
    )
    header = wcs.header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    for name in "AB":
        header[f"{name}_ORDER"] = 3
        for i in range(4):
            for j in range(4 - i):
                if i + j >= 2:
                    header[f"{name}_{i}_{j}"] = rng.normal() * 0.5 / (width / 2) ** (i + j)
    return SkyWcs(header)


def misplaced(wcs: SkyWcs, rng, arcsec=(3.0, 8.0), degrees=0.1) -> SkyWcs:
    """Return `wcs` shifted and turned: what a header claims."""
    header = wcs.header()
    turn, way = np.radians(rng.uniform(-degrees, degrees)), rng.uniform(0, 2 * np.pi)
    size = rng.uniform(*arcsec) / 3600
    header["CRVAL1"] += size * np.cos(way) / np.cos(np.radians(header["CRVAL2"]))
    header["CRVAL2"] += size * np.sin(way)
    matrix = np.array([[header["CD1_1"], header["CD1_2"]], [header["CD2_1"], header["CD2_2"]]])
    matrix = matrix @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    for i in (0, 1):
        for j in (0, 1):
            header[f"CD{i + 1}_{j + 1}"] = matrix[i, j]
    return SkyWcs(header)


def make_reference(rng, wcs, x, y, flux, missing, spurious, error=0.01) -> ReferenceCatalogue:
    """Return the stars with some left out and some that are not there."""
    kept = rng.random(len(x)) >= missing
    extra = int(spurious * len(x))
    ex, ey = rng.uniform(x.min(), x.max(), extra), rng.uniform(y.min(), y.max(), extra)
    ra, dec = wcs.pixel_to_sky(np.r_[x[kept], ex], np.r_[y[kept], ey])
    true = np.r_[flux[kept], rng.choice(flux, extra)]
    error = error * true
    measured = true + rng.normal(0, 1, len(true)) * error
    return ReferenceCatalogue(ra, dec, {"r": measured}, {"r": error}, "reference.fits")


def make_field(
    seed: int,
    *,
    stars=300,
    shape=(768, 768),
    fwhm=3.6,
    variation=0.06,
    beta=3.5,
    sky=400.0,
    read_noise=5.0,
    missing=0.2,
    spurious=0.3,
    zero_point=30.0,
    brightest=3e5,
    faintest=500.0,
    slope=0.7,
    noise=True,
) -> Field:
    """Draw one field; `variation` is the relative change of the FWHM from centre to corner."""
    rng = np.random.default_rng(seed)
    height, width = shape
    pad = 60
    number = int(stars * (height + 2 * pad) * (width + 2 * pad) / (height * width))
    x, y = rng.uniform(-pad, width + pad, number), rng.uniform(-pad, height + pad, number)
    lo, hi = faintest**-slope, brightest**-slope
    electrons = (lo + rng.random(number) * (hi - lo)) ** (-1 / slope)

    def local_fwhm(px, py):
        u, v = 2 * px / width - 1, 2 * py / height - 1
        return fwhm * (1 + variation * (0.5 * (u**2 + v**2) + 0.5 * u - 0.3 * v))

    expected = np.full(shape, sky) + 30.0 * np.linspace(-1, 1, width)[None, :]
    size = 51
    for i in range(0, number, 32):
        part = slice(i, i + 32)
        cx, cy = np.round(x[part]).astype(int), np.round(y[part]).astype(int)
        stamps = (
            moffat(x[part] - cx, y[part] - cy, local_fwhm(x[part], y[part]), beta, size) * electrons[part, None, None]
        )
        for stamp, sx, sy in zip(stamps, cx - size // 2, cy - size // 2, strict=True):
            x0, x1, y0, y1 = max(sx, 0), min(sx + size, width), max(sy, 0), min(sy + size, height)
            if x0 < x1 and y0 < y1:
                expected[y0:y1, x0:x1] += stamp[y0 - sy : y1 - sy, x0 - sx : x1 - sx]
    image = rng.poisson(expected) + rng.normal(0, read_noise, shape) if noise else expected
    variance = np.maximum(image, 0.0) + read_noise**2
    wcs = true_wcs(rng, shape)
    exposure = Exposure(
        info(),
        image.astype(np.float32),
        np.zeros(shape, np.int32),
        variance.astype(np.float32),
        wcs=misplaced(wcs, rng),
    )
    reference = make_reference(rng, wcs, x, y, electrons * zero_point, missing, spurious)
    return Field(exposure, wcs, x, y, electrons, reference, zero_point, local_fwhm, beta, expected)


@pytest.fixture(scope="session")
def draw_field() -> Callable[..., Field]:
    """Return the renderer."""
    return make_field


@pytest.fixture(scope="session")
def draw_wcs():
    """Return the makers of a true WCS, of what a header claims, and of a reference catalogue."""
    return true_wcs, misplaced, make_reference
