"""The local linear map from pixels to sky at each source, from where the detector's corners lie on the sky."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["local_matrices"]

_Float = NDArray[np.float64]


def local_matrices(
    x: ArrayLike, y: ArrayLike, corners_ra: ArrayLike, corners_dec: ArrayLike, shape: tuple[int, int]
) -> _Float:
    """Return d(ra*cos(dec), dec)/d(x, y) at n pixel positions, float64 of shape (n, 2, 2), degrees per pixel.

    `corners_ra`, `corners_dec` (degrees ICRS) are the four corners of a detector of `shape` (height, width), in the
    order of `SkyWcs.footprint`: (-0.5, -0.5), right, up, left. Between them the map is taken as bilinear in the tangent
    plane of the detector's middle: exact for an undistorted camera, else right but for the distortion's gradient.
    """
    height, width = shape
    u = (np.atleast_1d(np.asarray(x, float)) + 0.5) / width
    v = (np.atleast_1d(np.asarray(y, float)) + 0.5) / height
    vectors = _unit_vectors(np.asarray(corners_ra, float), np.asarray(corners_dec, float))
    weights = np.stack([(1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v], axis=-1)
    along_x = np.stack([v - 1, 1 - v, v, -v], axis=-1) / width
    along_y = np.stack([u - 1, -u, u, 1 - u], axis=-1) / height
    middle = vectors.mean(axis=0)
    plane = vectors / (vectors @ middle)[:, None]  # the corners in the tangent plane of the middle
    position = weights @ plane
    norm = np.linalg.norm(position, axis=-1)
    east, north = _axes(position / norm[:, None])
    columns = [
        np.stack([(step * axis).sum(axis=-1) / norm for axis in (east, north)], axis=-1)
        for step in (along_x @ plane, along_y @ plane)
    ]
    return np.asarray(np.degrees(np.stack(columns, axis=-1)))


def _unit_vectors(ra: _Float, dec: _Float) -> _Float:
    """Return unit vectors of shape (n, 3)."""
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def _axes(direction: _Float) -> tuple[_Float, _Float]:
    """Return the unit vectors to east and north at each direction, shape (n, 3)."""
    a = np.arctan2(direction[:, 1], direction[:, 0])
    east = np.stack([-np.sin(a), np.cos(a), np.zeros_like(a)], axis=-1)
    return east, np.cross(direction, east)
