"""Which stars the kernel is fitted on: unmasked in both images, bright, and spread over the field."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import Exposure
from workers.imaging.photometry import psf_fluxes
from workers.subtract.detect import local_maxima
from workers.subtract.masking import blocked_pixels
from workers.subtract.matched_filter import score_image

__all__ = ["choose_stars", "find_stars"]

_Float = NDArray[np.float64]
_Index = NDArray[np.intp]
_Bool = NDArray[np.bool_]
_MIN_SNR = 20.0
_FAINT_SNR = 8.0
"""Where fewer than `_ENOUGH` stars reach `_MIN_SNR`."""
_ENOUGH = 12
_MAX_CHANGE = 1.5
"""Factor by which a star's flux ratio may differ from the typical one; centres are whole pixels here."""


def find_stars(science: Exposure, template: Exposure, half: int) -> tuple[_Index, _Index, _Float]:
    """Return pixel (x, y) and S/N of the stars for the kernel, best first; `half` is the clean square's half width.

    Found on the science image, the shallower of the two, with its PSF; transients and strong variables, whose flux in
    the template is not the one that the scale between the images predicts, are left out.
    """
    excluded = blocked_pixels(science)
    image, variance = (np.where(excluded, np.float32(0.0), p) for p in (science.image, science.variance))
    score = score_image(image, variance, excluded, science.need_psf(), degree=0)
    x, y = local_maxima(score, _FAINT_SNR)
    snr = score[y, x].astype(float)
    blocked = excluded | blocked_pixels(template)
    steady = _is_steady(science, template, x, y)
    for least in (_MIN_SNR, _FAINT_SNR):
        bright = steady & (snr > least)
        chosen = np.flatnonzero(bright)[choose_stars(x[bright], y[bright], snr[bright], blocked, half)]
        if len(chosen) >= _ENOUGH:
            break
    return x[chosen], y[chosen], snr[chosen]


def _is_steady(science: Exposure, template: Exposure, x: _Index, y: _Index) -> _Bool:
    """Return which sources have the flux ratio between the images that is typical of all, within a factor."""
    fluxes = [
        psf_fluxes(e.image, e.variance, ~blocked_pixels(e), e.need_psf(), x, y)["flux"] for e in (template, science)
    ]
    measured = np.isfinite(fluxes[0]) & np.isfinite(fluxes[1]) & (fluxes[1] > 0.0)
    ratio = np.full(len(x), np.nan)
    ratio[measured] = fluxes[0][measured] / fluxes[1][measured]
    present = np.asarray(measured & (ratio > 0.0))
    if not present.any():
        return present
    steady = present.copy()
    steady[present] = _commonest(np.log(ratio[present]), float(np.log(_MAX_CHANGE)))
    return steady


def _commonest(values: _Float, reach: float) -> _Bool:
    """Return which values lie within `reach` of the median of the most crowded stretch of that reach.

    A median of all would be led astray where more sources have come or gone than stand still.
    """
    ordered = np.sort(values)
    first = np.searchsorted(ordered, ordered - reach)
    last = np.searchsorted(ordered, ordered + reach, side="right")
    best = int(np.argmax(last - first))
    return np.asarray(np.abs(values - np.median(ordered[first[best] : last[best]])) < reach)


def choose_stars(
    x: _Index, y: _Index, snr: _Float, blocked: _Bool, half: int, *, cells: int = 8, most: int = 400
) -> _Index:
    """Return indices of the stars to fit, best first: the brightest of each cell of a `cells` x `cells` grid.

    A star qualifies where its square of 2 `half` + 1 pixels lies on the image and holds no blocked pixel.
    """
    height, width = blocked.shape
    inside = (x >= half) & (x < width - half) & (y >= half) & (y < height - half)
    clean = inside.copy()
    clean[inside] = _blocked_count(blocked, x[inside], y[inside], half) == 0
    order = np.flatnonzero(clean)[np.argsort(-snr[clean], kind="stable")]
    cell = (y[order] * cells // height) * cells + x[order] * cells // width
    rank = _rank_within(cell)
    chosen = order[np.argsort(rank, kind="stable")[:most]]
    return np.asarray(chosen)


def _rank_within(label: _Index) -> _Index:
    """Return for each entry how many earlier entries carry the same label."""
    order = np.argsort(label, kind="stable")
    rank = np.empty(len(label), np.intp)
    rank[order] = np.arange(len(label)) - np.searchsorted(label[order], label[order])
    return rank


def _blocked_count(blocked: _Bool, x: _Index, y: _Index, half: int) -> _Index:
    """Return the number of blocked pixels in the square round each position, from a summed-area table."""
    table = np.zeros((blocked.shape[0] + 1, blocked.shape[1] + 1), np.int32)
    np.cumsum(blocked, axis=0, dtype=np.int32, out=table[1:, 1:])
    np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
    x0, x1, y0, y1 = x - half, x + half + 1, y - half, y + half + 1
    return np.asarray(table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0])
