"""Point sources that overlap: positions and fluxes fitted together, group by group.

The fluxes of a group solve one linear system, whose elements are the products of the sources' PSFs over the usable
pixels; each position is fitted to what is left when the neighbours' light is taken away, and both are repeated. In the
end positions and fluxes of a group are fitted together by Gauss-Newton, so that the errors of close pairs hold what
each does to the other. Weights are those of `photometry`: equal for every pixel, errors from the variance plane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import signal
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from workers.imaging.photometry import MIN_SUPPORT, core_half, fitted_positions
from workers.imaging.point_fits import fit_amplitudes, shifted_gradients, shifted_stamps
from workers.imaging.psf import PsfModel
from workers.imaging.squares import Squares, cut_squares

__all__ = ["BLEND_DTYPE", "fit_blends", "groups_of"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_Index = NDArray[np.int64]

BLEND_DTYPE = np.dtype(
    [(name, "f8") for name in ("x", "y", "xErr", "yErr", "flux", "fluxErr", "fluxBias", "chi2")]
    + [("nPixels", "i4"), ("blendedness", "f8"), ("moved", "?"), ("solved", "?")]
)
"""Position and flux with errors, 0-based pixels and the image's unit; fluxBias as in CENTROID_DTYPE; chi2 over nPixels;
share of the light under the source's PSF that is its neighbours', 0 to 1; whether the position was fitted; false where
the group had no solution and the fluxes are NaN."""

ROUNDS = 3
"""Fits of the fluxes, with fits of the positions between them."""
JOINT_ROUNDS, MOST_JOINT = 2, 25
"""Gauss-Newton steps in all positions and fluxes of a group, and the largest group that takes them."""
STEP = 0.5
"""Pixels: longest of them."""
CHUNK = 1000
"""Sources fitted at once: bounds the memory."""
NOTICEABLE = 0.1
"""Of a flux's error: what a neighbour may add to it unseen."""
RIDGE = 1e-9
"""Of the diagonal: keeps sources at one place solvable."""
MAX_SHIFT = 1.5
"""Pixels that a position may move in all."""


def groups_of(x: _Float, y: _Float, flux: _Float, error: _Float, psf: PsfModel) -> tuple[_Index, _Index]:
    """Return the group of each source and each group's size: those that change each other's flux noticeably are joined.

    `x`, `y` 0-based pixels, finite; `flux` and `error` of single fits, NaN counts as no light. Two belong together
    where one fitted alone would take up more than `NOTICEABLE` of its error from the other, by the PSF's overlap with
    itself at their distance. Both int64: numbers from 0 in the order of first members (n,), sizes (groups,).
    """
    if len(x) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    stamp = psf.stamps(0.5 * psf.width, 0.5 * psf.height)[0]
    overlap = signal.fftconvolve(stamp, stamp[::-1, ::-1])[psf.size - 1, psf.size - 1 :]
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(psf.size - 1, output_type="ndarray")
    a, b = pairs.T
    share = np.interp(np.hypot(x[a] - x[b], y[a] - y[b]), np.arange(psf.size), overlap / overlap[0])
    light = np.abs(np.nan_to_num(flux))
    least = np.where(np.isfinite(error) & (error > 0.0), error, np.inf)
    near = share * np.maximum(light[a] / least[b], light[b] / least[a]) > NOTICEABLE
    near &= np.isfinite(least[a]) & np.isfinite(least[b])
    a, b = a[near], b[near]
    links = coo_matrix((np.ones(len(a), bool), (a, b)), shape=(len(x), len(x)))
    _, label = connected_components(links, directed=False)
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    group = rank[inverse]
    return group, np.bincount(group).astype(np.int64)


@dataclass(frozen=True)
class _Members:
    """Sources as the pixels see them at their present places."""

    column: _Index
    row: _Index
    stamps: _Float


def fit_blends(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    psf: PsfModel,
    x: _Float,
    y: _Float,
    group: NDArray[np.integer],
) -> NDArray[Any]:
    """Fit positions and fluxes of the sources of each group together; return n rows of `BLEND_DTYPE`.

    Planes as in `psf_fluxes`; `x`, `y` first positions, finite; `group` (n,) as of `groups_of`. Fluxes are not
    corrected for `fluxBias`. The time grows with the cube of a group's size.
    """
    order = np.argsort(group, kind="stable")
    bounds = np.r_[0, np.flatnonzero(np.diff(group[order])) + 1, len(order)].astype(np.int64)
    rows = np.zeros(len(x), BLEND_DTYPE)
    begin = 0
    while begin < len(bounds) - 1 and len(x):
        end = max(int(np.searchsorted(bounds, bounds[begin] + CHUNK, side="right")) - 1, begin + 1)
        at = order[bounds[begin] : bounds[end]]
        places = np.asarray(x, float)[at], np.asarray(y, float)[at]
        rows[at] = _fit_chunk(image, variance, usable, psf, places, bounds[begin : end + 1] - bounds[begin])
        begin = end
    return rows


def _fit_chunk(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    psf: PsfModel,
    start: tuple[_Float, _Float],
    bounds: _Index,
) -> NDArray[Any]:
    """Fit some groups; `bounds` between them in the order of the positions `start`."""
    (px, py), half = start, core_half(psf)
    for _ in range(ROUNDS - 1):
        members = _members(psf, px, py)
        flux, _, _ = _solve_groups(image, variance, usable, members, bounds)
        squares = _alone(image, variance, usable, members, flux, half + math.ceil(MAX_SHIFT) + 1, bounds)
        fit = fitted_positions(
            squares.data, squares.noise, psf.fine_stamps(px, py), psf.oversampling, px, py, half, 2, MAX_SHIFT
        )
        far = np.hypot(fit["x"] - start[0], fit["y"] - start[1]) > MAX_SHIFT
        moved = (fit["flags"] == 0) & (fit["flux"] > 0.0) & np.isfinite(fit["xErr"]) & ~far
        px, py = np.where(moved, fit["x"], px), np.where(moved, fit["y"], py)
    members = _members(psf, px, py)
    flux, error, share = _solve_groups(image, variance, usable, members, bounds)
    errors = np.stack([error, fit["xErr"], fit["yErr"]], axis=1)
    for _ in range(JOINT_ROUNDS):
        _joint_step(image, variance, usable, psf, (px, py), flux, errors, bounds)
    moved &= (np.hypot(px - start[0], py - start[1]) < 2.0 * MAX_SHIFT) & np.isfinite(errors[:, 1])
    members = _members(psf, px, py)
    squares = _alone(image, variance, usable, members, flux, psf.size // 2, bounds)
    single = np.empty((len(px), 5))
    fit_amplitudes(squares.data, squares.noise, members.stamps, False, MIN_SUPPORT, single)
    rows = np.zeros(len(px), BLEND_DTYPE)
    for name, column in (("x", px), ("y", py), ("flux", flux), ("fluxErr", errors[:, 0]), ("blendedness", share)):
        rows[name] = column
    for name, column in (("xErr", errors[:, 1]), ("yErr", errors[:, 2]), ("fluxBias", fit["fluxBias"])):
        rows[name] = np.where(moved, column, np.nan)
    rows["chi2"], rows["nPixels"] = single[:, 2], single[:, 4]
    rows["moved"], rows["solved"] = moved, np.isfinite(flux)
    return rows


def _members(psf: PsfModel, x: _Float, y: _Float) -> _Members:
    """Return the PSFs at (x, y) as their pixels see them."""
    column, row = np.round(x), np.round(y)
    stamps = shifted_stamps(psf.fine_stamps(x, y), x - column, y - row, psf.oversampling)
    return _Members(column.astype(np.int64), row.astype(np.int64), stamps)


def _solve_groups(
    image: NDArray[np.floating], variance: NDArray[np.floating], usable: _Bool, members: _Members, bounds: _Index
) -> tuple[_Float, _Float, _Float]:
    """Return fluxes, errors and the neighbours' shares, each (n,), NaN where a group has no solution."""
    flux, error, share = (np.full(len(members.row), np.nan) for _ in range(3))
    half = members.stamps.shape[1] // 2
    squares = cut_squares(image, variance, usable, members.column.astype(float), members.row.astype(float), half)
    for first, last in pairwise(bounds.tolist()):
        part = slice(first, last)
        count = last - first
        normal, noise, right = np.zeros((count, count)), np.zeros((count, count)), np.zeros(count)
        planes = squares.data[part], squares.noise[part], members.stamps[part]
        _products(*planes, members.column[part], members.row[part], normal, noise, right)
        own = np.diagonal(normal)
        enough = own > MIN_SUPPORT * np.square(members.stamps[part]).sum(axis=(1, 2))
        if not enough.any():
            continue
        use = np.ix_(enough, enough)
        inverse = np.linalg.inv(normal[use] + np.diag(RIDGE * own[enough]))
        found = inverse @ right[enough]
        covariance = inverse @ noise[use] @ inverse
        light = normal[use] * np.maximum(found, 0.0)
        at = first + np.flatnonzero(enough)
        flux[at], error[at] = found, np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
        total = light.sum(axis=1)
        share[at] = np.clip(1.0 - np.diagonal(light) / np.where(total > 0.0, total, 1.0), 0.0, 1.0)
    return flux, error, share


def _joint_step(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    psf: PsfModel,
    places: tuple[_Float, _Float],
    flux: _Float,
    errors: _Float,
    bounds: _Index,
) -> None:
    """Take one Gauss-Newton step in positions and fluxes of every group that is not too large.

    Changes `places` (x, y), `flux` and `errors` (n, 3: flux, x, y) in place.
    """
    column, row = np.round(places[0]), np.round(places[1])
    shift = places[0] - column, places[1] - row
    designs = shifted_gradients(psf.fine_stamps(*places), *shift, psf.oversampling)
    squares = cut_squares(image, variance, usable, column, row, psf.size // 2)
    for first, last in pairwise(bounds.tolist()):
        at = slice(first, last)
        if last - first > MOST_JOINT or not (np.isfinite(flux[at]).all() and (flux[at] > 0.0).all()):
            continue
        design = designs[at].reshape(-1, psf.size, psf.size)
        count = len(design)
        normal, noise, right = np.zeros((count, count)), np.zeros((count, count)), np.zeros(count)
        planes = squares.data[at], squares.noise[at], design, squares.x[at], squares.y[at]
        _products(*planes, normal, noise, right)
        own = np.diagonal(normal)
        if not (own > 0.0).all():
            continue
        inverse = np.linalg.inv(normal + np.diag(RIDGE * own))
        found = (inverse @ right).reshape(-1, 3)
        sigma = np.sqrt(np.maximum(np.diagonal(inverse @ noise @ inverse), 0.0)).reshape(-1, 3)
        if not (found[:, 0] > 0.0).all():
            continue
        places[0][at] += np.clip(found[:, 1] / found[:, 0], -STEP, STEP)
        places[1][at] += np.clip(found[:, 2] / found[:, 0], -STEP, STEP)
        flux[at], errors[at, 0], errors[at, 1:] = found[:, 0], sigma[:, 0], sigma[:, 1:] / found[:, :1]


def _alone(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    members: _Members,
    flux: _Float,
    half: int,
    bounds: _Index,
) -> Squares:
    """Cut the squares of 2 half + 1 pixels round the sources, and take the light of their groups' others away."""
    squares = cut_squares(image, variance, usable, members.column.astype(float), members.row.astype(float), half)
    _take_others(squares.data, squares.noise, members.column, members.row, members.stamps, np.nan_to_num(flux), bounds)
    return squares


@njit(cache=True, nogil=True)
def _products(
    data: Any, noise: Any, stamps: Any, column: Any, row: Any, normal: Any, weighted: Any, right: Any
) -> None:  # pragma: no cover - compiled
    """Sum D_a D_b, D_a D_b V and D_a d over the usable pixels of one group's squares.

    D are the stamps, the same number of them for each square, one square's after the other's.
    """
    size, each = stamps.shape[1], stamps.shape[0] // data.shape[0]
    for a in range(stamps.shape[0]):
        own = a // each
        for i in range(size):
            right[a] += _dot(stamps[a, i], data[own, i])
        for b in range(a + 1):
            other = b // each
            down, across = row[own] - row[other], column[own] - column[other]
            if abs(down) >= size or abs(across) >= size:
                continue
            left, end = max(0, -across), min(size, size - across)
            total, spread = 0.0, 0.0
            for i in range(max(0, -down), min(size, size - down)):
                theirs = stamps[b, i + down, left + across : end + across]
                plain, noisy = _dots(stamps[a, i, left:end], theirs, noise[own, i, left:end])
                total += plain
                spread += noisy
            normal[a, b], normal[b, a] = total, total
            weighted[a, b], weighted[b, a] = spread, spread


@njit(cache=True, nogil=True, fastmath=True)
def _dot(first: Any, second: Any) -> float:  # pragma: no cover - compiled
    """Return the sum of first x second."""
    total = 0.0
    for k in range(first.size):
        total += first[k] * second[k]
    return total


@njit(cache=True, nogil=True, fastmath=True)
def _dots(first: Any, second: Any, noise: Any) -> tuple[float, float]:  # pragma: no cover - compiled
    """Return the sums of first x second and first x second x noise where the noise is not negative."""
    total, spread = 0.0, 0.0
    for k in range(first.size):
        product = first[k] * second[k]
        total += product if noise[k] >= 0.0 else 0.0
        spread += product * noise[k] if noise[k] >= 0.0 else 0.0
    return total, spread


@njit(cache=True, nogil=True)
def _take_others(
    data: Any, noise: Any, column: Any, row: Any, stamps: Any, light: Any, bounds: Any
) -> None:  # pragma: no cover - compiled
    """Subtract from each square the stamps, times their light, of the others of its group; usable pixels only."""
    size, wide = stamps.shape[1], data.shape[1]
    for group in range(bounds.size - 1):
        for a in range(bounds[group], bounds[group + 1]):
            for b in range(bounds[group], bounds[group + 1]):
                # the square's first pixel, counted from the first one of the other's stamp
                down = row[a] - wide // 2 - row[b] + size // 2
                across = column[a] - wide // 2 - column[b] + size // 2
                if a == b:
                    continue
                for i in range(max(0, -down), min(wide, size - down)):
                    for j in range(max(0, -across), min(wide, size - across)):
                        if noise[a, i, j] >= 0.0:
                            data[a, i, j] -= light[b] * stamps[b, i + down, j + across]
