"""What a star's flux error would be at the flux it should have: errors from the measured flux bias weighted means."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["expected_error"]

_Float = NDArray[np.float64]

POISSON = 2.0
"""Electrons² of variance per electron, at most: 1 in an aperture, 4/3 in a PSF fit with equal weights."""
LOCAL = 0.3
"""In log variance: what a star's variance may differ from the detector's by without its place being noisier."""


def expected_error(electrons: _Float, error: _Float, expected: _Float) -> _Float:
    """Return the error each star has at its `expected` flux; electrons, float64 (n,), `error` above 0.

    Variance is a background's plus a share of the flux; both are fitted to the measured ones. Poisson noise that raises
    a flux raises its error too, so that weights of measured errors favour what was measured low: by 1 / (S/N)².
    Stars whose variance is far from that law (holes in the stamp, a bright sky) keep the factor by which it is.
    """
    variance = np.square(error)
    design = np.stack([np.ones_like(electrons), electrons], axis=1) / variance[:, None]
    slope = float(np.clip(np.linalg.lstsq(design, np.ones(len(electrons)), rcond=None)[0][1], 0.0, POISSON))
    sky = max(float(np.median(variance - slope * electrons)), 0.1 * float(variance.min()))
    local = np.log(variance / (sky + slope * np.maximum(electrons, 0.0)))
    law = sky + slope * np.maximum(expected, 0.0)
    return np.asarray(np.sqrt(np.where(np.abs(local) > LOCAL, law * np.exp(local), law)))
