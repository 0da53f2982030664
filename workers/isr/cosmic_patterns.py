"""The part of a track that no sum of stars can imitate, as a bank of small filters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from workers.isr.cosmic_bounds import SHAPES, bounds_for, moffat

__all__ = ["HALF", "Patterns", "patterns_for"]

_Float = NDArray[np.float64]

HALF = 3
"""Pixels: the filters have 2 HALF + 1 on a side."""
_SIDE = 2 * HALF + 1
_LENGTHS, _ANGLES, _OFFSETS = (5.0, 3.0), (0.0, 22.5, 45.0), (0.0, 0.25, 0.5)
"""Pixels, degrees and pixels across; the rest of the turn follows by symmetry."""
_SAMPLES = 801
_LEAST_CENTRE = 0.05
"""Filters that hardly look at their central pixel are left out."""


@dataclass(frozen=True)
class Patterns:
    """Filters of unit norm; on any sum of stars above the pedestal none is positive but for noise."""

    weights: NDArray[np.float32]
    """Shape (side², n): a filter's weights row by row, from the lower left of its stamp."""
    lit: NDArray[np.bool_]
    """Shape (side², n): the pixels that the filter's own track crosses."""


@lru_cache(maxsize=64)
def patterns_for(fwhm: float) -> Patterns:
    """Return the bank for stars of `fwhm` pixels or wider: lone pixels and straight tracks through the centre.

    A filter is what is left of a track after the best fit by stars of any flux >= 0, at any place and of each
    profile, and a constant >= 0 (Lawson & Hanson's non-negative least squares): by the conditions of Karush, Kuhn and
    Tucker the residual has no positive product with any of them, and of all such filters it has the highest response
    to the track in white noise.
    """
    stars = _stars(fwhm)
    weights: list[_Float] = []
    lit: list[NDArray[np.bool_]] = []
    known = set()
    for track in _tracks():
        shares, norm = nnls(stars, track.ravel(), maxiter=20 * stars.shape[1])
        left = (track.ravel() - stars @ shares).reshape(track.shape)
        if left[HALF, HALF] < _LEAST_CENTRE * norm:
            continue
        for turned, crossed in zip(_turned(left / norm), _turned(track), strict=True):
            key = np.round(turned, 2).tobytes()
            if key not in known:
                known.add(key)
                weights.append(turned.ravel())
                lit.append(((crossed > 0.3 * crossed.max()) & (turned > 0.1)).ravel())
    return Patterns(
        np.ascontiguousarray(np.transpose(weights), np.float32), np.ascontiguousarray(np.transpose(lit), np.bool_)
    )


def _stars(fwhm: float) -> _Float:
    """Return the stamps (side², n) of stars of each profile on a grid of an eighth of their width, and a constant."""
    rows, columns = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1].reshape(2, -1)
    step = fwhm / 8.0
    steps = int(np.ceil((HALF + fwhm) / step))
    grid = step * np.arange(-steps, steps + 1)
    y, x = (each.ravel() for each in np.meshgrid(grid, grid, indexing="ij"))
    distance = np.hypot(rows[:, None] - y, columns[:, None] - x)
    ring = bounds_for(fwhm).ring
    around = np.hypot(ring[:, :1] - y, ring[:, 1:] - x)
    stamps = []
    for shape in SHAPES:
        stamp = moffat(distance, fwhm, shape)
        pedestal = np.sort(moffat(around, fwhm, shape), axis=0)[: len(ring) // 2].mean(axis=0)
        stamps += [stamp, stamp - pedestal]
    return np.concatenate([*stamps, np.ones((_SIDE**2, 1))], axis=1)


def _tracks() -> list[_Float]:
    """Return the charge (side, side) of a lone pixel and of tracks of one electron per pixel of path."""
    lone = np.zeros((_SIDE, _SIDE))
    lone[HALF, HALF] = 1.0
    tracks = [lone]
    for length, angle, offset in product(_LENGTHS, np.radians(_ANGLES), _OFFSETS):
        along = length * np.linspace(-0.5, 0.5, _SAMPLES)
        x = np.rint(along * np.cos(angle) - offset * np.sin(angle)).astype(int) + HALF
        y = np.rint(along * np.sin(angle) + offset * np.cos(angle)).astype(int) + HALF
        track = np.zeros((_SIDE, _SIDE))
        np.add.at(track, (np.clip(y, 0, _SIDE - 1), np.clip(x, 0, _SIDE - 1)), length / _SAMPLES)
        tracks.append(track)
    return tracks


def _turned(stamp: _Float) -> list[_Float]:
    """Return the eight ways to turn and mirror a stamp."""
    return [image for turns in range(4) for image in (np.rot90(stamp, turns), np.rot90(stamp, turns).T)]
