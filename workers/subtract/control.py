"""Quality control of a difference: fluxes on empty sky, sources below the threshold, what is left of stars."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import Exposure, FloatImage
from workers.imaging.photometry import psf_fluxes
from workers.subtract.detect import local_maxima
from workers.subtract.quiet import QuietSky
from workers.subtract.runs import find_runs

__all__ = ["CONTROL_DTYPE", "control_sources", "sky_metrics", "star_residual"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_Rows = NDArray[Any]

CONTROL_DTYPE = np.dtype([("kind", "U5")] + [(name, "f8") for name in ("x", "y", "psfFlux", "psfFluxErr", "snr")])
"""``sky``: at a random place without a source; ``faint``: a peak below the threshold; pixels, nJy, signed score."""
SKY_SOURCES = 100
FAINTEST = 4.0
"""Sigma, of faint sources; to the threshold of detection."""
_TRIES = 20
_STAR_SNR, _FEWEST_STARS = 30.0, 5
"""Of stars that tell whether they are gone."""


def control_sources(
    difference: Exposure, score: FloatImage, usable: _Bool, sky: QuietSky, threshold: float, radius: float
) -> _Rows:
    """Return rows of `CONTROL_DTYPE`: sky sources first, then faint ones of both signs, ordered by (y, x).

    Sky sources lie on `usable` pixels of the quiet `sky`; which are tried depends on visit and detector alone. Peaks
    within `radius` pixels of a detection are its own.
    """
    x, y = _empty_places(difference, usable, sky)
    empty = _measured("sky", difference, score, usable, x, y)
    peaks = []
    for sign in (1.0, -1.0):
        at = np.column_stack(local_maxima(score, find_runs(score, FAINTEST, sign), sign))
        peaks.append(at[np.abs(score[at[:, 1], at[:, 0]]) < threshold])
    faint = np.concatenate(peaks)
    faint = faint[~_near_detections(score, threshold, faint, radius)]
    faint = faint[np.lexsort((faint[:, 0], faint[:, 1]))]
    return np.concatenate([empty, _measured("faint", difference, score, usable, faint[:, 0], faint[:, 1])])


def sky_metrics(control: _Rows, pixels: int) -> dict[str, float]:
    """Return skyPedestal and skyScatter (mean and standard deviation of S/N of sky sources) and faintDensity.

    The density is that of sources below the threshold, per million of `pixels`.
    """
    sky = control[control["kind"] == "sky"]
    pull = sky["psfFlux"] / sky["psfFluxErr"]
    pull = pull[np.isfinite(pull)]
    found = {"faintDensity": 1e6 * float(np.count_nonzero(control["kind"] == "faint")) / max(pixels, 1)}
    if len(pull) < SKY_SOURCES // 4:
        return found
    return {**found, "skyPedestal": abs(float(pull.mean())), "skyScatter": float(pull.std())}


def star_residual(difference: FloatImage, variance: FloatImage, model: FloatImage, stars: _Float, half: int) -> float:
    """Return the median over `stars` (n, 2), pixels (x, y), of the amplitude left beyond the noise over the star's own.

    Root sums of squares within `half` pixels, of the stars bright enough to tell; NaN where they are few.
    """
    column, row = np.round(stars).astype(int).T
    inside = (column >= half) & (row >= half)
    inside &= (column < difference.shape[1] - half) & (row < difference.shape[0] - half)
    if not inside.any():
        return float("nan")
    offset = np.arange(-half, half + 1)
    at = row[inside, None, None] + offset[None, :, None], column[inside, None, None] + offset[None, None, :]
    left = np.square(difference[at].astype(float)) - variance[at]
    light = np.square(model[at].astype(float))
    whole = np.maximum(light.sum(axis=(1, 2)), 1e-300)
    bright = whole > _STAR_SNR * np.sqrt((light * variance[at]).sum(axis=(1, 2)))
    if np.count_nonzero(bright) < _FEWEST_STARS:
        return float("nan")
    return float(np.median(np.sqrt(np.maximum(left.sum(axis=(1, 2)), 0.0) / whole)[bright]))


def _empty_places(difference: Exposure, usable: _Bool, sky: QuietSky) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pixels of sky sources, fewer than wanted where little is free."""
    rng = np.random.default_rng([difference.info.visit, difference.info.detector])
    x, y = (rng.integers(0, size, _TRIES * SKY_SOURCES) for size in usable.shape[::-1])
    good = np.flatnonzero(sky.holds(x, y) & usable[y, x])[:SKY_SOURCES]
    return x[good], y[good]


def _near_detections(score: FloatImage, threshold: float, places: NDArray[Any], radius: float) -> _Bool:
    """Tell which places have a pixel beyond the threshold within `radius`."""
    reach = int(np.ceil(radius))
    near = np.zeros(len(places), bool)
    for k, (x, y) in enumerate(places.tolist()):
        part = score[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        near[k] = bool((np.abs(part) > threshold).any())
    return near


def _measured(kind: str, difference: Exposure, score: FloatImage, usable: _Bool, x: Any, y: Any) -> _Rows:
    """Return rows with PSF fluxes at pixels."""
    rows = np.zeros(len(x), CONTROL_DTYPE)
    fit = psf_fluxes(difference.image, difference.variance, usable, difference.need_psf(), x, y)
    rows["kind"], rows["x"], rows["y"] = kind, x, y
    rows["psfFlux"], rows["psfFluxErr"], rows["snr"] = fit["flux"], fit["fluxErr"], score[y, x]
    return rows
