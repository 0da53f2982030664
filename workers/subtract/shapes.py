"""Second moments of sources and of the PSF, with a Gaussian weight that is corrected for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["weighted_moments"]

_Float = NDArray[np.float64]


def weighted_moments(stamps: NDArray[np.floating], dx: _Float, dy: _Float, sigma: float) -> _Float:
    """Return the central second moments (xx, yy, xy), float64 (m, 3), pixels²; NaN where no source has such.

    `stamps` (m, n, n) hold positive sources at (dx, dy) pixels from the middle pixel; NaN pixels are left out. With
    the Gaussian weight W of width `sigma` the moments are M = (M_w^-1 - W^-1)^-1: exact for a Gaussian source
    (Bernstein & Jarvis 2002, section 3.1, one step).
    """
    axis = np.arange(stamps.shape[1]) - stamps.shape[1] // 2
    u = axis[None, None, :] - dx[:, None, None]
    v = axis[None, :, None] - dy[:, None, None]
    weighted = np.nan_to_num(stamps) * np.exp(-0.5 * (np.square(u) + np.square(v)) / sigma**2)
    total = weighted.sum(axis=(1, 2))
    moments = np.stack([(weighted * part).sum(axis=(1, 2)) for part in (u * u, v * v, u * v)], axis=1)
    out = np.full((len(stamps), 3), np.nan)
    good = total > 0.0
    moments[good] /= total[good, None]
    good &= _positive(moments)
    inverse = _inverted(moments[good]) - np.array([1.0, 1.0, 0.0]) / sigma**2
    sound = _positive(inverse)
    index = np.flatnonzero(good)[sound]
    out[index] = _inverted(inverse[sound])
    return out


def _positive(matrix: _Float) -> NDArray[np.bool_]:
    """Return whether each (xx, yy, xy) is positive definite."""
    xx, yy, xy = matrix.T
    return np.asarray((xx > 0.0) & (xx * yy - xy * xy > 0.0))


def _inverted(matrix: _Float) -> _Float:
    """Return the inverse of each symmetric matrix (xx, yy, xy)."""
    xx, yy, xy = matrix.T
    determinant = xx * yy - xy * xy
    return np.stack([yy / determinant, xx / determinant, -xy / determinant], axis=1)
