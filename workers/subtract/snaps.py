"""The flux that changed between the two snaps of a visit, per source (snapDiffFlux).

Snaps differ in seeing, pointing and clouds. What this does to the PSF flux of their difference is, for every point
source, one share of its flux: the stars tell how large it is and how steady. It is taken off, and what the stars
scatter about it goes into the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import Exposure, SnapDifference
from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.photometry import cut_squares, psf_centroids, psf_fluxes
from workers.subtract.detect import local_maxima
from workers.subtract.kernel_stars import choose_stars
from workers.subtract.runs import find_runs

__all__ = ["measure_snaps"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_Rows = NDArray[Any]
_PIXEL_SNR = 10.0
"""Of the highest pixel of a star that tells the share."""
_ENOUGH = 5
"""Stars for a share; with fewer it is 0."""
_PLANE_STARS = 30
"""Stars for a share that varies linearly with the place."""
_CLIP = 4.0
_ROUNDS = 8


@dataclass(frozen=True)
class _Share:
    """By how much of its flux a steady star seems to change from snap to snap."""

    terms: _Float
    """Of 1, x and y, pixels."""
    scatter: float
    """Rms of single stars about it, beyond their noise."""

    def at(self, x: _Float, y: _Float) -> _Float:
        """Return the share at positions (n,), pixels."""
        return np.asarray(_powers(x, y) @ self.terms)


def measure_snaps(rows: _Rows, science: Exposure) -> None:
    """Fill snapDiffFlux and its error from x, y and scienceFlux: nJy of the whole visit, first snap less second.

    Forced PSF fluxes on the difference of the snaps, less the share that steady stars have of theirs. They stay null
    where the visit has one snap, and where a pixel within the FWHM is good in one snap only, or in none: an artefact of
    one snap would be all flux, and what is left of a source that was cut as one too little.
    """
    snaps = science.snaps
    if snaps is None or len(rows) == 0:
        return
    x, y = rows["x"].astype(float), rows["y"].astype(float)
    psf, (height, width) = science.need_psf(), science.shape
    radius = psf.fwhm(width / 2, height / 2)
    usable = np.isfinite(snaps.image) & (snaps.variance > 0.0)
    fit = psf_fluxes(snaps.image, snaps.variance, usable, psf, x, y)
    whole = _whole(snaps, usable, x, y, radius)
    share = _share(science, snaps, usable, int(np.ceil(radius)))
    light, noise = (np.nan_to_num(rows[name].astype(float)) for name in ("scienceFlux", "scienceFluxErr"))
    part = share.at(np.nan_to_num(x), np.nan_to_num(y))
    error = np.sqrt(np.square(fit["fluxErr"]) + np.square(share.scatter * light) + np.square(part * noise))
    rows["snapDiffFlux"] = np.where(whole, fit["flux"] - part * light, np.nan)
    rows["snapDiffFluxErr"] = np.where(whole, error, np.nan)


def _whole(snaps: SnapDifference, usable: _Bool, x: _Float, y: _Float, radius: float) -> _Bool:
    """Return where every pixel within `radius` pixels is usable."""
    half = int(np.ceil(radius))
    axis = np.arange(-half, half + 1)
    near = np.add.outer(np.square(axis), np.square(axis)) <= radius**2
    return np.asarray(cut_squares(snaps.image, snaps.variance, usable, x, y, half).good[:, near].all(axis=1))


def _share(science: Exposure, snaps: SnapDifference, usable: _Bool, half: int) -> _Share:
    """Return the share as the bright stars of the science image have it; `half` of the square that must be whole."""
    good = usable_pixels(science.image, science.variance, science.mask) & usable
    some = science.variance[::16, ::16][good[::16, ::16]]
    if some.size == 0:
        return _Share(np.zeros(3), 0.0)
    least = _PIXEL_SNR * float(np.sqrt(np.median(some)))
    column, row = local_maxima(science.image, find_runs(science.image, least))
    chosen = choose_stars(column, row, science.image[row, column].astype(float), ~good, half)
    psf = science.need_psf()
    place = psf_centroids(science.image, science.variance, good, psf, column[chosen], row[chosen])
    x, y = place["x"], place["y"]
    light = psf_fluxes(science.image, science.variance, good, psf, x, y)["flux"]
    change = psf_fluxes(snaps.image, snaps.variance, usable, psf, x, y)
    known = (place["flags"] == 0) & (light > 0.0) & np.isfinite(change["flux"])
    return _fitted(x[known], y[known], (change["flux"] / light)[known], (change["fluxErr"] / light)[known])


def _fitted(x: _Float, y: _Float, ratio: _Float, error: _Float) -> _Share:
    """Fit the share to stars' ratios with their errors; variables and blends are clipped at four of their sigmas."""
    terms, scatter = np.zeros(3), 0.0
    if len(ratio) < _ENOUGH:
        return _Share(terms, scatter)
    count = 3 if len(ratio) >= _PLANE_STARS else 1
    design = _powers(x, y)[:, :count]
    rest = ratio - np.median(ratio)
    kept = np.ones(len(ratio), bool)
    for _ in range(_ROUNDS):
        spread = np.square(np.median(np.abs(rest[kept])) / 0.6745) - np.median(np.square(error[kept]))
        scatter = float(np.sqrt(max(spread, 0.0)))
        sigma = np.hypot(error, scatter)
        kept = np.abs(rest) < _CLIP * sigma
        if np.count_nonzero(kept) < _ENOUGH:
            break
        weight = 1.0 / sigma[kept, None]
        terms[:count] = np.linalg.lstsq(design[kept] * weight, ratio[kept] * weight[:, 0], rcond=None)[0]
        rest = ratio - design @ terms[:count]
    return _Share(terms, scatter)


def _powers(x: _Float, y: _Float) -> _Float:
    return np.column_stack([np.ones(len(x)), x, y])
