"""Which stars the kernel is fitted on: unmasked in both images, bright, and spread over the field."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import Exposure
from workers.imaging.photometry import psf_fluxes
from workers.subtract.detect import local_maxima
from workers.subtract.matched_filter import score_image
from workers.subtract.runs import find_runs

__all__ = ["ENOUGH_STARS", "choose_stars", "find_stars", "stars_with_room"]

_Float = NDArray[np.float64]
_Index = NDArray[np.intp]
_Bool = NDArray[np.bool_]
_MIN_SNR = 20.0
_FAINT_SNR = 8.0
"""Where fewer than `ENOUGH_STARS` stars reach `_MIN_SNR`."""
ENOUGH_STARS = 12
_NARROWER = (10, 7)
"""Half widths of the kernel that are tried where too few stars carry the one wanted."""
_PIXEL_SNR = 5.0
"""Of a single pixel: what a star of S/N 20 has at a seeing of 4 pixels."""
_TRIED = 640
"""Stars measured in both images."""
_MAX_CHANGE = 1.5
"""Factor by which a star's flux ratio may differ from the typical one; centres are whole pixels here."""


def find_stars(
    science: Exposure, template: Exposure, blocked: tuple[_Bool, _Bool], half: int
) -> tuple[_Index, _Index, _Float]:
    """Return pixel (x, y) and S/N of the stars for the kernel, best first; `half` is the clean square's half width.

    Found on the science image, the shallower of the two; `blocked` pixels of both. Transients and strong variables,
    whose flux in the template is not the one that the scale between the images predicts, are left out.
    """
    either = blocked[0] | blocked[1]
    x, y = _bright_pixels(science, blocked[0])
    found = _qualified(science, template, blocked, x, y, either, half, _MIN_SNR)
    if len(found[0]) < ENOUGH_STARS:  # few stars, or faint ones: worth a filtered image
        score = _filtered(science, blocked[0])
        x, y = local_maxima(score, find_runs(score, _FAINT_SNR))
        for least in (_MIN_SNR, _FAINT_SNR):
            found = _qualified(science, template, blocked, x, y, either, half, least)
            if len(found[0]) >= ENOUGH_STARS:
                break
    return found


def stars_with_room(
    science: Exposure, template: Exposure, blocked: tuple[_Bool, _Bool], half: int, half_width: int
) -> tuple[_Index, _Index, int]:
    """Return pixel (x, y) of the stars for stamps of half width `half`, and the half width of the kernel they carry.

    A narrower kernel than `half_width` where that brings more stars: a small or crowded field has few with so much free
    space round them.
    """
    x, y, _ = find_stars(science, template, blocked, half + half_width)
    for narrower in _NARROWER:
        if len(x) >= ENOUGH_STARS or narrower >= half_width:
            continue
        more = find_stars(science, template, blocked, half + narrower)
        if len(more[0]) > len(x):
            (x, y, _), half_width = more, narrower
    return x, y, half_width


def _bright_pixels(science: Exposure, blocked: _Bool) -> tuple[_Index, _Index]:
    """Return the pixels that stand out by themselves and are higher than their neighbours."""
    some = science.variance[::16, ::16][~blocked[::16, ::16]]
    if some.size == 0:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    return local_maxima(science.image, find_runs(science.image, _PIXEL_SNR * float(np.sqrt(np.median(some)))))


def _filtered(science: Exposure, blocked: _Bool) -> NDArray[np.float32]:
    image, variance = (np.where(blocked, np.float32(0.0), plane) for plane in (science.image, science.variance))
    return score_image(image, variance, blocked, science.need_psf(), degree=0)


def _qualified(
    science: Exposure,
    template: Exposure,
    blocked: tuple[_Bool, _Bool],
    x: _Index,
    y: _Index,
    either: _Bool,
    half: int,
    least: float,
) -> tuple[_Index, _Index, _Float]:
    """Return the steady stars with clear surroundings and S/N above `least`, from the highest pixels of each cell."""
    peak = science.image[y, x].astype(float)
    chosen = choose_stars(x, y, peak, either, half, most=_TRIED)
    x, y = x[chosen], y[chosen]
    steady, snr = _compared(science, template, blocked, x, y)
    bright = steady & (snr > least)
    x, y, snr = x[bright], y[bright], snr[bright]
    order = choose_stars(x, y, snr, either, 0)
    return x[order], y[order], snr[order]


def _compared(
    science: Exposure, template: Exposure, blocked: tuple[_Bool, _Bool], x: _Index, y: _Index
) -> tuple[_Bool, _Float]:
    """Return which sources have the flux ratio between the images that is typical of all, and S/N in the science."""
    theirs, ours = (
        psf_fluxes(e.image, e.variance, ~bad, e.need_psf(), x, y)
        for e, bad in zip((template, science), (blocked[1], blocked[0]), strict=True)
    )
    snr = np.nan_to_num(ours["flux"] / ours["fluxErr"])
    measured = np.isfinite(theirs["flux"]) & np.isfinite(ours["flux"]) & (ours["flux"] > 0.0)
    ratio = np.full(len(x), np.nan)
    ratio[measured] = theirs["flux"][measured] / ours["flux"][measured]
    present = np.asarray(measured & (ratio > 0.0))
    steady = present.copy()
    if present.any():
        steady[present] = _commonest(np.log(ratio[present]), float(np.log(_MAX_CHANGE)))
    return steady, np.asarray(snr, float)


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
    clean = np.zeros(len(x), bool)
    _clear(blocked, x, y, half, clean)
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


@njit(cache=True, nogil=True)
def _clear(blocked: Any, x: Any, y: Any, half: int, clear: Any) -> None:  # pragma: no cover - compiled
    """Tell which squares lie on the image and hold no blocked pixel."""
    height, width = blocked.shape
    for k in range(x.size):
        clear[k] = half <= x[k] < width - half and half <= y[k] < height - half
        if clear[k]:
            for row in range(y[k] - half, y[k] + half + 1):
                for column in range(x[k] - half, x[k] + half + 1):
                    clear[k] &= not blocked[row, column]
