"""What is left beside a point source: lobes, rings, lines, and noise that is not what the variance says."""

from __future__ import annotations

import numpy as np

from workers.score.point_source import PointFit
from workers.score.source_pixels import Floats, SourcePixels, ratio, total

__all__ = ["residual_features"]

_REACH = 1.5
"""FWHM; within it residuals are turned by 180 degrees and compared."""
_INNER, _OUTER = 1.0, 2.5
"""FWHM: core, then ring, then surroundings."""
_BRIGHT = 3.0  # sigma


def residual_features(pixels: SourcePixels, fit: PointFit) -> dict[str, Floats]:
    """Return features of residuals and surroundings, float32 (n,) each."""
    scale = np.sqrt(pixels.weight)
    noise = pixels.flux * scale
    return {**_symmetry(pixels, fit.residual * scale), **_counts(pixels, noise), **_surroundings(pixels, noise)}


def _symmetry(pixels: SourcePixels, left: Floats) -> dict[str, Floats]:
    """Power of the residual that changes sign when turned by 180 degrees (dipoles) and that does not (rings)."""
    near = pixels.good & (pixels.radius < _REACH)
    near &= near[:, ::-1, ::-1]
    turned = left[:, ::-1, ::-1]
    count = total(near)
    return {
        "oddPower": ratio(0.5 * total(np.square(left - turned) * near), count),
        "evenPower": ratio(0.5 * total(np.square(left + turned) * near), count),
    }


def _counts(pixels: SourcePixels, noise: Floats) -> dict[str, Floats]:
    """Shares of significant pixels by sign and place, and the extent and elongation of the positive ones."""
    core = pixels.good & (pixels.radius < _INNER)
    ring = pixels.good & (pixels.radius >= _INNER) & (pixels.radius < _OUTER)
    bright = noise > _BRIGHT
    xx, yy = total(bright * np.square(pixels.dx)), total(bright * np.square(pixels.dy))
    xy = total(bright * pixels.dx * pixels.dy)
    return {
        "coreHigh": ratio(total(core & (noise > 2.0)), total(core)),
        "coreLow": ratio(total(core & (noise < -2.0)), total(core)),
        "ringHigh": ratio(total(ring & bright), total(ring)),
        "ringLow": ratio(total(ring & (noise < -_BRIGHT)), total(ring)),
        "brightExtent": ratio(np.sqrt(ratio(xx + yy, total(bright))), pixels.fwhm, 20.0),
        "brightElongation": ratio(np.hypot(xx - yy, 2.0 * xy), xx + yy, 1.0),
    }


def _surroundings(pixels: SourcePixels, noise: Floats) -> dict[str, Floats]:
    """Level and scatter of the pixels away from the source, clipped, in units of the noise that is claimed."""
    far = pixels.good & (pixels.radius >= _OUTER)
    clipped = np.clip(noise, -_BRIGHT, _BRIGHT)
    return {
        "farScatter": ratio(total(np.square(clipped) * far), total(far)),
        "farLevel": ratio(total(clipped * far), total(far)),
        "farBright": ratio(total(far & (np.abs(noise) > _BRIGHT)), total(far)),
    }
