"""Choose the stars that the PSF is measured on: bright, unsaturated, isolated, and of the size that stars share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sep
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from schemas.errors import DataError
from workers.imaging.detection import sep_image

__all__ = ["StarSample", "select_stars", "size_locus"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

FWHM_PER_AXIS = 2.355
MIN_HALF_LIGHT = 0.7
"""Pixels; hot pixels and cosmic rays lie below."""
NEIGHBOUR_FLUX = 0.03
"""A neighbour inside the stamp with more than this share of the star's flux spoils it."""
WANTED = 12
"""Stars: with fewer, the S/N bound is lowered, down to a fifth of the configured one."""
MOST = 250
"""Brightest stars taken: more cost time and add nothing."""


@dataclass(frozen=True)
class StarSample:
    """Rows of the detections that are PSF stars, brightest first, and the seeing they show."""

    rows: NDArray[np.int64]
    fwhm: float
    """Pixels: twice the median half-light radius, exact for a Gaussian."""


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
    fwhm = _first_fwhm(detections, snr, clean)
    reach = max(1, round(fwhm))
    spoiled = ndimage.maximum_filter(~usable, size=2 * reach + 1)
    clean &= ~spoiled[_pixel(detections)]
    alone = _isolated(detections, 0.5 * stamp_size + 1.0)
    bright, bound = snr > min_snr, min_snr
    while np.count_nonzero(clean & alone & bright) < WANTED and bound > 0.2 * min_snr:
        bound *= 0.8
        bright = snr > bound
    rows = np.flatnonzero(clean & alone & bright)
    if len(rows) == 0:
        raise DataError(
            f"PSF needs stars: of {len(detections)} detections {np.count_nonzero(snr > bound)} exceed S/N {bound:.0f}, "
            f"{np.count_nonzero(clean)} are unsaturated and off the edges, {np.count_nonzero(alone)} isolated, none is "
            "all three; is the exposure blank, trailed or out of focus?"
        )
    rows = rows[np.argsort(-detections["flux"][rows], kind="stable")][:MOST]
    return _on_locus(image, usable, detections, rows, fwhm)


def _pixel(detections: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (row, column) of the pixel under each barycentre."""
    return np.round(detections["y"]).astype(np.int64), np.round(detections["x"]).astype(np.int64)


def _inside(detections: NDArray[Any], shape: tuple[int, ...], margin: int) -> _Bool:
    """Tell which detections lie at least `margin` pixels from every edge."""
    x, y = detections["x"], detections["y"]
    return np.asarray((x >= margin) & (x < shape[1] - margin) & (y >= margin) & (y < shape[0] - margin))


def _first_fwhm(detections: NDArray[Any], snr: _Float, clean: _Bool) -> float:
    """Return a rough FWHM, pixels, from the isophotal moments of the brighter clean detections."""
    axes = np.sqrt(detections["a"] * detections["b"])[clean & (snr > 10.0)]
    return float(np.clip(FWHM_PER_AXIS * np.median(axes), 1.5, 20.0)) if len(axes) else 3.0


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
    image: NDArray[np.floating], usable: _Bool, detections: NDArray[Any], rows: NDArray[np.int64], fwhm: float
) -> StarSample:
    """Keep the rows whose half-light radius is that of stars, and whose shape is that of most."""
    clean, masked = sep_image(image, ~usable)
    chosen = detections[rows]
    reach = np.full(len(rows), max(4.0, 2.5 * fwhm))
    half_light, flag = sep.flux_radius(clean, chosen["x"], chosen["y"], reach, 0.5, mask=masked, subpix=5)
    sized = (half_light > MIN_HALF_LIGHT) & np.isfinite(half_light) & (flag & sep.APER_NONPOSITIVE == 0)
    if not sized.any():
        raise DataError(
            f"PSF needs stars: all {len(rows)} candidates are narrower than {MIN_HALF_LIGHT} pixels "
            "(hot pixels, cosmic rays)"
        )
    rows, half_light, chosen = rows[sized], half_light[sized], chosen[sized]
    like = size_locus(half_light)
    stretch = (chosen["a"] - chosen["b"]) / (chosen["a"] + chosen["b"])
    shape = np.stack([stretch * np.cos(2 * chosen["theta"]), stretch * np.sin(2 * chosen["theta"])], axis=1)
    like &= np.hypot(*(shape - np.median(shape[like], axis=0)).T) < 0.12
    return StarSample(rows[like], float(2.0 * np.median(half_light[like])))


def size_locus(size: _Float, width: float = 0.15) -> _Bool:
    """Tell which sizes belong to the densest cluster of log(size): the stars, for galaxies spread to larger sizes.

    `size` any positive measure (n,); `width` of the window that finds the cluster, in ln. Members lie within three
    robust sigma of its median, but at least 8 % and at most 20 %.
    """
    log = np.sort(np.log(size))
    count = np.searchsorted(log, log + width, side="right") - np.arange(len(log))
    first = int(np.argmax(count))
    middle = float(np.median(log[first : first + count[first]]))
    near = np.abs(np.log(size) - middle) < width
    middle = float(np.median(np.log(size[near])))
    spread = 1.4826 * float(np.median(np.abs(np.log(size[near]) - middle)))
    return np.asarray(np.abs(np.log(size) - middle) < np.clip(3.0 * spread, 0.08, 0.20))
