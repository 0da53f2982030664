"""Upper limits: exposures that looked at an object and did not detect it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas import RowGroups
from workers.associate.match import unit_vectors

__all__ = ["inside", "non_detections"]

Rows = NDArray[Any]
_Float = NDArray[np.float64]

_AT_ONCE = 256
"""Positions tested in one go, so that the products stay in the processor's cache."""


def inside(ra: _Float, dec: _Float, exposures: Rows) -> NDArray[np.bool_]:
    """Return which positions lie within the four corners of which exposures (EXPOSURE_DTYPE), bool of shape (n, e).

    `ra`, `dec` are degrees, shape (n,). A position is inside a convex footprint when it is on the same side of all its
    edges as the middle; the edges are great circles.
    """
    found = np.zeros((len(ra), len(exposures)), np.bool_)
    corners = unit_vectors(exposures["cornersRa"], exposures["cornersDec"])
    poles = np.cross(corners, np.roll(corners, -1, axis=1))  # of each edge's great circle, shape (e, 4, 3)
    poles *= np.sign(np.sum(poles.sum(axis=1) * corners.sum(axis=1), axis=-1))[:, None, None]
    poles = np.ascontiguousarray(poles.transpose(1, 2, 0))
    for start in range(0, len(ra), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        x, y, z = unit_vectors(ra[part], dec[part]).T[..., None]
        heights = (x * pole[0] + y * pole[1] + z * pole[2] for pole in poles)  # no matrix product: sums in fixed order
        found[part] = np.logical_and.reduce([height > 0.0 for height in heights])
    return found


def non_detections(ra: _Float, dec: _Float, exposures: Rows, detected: RowGroups) -> RowGroups:
    """Return for each position (degrees, shape (n,)) the limits there, as places (int64) in `exposures`.

    They are the exposures that covered it and whose visit and detector are not among its `detected` diaSource rows.
    """
    limits = inside(ra, dec, exposures)
    pairs = [np.concatenate([exposures[name], detected.rows[name]]) for name in ("visit", "detector")]
    visit, detector = (np.unique(values, return_inverse=True)[1] for values in pairs)
    key = np.unique(visit * (detector.max(initial=0) + 1) + detector, return_inverse=True)[1]
    seen = np.zeros((len(ra), key.max(initial=0) + 1), np.bool_)
    seen[np.repeat(np.arange(len(ra)), detected.counts), key[len(exposures) :]] = True
    limits &= ~seen[:, key[: len(exposures)]]
    return RowGroups(np.nonzero(limits)[1], limits.sum(axis=1))
