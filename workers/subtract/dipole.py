"""Dipoles: a positive and a negative lobe within about a PSF, the mark of misalignment or of fast proper motion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from workers.imaging.exposure import Exposure, FloatImage

__all__ = ["DipoleFit", "fit_dipole", "pair_lobes", "peak_position"]

_Float = NDArray[np.float64]
_Index = NDArray[np.intp]
_Rows = NDArray[Any]
_MIN_RATIO = 0.3
"""Of the weaker lobe's strength to the stronger one's."""


@dataclass(frozen=True)
class DipoleFit:
    """Two point sources of opposite sign fitted together; fluxes nJy, positions pixels."""

    positive: float
    negative: float
    positiveErr: float
    negativeErr: float
    covariance: float
    chi2: float
    nPixels: int
    lobes: tuple[tuple[float, float], tuple[float, float]]
    """(x, y) of the positive and of the negative lobe."""

    @property
    def is_dipole(self) -> bool:
        """Whether the lobes have opposite signs and comparable strength."""
        low, high = sorted((self.positive, -self.negative))
        return bool(low > 0.0 and low >= _MIN_RATIO * high)


def pair_lobes(peaks: _Rows, radius: float) -> tuple[_Index, _Index]:
    """Return (stronger, weaker) indices of opposite peaks within `radius` pixels; each peak is in one pair at most.

    `peaks` are PEAK_DTYPE rows, strongest first.
    """
    if len(peaks) < 2:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    points = np.column_stack([peaks["x"], peaks["y"]])
    close = cKDTree(points).query_pairs(radius, output_type="ndarray")
    score = peaks["score"]
    opposite = score[close[:, 0]] * score[close[:, 1]] < 0.0
    strength = np.abs(score[close]).min(axis=1) / np.maximum(np.abs(score[close]).max(axis=1), 1e-30)
    close = np.sort(close[opposite & (strength >= _MIN_RATIO)], axis=1)
    used: set[int] = set()
    pairs = []
    for stronger, weaker in close[np.lexsort((close[:, 1], close[:, 0]))].tolist():
        if stronger not in used and weaker not in used:
            used |= {stronger, weaker}
            pairs.append((stronger, weaker))
    table = np.array(pairs, np.intp).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def peak_position(score: FloatImage, x: _Index, y: _Index) -> tuple[_Float, _Float]:
    """Return sub-pixel (x, y) of extrema of `score` at pixels not on its border, by a parabola along each axis."""
    middle = score[y, x].astype(float)
    before_x, after_x = score[y, x - 1].astype(float), score[y, x + 1].astype(float)
    before_y, after_y = score[y - 1, x].astype(float), score[y + 1, x].astype(float)
    return x + _vertex(before_x, middle, after_x), y + _vertex(before_y, middle, after_y)


def _vertex(before: _Float, middle: _Float, after: _Float) -> _Float:
    """Return the offset of the extremum of the parabola through three points, within half a step."""
    curvature = before - 2.0 * middle + after
    safe = np.where(curvature == 0.0, 1.0, curvature)
    return np.clip(np.where(curvature == 0.0, 0.0, 0.5 * (before - after) / safe), -0.5, 0.5)


def fit_dipole(
    exposure: Exposure,
    usable: NDArray[np.bool_],
    positive: tuple[float, float],
    negative: tuple[float, float],
) -> DipoleFit | None:
    """Fit the fluxes of two PSFs at given positions, all pixels alike; None without enough usable pixels."""
    psf = exposure.need_psf()
    half = psf.size // 2 + int(np.ceil(np.hypot(positive[0] - negative[0], positive[1] - negative[1])))
    x0 = round((positive[0] + negative[0]) / 2) - half
    y0 = round((positive[1] + negative[1]) / 2) - half
    size, (height, width) = 2 * half + 1, exposure.shape
    rows, columns = np.arange(y0, y0 + size), np.arange(x0, x0 + size)
    inside = np.outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    window = np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))
    good = inside & usable[window]
    design = np.stack([_placed(psf.stamps_at(*lobe)[0], lobe, x0, y0, size)[good] for lobe in (positive, negative)])
    normal = design @ design.T
    if good.sum() < psf.size or np.linalg.cond(normal) > 1e8:
        return None
    data, variance = exposure.image[window][good].astype(float), exposure.variance[window][good].astype(float)
    inverse = np.linalg.inv(normal)
    flux = inverse @ (design @ data)
    covariance = inverse @ ((design * variance) @ design.T) @ inverse
    chi2 = float((np.square(data - flux @ design) / variance).sum())
    errors = np.sqrt(np.diag(covariance))
    return DipoleFit(
        positive=float(flux[0]),
        negative=float(flux[1]),
        positiveErr=float(errors[0]),
        negativeErr=float(errors[1]),
        covariance=float(covariance[0, 1]),
        chi2=chi2,
        nPixels=int(good.sum()),
        lobes=(positive, negative),
    )


def _placed(stamp: _Float, at: tuple[float, float], x0: int, y0: int, size: int) -> _Float:
    """Return an empty square of `size` pixels, first pixel (x0, y0), with `stamp` centred on pixel round(at)."""
    half = stamp.shape[0] // 2
    out = np.zeros((size + 2 * half, size + 2 * half))
    row, column = round(at[1]) - y0, round(at[0]) - x0
    out[row : row + 2 * half + 1, column : column + 2 * half + 1] = stamp
    return out[half : half + size, half : half + size]
