"""Kron fluxes: nearly all of a source's light, of any profile, in an ellipse that its own size sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import sep
from numpy.typing import NDArray

__all__ = ["KRON_DTYPE", "kron_fluxes"]

KRON_DTYPE = np.dtype([("kronFlux", "f8"), ("kronFluxErr", "f8"), ("kronRad", "f8"), ("flag", "?")])
"""Flux in the ellipse and its error, in the image's unit; the ellipse's radius sqrt(a b), pixels; true where the
ellipse is cut by the image's edge, is mostly masked, or could not be found (then it is NaN)."""

SEARCH = 6.0
"""Times the rms size: within it the light's first moment is taken."""
FACTOR = 2.5
"""Times the first moment: the ellipse (Kron 1980, ApJS 43, 305; SExtractor's FLUX_AUTO)."""
LEAST = 3.5
"""Times the rms size: no ellipse is smaller."""
_CUT_OR_MASKED = 0x10 | 0x40  # sep: the aperture is truncated, all of it is masked
_FAILED = 0x80  # sep: the Kron sum is not positive


def kron_fluxes(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    masked: NDArray[np.bool_],
    positions: tuple[NDArray[np.floating], NDArray[np.floating]],
    moments: NDArray[np.floating],
    segments: NDArray[np.int32],
    labels: NDArray[np.integer],
) -> NDArray[Any]:
    """Return rows of `KRON_DTYPE` for sources at `positions` (x, y) with second moments (n, 3) of xx, yy, xy, pixels².

    `image`, `variance` float32 and finite, `masked` true where a pixel can't be used. Pixels of other sources'
    footprints (`segments`, own label in `labels`) and masked ones count as the mean of those left in the ellipse.
    """
    rows = np.zeros(len(moments), KRON_DTYPE)
    rows["kronFlux"] = rows["kronFluxErr"] = rows["kronRad"] = np.nan
    rows["flag"] = True
    x, y = (np.ascontiguousarray(axis, float) for axis in positions)
    xx, yy, xy = moments.T
    known = np.isfinite(moments).all(axis=1) & (xx + yy > 0.0) & np.isfinite(x) & np.isfinite(y)
    at = np.flatnonzero(known & (xx * yy - xy * xy > 0.0))
    middle, half = 0.5 * (xx + yy)[at], np.hypot(0.5 * (xx - yy)[at], xy[at])
    a, b = np.sqrt(middle + half), np.sqrt(np.maximum(middle - half, 1e-6))
    theta = np.clip(0.5 * np.arctan2(2.0 * xy[at], (xx - yy)[at]), -0.5 * np.pi, 0.5 * np.pi)
    ellipse = x[at], y[at], a, b, theta
    others = {"mask": masked, "segmap": segments, "seg_id": np.ascontiguousarray(labels[at], np.int32)}
    radius, failed = sep.kron_radius(image, *ellipse, SEARCH, **others)
    scale = np.maximum(FACTOR * np.nan_to_num(radius), LEAST)
    flux, error, flags = sep.sum_ellipse(image, *ellipse, scale, var=variance, subpix=0, **others)
    rows["kronFlux"][at], rows["kronFluxErr"][at] = flux, error
    rows["kronRad"][at] = scale * np.sqrt(a * b)
    rows["flag"][at] = ((np.asarray(flags) & _CUT_OR_MASKED) != 0) | ((np.asarray(failed) & (_FAILED | 0x40)) != 0)
    return rows
