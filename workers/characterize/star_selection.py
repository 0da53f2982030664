"""Choose the stars that the PSF is measured on: bright, unsaturated, isolated, and of the shape that stars share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from schemas.errors import DataError
from workers.characterize.psf_locus import FLOOR, stellar_locus
from workers.imaging.psf import FWHM_PER_SIGMA
from workers.imaging.psf_shapes import Shapes, adaptive_moments
from workers.imaging.squares import Squares, cut_squares

__all__ = ["StarSample", "select_stars"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

NARROWEST = 0.33
"""Pixels^2, second moment along the short axis; a star of FWHM 1.2 pixels has it, cosmic rays lie below."""
NEIGHBOUR_FLUX = 0.03
"""A neighbour inside the stamp with more than this share of the star's flux spoils it."""
WANTED = 16
"""Stars: with fewer, the S/N bound is lowered, down to a fifth of the configured one."""
ENOUGH, WIDENINGS = 5, (1.0, 4.0, 12.0)
"""Stars with fewer than which the locus is made wider, so many times: a bad tracking spoils few stars' likeness."""
CANDIDATES = 1200
"""Brightest whose shapes are measured."""
TOLERANCE = 1e-4
"""Of the shapes' size: noise is a hundred times larger."""
MOST = 250
"""Brightest stars taken: more cost time and add nothing."""


@dataclass(frozen=True)
class StarSample:
    """Rows of the detections that are PSF stars, brightest first, and the seeing they show."""

    rows: NDArray[np.int64]
    fwhm: float
    """Pixels: of the Gaussian with the stars' median adaptive-moment size."""


def select_stars(
    image: NDArray[np.floating],
    noise: NDArray[np.floating],
    usable: _Bool,
    detections: NDArray[Any],
    *,
    min_snr: float,
    stamp_size: int,
) -> StarSample:
    """Return the PSF stars among `detections` (rows of `DETECTION_DTYPE`).

    `image` background-subtracted and `noise` its background noise, one unit; `usable` false on saturated and suspect
    pixels too. Raises DataError where none qualifies, with the counts of what failed.
    """
    snr = detections["flux"] / (noise[_pixel(detections)] * np.sqrt(np.maximum(detections["npix"], 1)))
    clean = _inside(detections, image.shape, stamp_size // 2 + 1) & (detections["flags"] == 0)
    clean &= usable[_pixel(detections)]
    alone = _isolated(detections, 0.5 * stamp_size + 1.0)
    bound = min_snr
    while True:
        rows = np.flatnonzero(clean & alone & (snr > bound))
        rows = rows[np.argsort(-detections["flux"][rows], kind="stable")][:CANDIDATES]
        sample = _on_locus(image, noise, usable, detections, rows, snr, stamp_size)
        if len(sample.rows) >= WANTED or bound <= 0.2 * min_snr:
            break
        bound *= 0.8
    if len(sample.rows) == 0:
        raise DataError(
            f"PSF needs stars: of {len(detections)} detections {np.count_nonzero(snr > bound)} exceed S/N {bound:.0f}, "
            f"{np.count_nonzero(clean)} are unsaturated and off the edges, {np.count_nonzero(alone)} isolated, none is "
            "all three and as wide as a star; is the exposure blank, trailed or out of focus?"
        )
    return sample


def _pixel(detections: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (row, column) of the pixels that hold the detections."""
    return np.round(detections["y"]).astype(np.int64), np.round(detections["x"]).astype(np.int64)


def _inside(detections: NDArray[Any], shape: tuple[int, ...], margin: int) -> _Bool:
    """Tell which detections are at least `margin` pixels from the edges."""
    x, y, height, width = detections["x"], detections["y"], shape[0], shape[1]
    return np.asarray((x >= margin) & (y >= margin) & (x < width - margin) & (y < height - margin))


def _isolated(detections: NDArray[Any], radius: float) -> _Bool:
    """Tell which detections have no neighbour within `radius` that matters beside their own flux."""
    alone = np.ones(len(detections), bool)
    if len(detections) < 2:
        return alone
    places = np.stack([detections["x"], detections["y"]], axis=1)
    pairs = KDTree(places).query_pairs(1.4 * radius, output_type="ndarray")
    flux = np.maximum(detections["flux"], 1e-30)
    for one, other in ((pairs[:, 0], pairs[:, 1]), (pairs[:, 1], pairs[:, 0])):
        distance = np.hypot(*(places[one] - places[other]).T)
        share = flux[other] / flux[one]
        alone[one[((distance < radius) & (share > NEIGHBOUR_FLUX)) | (share > 3.0)]] = False
    return alone


def _on_locus(
    image: NDArray[np.floating],
    noise: NDArray[np.floating],
    usable: _Bool,
    detections: NDArray[Any],
    rows: NDArray[np.int64],
    snr: _Float,
    stamp_size: int,
) -> StarSample:
    """Keep the rows whose shape is that of stars; none where there is none."""
    chosen = detections[rows]
    axes = np.median(np.sqrt(chosen["a"] * chosen["b"])) if len(rows) else 1.0
    fwhm = float(np.clip(FWHM_PER_SIGMA * axes, 1.5, 20.0))
    half = int(np.clip(np.ceil(1.8 * fwhm), 4, stamp_size // 2))
    squares = cut_squares(image, noise, usable, chosen["x"], chosen["y"], half)
    shapes = adaptive_moments(squares.data, (fwhm / FWHM_PER_SIGMA) ** 2, TOLERANCE)
    sound = _sound(squares, shapes, fwhm)
    rows, chosen, size = rows[sound], chosen[sound], shapes.size[sound]
    if len(rows) == 0:
        return StarSample(rows, fwhm)
    height, width = image.shape
    x, y = 2.0 * chosen["x"] / width - 1.0, 2.0 * chosen["y"] / height - 1.0
    features = np.stack([np.log(size), shapes.e1[sound], shapes.e2[sound]], axis=1)
    like = np.zeros(len(rows), bool)
    for widening in WIDENINGS:
        like = stellar_locus(features, snr[rows], x, y, widening * FLOOR)
        if np.count_nonzero(like) >= min(ENOUGH, len(rows)):
            break
    return StarSample(rows[like][:MOST], FWHM_PER_SIGMA * float(np.sqrt(0.5 * np.median(size[like]))))


def _sound(squares: Squares, shapes: Shapes, fwhm: float) -> _Bool:
    """Tell which have a shape, wider than a cosmic ray's, and no unusable pixel within one FWHM."""
    with np.errstate(invalid="ignore"):
        narrow = 0.5 * shapes.size * (1.0 - np.hypot(shapes.e1, shapes.e2))
        real = narrow > NARROWEST
    middle = squares.data.shape[1] // 2
    reach = max(1, min(round(fwhm), middle))
    near = slice(middle - reach, middle + reach + 1)
    return np.asarray(real & squares.good[:, near, near].all(axis=(1, 2)))
