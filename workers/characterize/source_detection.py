"""Find every source of a calibrated exposure that stands out by five sigma once the image is smoothed like a star."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sep
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from schemas.errors import DataError
from workers.characterize.source_splitting import further_peaks, shared_out
from workers.imaging.exposure import Exposure, FloatImage
from workers.imaging.masks import BLOCKING, MaskPlane
from workers.imaging.psf import FWHM_PER_SIGMA, PsfModel

__all__ = ["Footprints", "find_sources", "sky_noise", "smoothed"]

_Bool = NDArray[np.bool_]
_Rows = NDArray[Any]

FOOTPRINT = 2.5
"""Sigma of the sharper image, where footprints end."""
SHARP = 0.45
"""Of the PSF's width: the smoothing of the image in which footprints are drawn and blends split."""
FEWEST_PIXELS = 4
THINNING = 4
"""Every so many pixels along a side tell of the sky's noise."""
NOISE_MESH = 64
"""Pixels of the thinned image."""
MAX_FRACTION = 0.5
"""Of the pixels above threshold: beyond it the background or the noise is wrong, not the sky full."""


FOOTPRINT_DTYPE = np.dtype([("x", "f8"), ("y", "f8"), ("xpeak", "i8"), ("ypeak", "i8")])
"""Barycentre of the footprint and its highest pixel, 0-based, in the sharper image; both are the peak for one that was
split off."""


@dataclass(frozen=True)
class Footprints:
    """The sources of one image."""

    rows: _Rows
    """Of FOOTPRINT_DTYPE, ordered by (y, x) of the peak."""
    snr: NDArray[np.float32]
    """Per row: the peak of the image smoothed like a star, in units of its noise."""
    segments: NDArray[np.int32]
    """(height, width): 0, or 1 + the row that owns the pixel."""
    parents: NDArray[np.int64]
    """Per row: the number of the connected footprint, the same for sources that were split."""


def find_sources(exposure: Exposure, usable: _Bool, threshold: float) -> Footprints:
    """Return what exceeds `threshold` sigma at its peak in the image smoothed with a Gaussian of the PSF's width.

    `usable` of `usable_pixels`, true for saturated cores too, so that bright stars are found. Footprints are those of
    an image smoothed less, above 2.5 sigma, since the full width hides close pairs; blends are split as SExtractor does
    (Bertin & Arnouts 1996, A&AS 117, 393), and where further peaks stand out. Raises DataError where most of the image
    lies above that.
    """
    sigma, noise = _width(exposure.need_psf()), sky_noise(exposure)
    signal = np.where(usable, exposure.image / noise, np.float32(0.0))
    sharp, matched = smoothed(signal, SHARP * sigma), smoothed(signal, sigma)
    above = int(np.count_nonzero(sharp > FOOTPRINT))
    if above > MAX_FRACTION * sharp.size:
        raise DataError(
            f"exposure {exposure.info.label}: {above} of {sharp.size} pixels lie above {FOOTPRINT:g} sigma: the "
            "background or the variance is wrong; characterize it again"
        )
    sep.set_extract_pixstack(min(2 * above + 100_000, sharp.size))
    sep.set_sub_object_limit(max(1024, above // FEWEST_PIXELS))
    found, segments = sep.extract(
        sharp, FOOTPRINT, mask=~usable, minarea=FEWEST_PIXELS, filter_kernel=None, segmentation_map=True
    )
    segments = np.asarray(segments, np.int32)
    relative = (np.sqrt(np.where(usable, exposure.variance, np.float32(0.0))) / noise).astype(np.float32)
    more = further_peaks(sharp, relative, segments, (found["xpeak"], found["ypeak"]))
    return _in_order(found, more, segments, matched, threshold)


def _in_order(
    found: _Rows, more: tuple[_Rows, _Rows], segments: NDArray[np.int32], matched: FloatImage, threshold: float
) -> Footprints:
    """Join sep's rows and the further peaks, and keep what stands out."""
    rows = np.zeros(len(found) + len(more[0]), FOOTPRINT_DTYPE)
    for name in ("x", "y", "xpeak", "ypeak"):
        rows[name] = np.r_[found[name], more["y" in name]]
    owner = np.r_[np.arange(len(found)), segments[more[1], more[0]] - 1]
    snr = _highest_nearby(matched, rows["xpeak"], rows["ypeak"])
    kept = np.flatnonzero(snr >= threshold)
    kept = kept[np.lexsort((rows["xpeak"][kept], rows["ypeak"][kept]))]
    rows = rows[kept]
    parents = ndimage.label(segments > 0, output=np.int32)[0][rows["ypeak"], rows["xpeak"]]
    shared = shared_out(segments, owner[kept], rows["xpeak"], rows["ypeak"])
    return Footprints(rows, snr[kept], shared, parents.astype(np.int64))


def _width(psf: PsfModel) -> float:
    """Return the sigma, pixels, of a Gaussian of the PSF's width."""
    return psf.fwhm(0.5 * psf.width, 0.5 * psf.height) / FWHM_PER_SIGMA


def _highest_nearby(image: FloatImage, x: NDArray[np.integer], y: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the highest of the 3 x 3 pixels about each one."""
    height, width = image.shape
    step = np.arange(-1, 2)
    rows = np.clip(y[:, None, None] + step[None, :, None], 0, height - 1)
    columns = np.clip(x[:, None, None] + step[None, None, :], 0, width - 1)
    return np.asarray(image[rows, columns].max(axis=(1, 2)), np.float32)


def sky_noise(exposure: Exposure) -> FloatImage:
    """Return the noise of the sky without its sources, per pixel, float32 (height, width), in the image's unit."""
    thin = slice(None, None, THINNING)
    variance, mask = exposure.variance[thin, thin], exposure.mask[thin, thin]
    blocked = ((mask & int(BLOCKING | MaskPlane.DETECTED)) != 0) | ~(np.isfinite(variance) & (variance > 0.0))
    if blocked.all():
        raise DataError(f"exposure {exposure.info.label}: no pixel of it is sky; look at its mask")
    clean = np.ascontiguousarray(np.where(blocked, 0.0, variance), np.float32)
    mesh = min(NOISE_MESH, min(clean.shape))
    level = sep.Background(clean, mask=np.ascontiguousarray(blocked), bw=mesh, bh=mesh).back(dtype=np.float32)
    root = np.sqrt(np.maximum(level, np.float32(np.median(clean[~blocked]) * 0.01)))
    full = np.repeat(np.repeat(root, THINNING, axis=0), THINNING, axis=1)
    return np.ascontiguousarray(full[: exposure.shape[0], : exposure.shape[1]], np.float32)


def smoothed(signal: NDArray[np.float32], sigma: float) -> FloatImage:
    """Return `signal`, of unit noise per pixel, under a Gaussian of `sigma` pixels, again with unit noise."""
    half = max(2, int(np.ceil(3.0 * sigma)))
    weight = np.exp(-0.5 * np.square(np.arange(-half, half + 1) / sigma))
    weight = (weight / np.sqrt(np.square(weight).sum())).astype(np.float32)
    signal = np.ascontiguousarray(signal, np.float32)
    across, out = np.empty_like(signal), np.empty_like(signal)
    _smooth_rows(signal, weight, across)
    _smooth_columns(across, weight, out)
    return out


@njit(cache=True, nogil=True)
def _smooth_rows(image: Any, weight: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Convolve every row with the symmetric `weight`; beyond the edges there is nothing."""
    half, width = weight.size // 2, image.shape[1]
    for i in range(image.shape[0]):
        target, source = out[i], image[i]
        for j in range(width):
            target[j] = weight[half] * source[j]
        for k in range(1, min(half, width - 1) + 1):
            factor = weight[half + k]
            for j in range(width - k):
                target[j] += factor * source[j + k]
            shifted = target[k:]
            for j in range(width - k):
                shifted[j] += factor * source[j]


@njit(cache=True, nogil=True)
def _smooth_columns(image: Any, weight: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Convolve every column with the symmetric `weight`; beyond the edges there is nothing."""
    half = weight.size // 2
    for i in range(image.shape[0]):
        target = out[i]
        target[:] = 0.0
        for k in range(max(-half, -i), min(half, image.shape[0] - 1 - i) + 1):
            factor, source = weight[half + k], image[i + k]
            for j in range(image.shape[1]):
                target[j] += factor * source[j]
