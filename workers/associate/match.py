"""One-to-one matching of sources to objects on the sky."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

__all__ = ["match", "offsets", "unit_vectors"]

_Float = NDArray[np.float64]

SIGMA_FLOOR = 0.05
"""Arcsec, added in quadrature to the position errors: astrometry between exposures is no better."""


def unit_vectors(ra: _Float, dec: _Float) -> _Float:
    """Return unit vectors, float64 (n, 3), of positions in degrees."""
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def offsets(ra: _Float, dec: _Float, ra0: _Float | float, dec0: _Float | float) -> tuple[_Float, _Float]:
    """Return (delta RA cos Dec, delta Dec) in arcsec from (ra0, dec0) to (ra, dec), by tangent-plane projection.

    Gnomonic, so it holds at the poles and across RA 0; NaN for the far half of the sky.
    """
    delta = np.radians(ra - ra0)
    dec, dec0 = np.radians(dec), np.radians(dec0)
    depth = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(delta)
    depth = np.where(depth > 0.0, depth, np.nan)
    xi = np.cos(dec) * np.sin(delta) / depth
    eta = (np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(delta)) / depth
    return np.degrees(xi) * 3600.0, np.degrees(eta) * 3600.0


def match(
    source_position: tuple[_Float, _Float],
    source_error: _Float,
    object_position: tuple[_Float, _Float],
    object_error: _Float,
    radius: float,
) -> NDArray[np.int64]:
    """Return for each source the index of its object, int64, or -1: at most one source per object.

    Positions are (ra, dec) in degrees, errors (n, 2) of (RA cos Dec, Dec) in arcsec (NaN: the floor alone), `radius` in
    arcsec. As many pairs as possible are made, and among those the set with the least sum of position chi2 (the
    bipartite assignment of Rubin's association, lsst/ap_association 2026). The order of the input does not matter.
    """
    found = np.full(len(source_position[0]), -1, np.int64)
    if len(found) == 0 or len(object_position[0]) == 0:
        return found
    rows, columns, cost = _pairs(source_position, source_error, object_position, object_error, radius)
    if len(rows) == 0:
        return found
    size = (len(found) + len(object_position[0]),) * 2
    graph = coo_matrix((np.ones(len(rows)), (rows, len(found) + columns)), shape=size)
    label = connected_components(graph, directed=False)[1][rows]
    order = np.argsort(label, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        chosen_rows, chosen_columns = _assign(rows[part], columns[part], cost[part])
        found[chosen_rows] = chosen_columns
    return found


def _pairs(
    source_position: tuple[_Float, _Float],
    source_error: _Float,
    object_position: tuple[_Float, _Float],
    object_error: _Float,
    radius: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], _Float]:
    """Every pair within `radius`, with its position chi2."""
    tree = cKDTree(unit_vectors(*object_position))
    chord = 2.0 * np.sin(0.5 * np.radians(radius / 3600.0))
    near = tree.query_ball_point(unit_vectors(*source_position), chord, return_sorted=True)
    counts = np.array([len(part) for part in near])
    rows = np.repeat(np.arange(len(near)), counts)
    columns = np.concatenate([np.asarray(part, np.int64) for part in near]) if counts.sum() else np.zeros(0, np.int64)
    dx, dy = offsets(
        source_position[0][rows], source_position[1][rows], object_position[0][columns], object_position[1][columns]
    )
    variance = np.nan_to_num(source_error[rows]) ** 2 + np.nan_to_num(object_error[columns]) ** 2 + SIGMA_FLOOR**2
    return rows, columns, dx**2 / variance[:, 0] + dy**2 / variance[:, 1]


def _assign(
    rows: NDArray[np.int64], columns: NDArray[np.int64], cost: _Float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Solve one connected group of pairs; absent pairs cost more than all real ones together."""
    if len(rows) == 1:
        return rows, columns
    sources, row_index = np.unique(rows, return_inverse=True)
    objects, column_index = np.unique(columns, return_inverse=True)
    absent = 2.0 * cost.sum() + 1.0
    table = np.full((len(sources), len(objects)), absent)
    table[row_index, column_index] = cost
    left, right = linear_sum_assignment(table)
    real = table[left, right] < absent
    return sources[left[real]], objects[right[real]]
