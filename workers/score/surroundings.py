"""What lies at the source in the two images themselves, and what the mask says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.imaging.masks import MaskPlane
from workers.score.point_source import PointFit
from workers.score.source_pixels import UNUSABLE, Floats, Side, SourcePixels, ratio, total

__all__ = ["host_features", "mask_features"]

_NEAR = 1.5
"""FWHM; within it the host's peak is looked for."""
_VISIBLE = 5.0  # sigma
_SATURATED = MaskPlane.SATURATED | MaskPlane.SATURATED_TEMPLATE | MaskPlane.BLEED
_DOUBTFUL = (
    MaskPlane.SUSPECT
    | MaskPlane.STREAK
    | MaskPlane.INTERPOLATED
    | MaskPlane.CROSSTALK
    | MaskPlane.HIGH_VARIANCE
    | MaskPlane.SPIKE
    | MaskPlane.GHOST
)
_OFF = MaskPlane.EDGE | MaskPlane.NO_DATA


def host_features(pixels: SourcePixels, fit: PointFit) -> dict[str, Floats]:
    """Return features of the light under the source, float32 (n,) each.

    A change of a few per cent of a bright host, at its centre or on its slope, is most often a mismatch.
    """
    faint, faint_snr = _forced(pixels.faint)
    _, bright_snr = _forced(pixels.bright)
    noise = pixels.faint.flux * np.sqrt(pixels.faint.weight)
    near = np.where(pixels.radius < _NEAR, noise, np.float32(-np.inf)).reshape(len(noise), -1)
    at = np.argmax(near, axis=1)
    row = np.arange(len(noise))
    seen = near[row, at] > _VISIBLE
    distance = np.where(seen, pixels.radius.reshape(len(noise), -1)[row, at], np.float32(_NEAR))
    return {
        "faintSnr": faint_snr,
        "brightSnr": bright_snr,
        "contrast": ratio(fit.flux, fit.flux + np.maximum(faint, np.float32(0.0)), 1.0),
        "hostPeak": np.clip(noise.max(axis=(1, 2)), -1e3, 1e3),
        "hostDistance": np.asarray(distance, np.float32),
        "hostSlope": ratio(_slope(pixels.faint), fit.peak),
    }


def mask_features(pixels: SourcePixels) -> dict[str, Floats]:
    """Return the shares of pixels by what their mask says, float32 (n,) each; fakes and detections don't count."""
    core, wide = pixels.radius < 1.0, pixels.radius < 2.0
    everywhere = np.ones_like(core)
    return {
        "coreUnusable": _share(~pixels.good, core),
        "unusable": _share(~pixels.good, everywhere),
        "offImage": _share((pixels.mask & int(_OFF)) != 0, everywhere),
        "defects": _share((pixels.mask & int(UNUSABLE & ~_OFF)) != 0, wide),
        "coreSaturated": _share((pixels.mask & int(_SATURATED)) != 0, core),
        "saturated": _share((pixels.mask & int(_SATURATED)) != 0, everywhere),
        "doubtful": _share((pixels.mask & int(_DOUBTFUL)) != 0, wide),
    }


def _forced(side: Side) -> tuple[Floats, Floats]:
    """Return PSF flux and its S/N at the source's position, float32 (n,)."""
    weighted = side.psf * side.weight
    norm, seen = total(weighted * side.psf), total(weighted * side.flux)
    return ratio(seen, norm, 1e30), ratio(seen, np.sqrt(norm), 1e4)


def _slope(side: Side) -> Floats:
    """Return the change of the image per pixel at the source, over three pixels, float32 (n,)."""
    c = side.flux.shape[1] // 2
    right, left = (side.flux[:, c - 1 : c + 2, c + step].mean(axis=1) for step in (1, -1))
    above, below = (side.flux[:, c + step, c - 1 : c + 2].mean(axis=1) for step in (1, -1))
    return np.asarray(0.5 * np.hypot(right - left, above - below))


def _share(flagged: NDArray[np.bool_], region: NDArray[np.bool_]) -> Floats:
    return ratio(total(flagged & region), total(region))
