"""Spots: the holes of a mask before a lamp, bright discs on a dark ground."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

__all__ = ["spots"]

_STEP = 42
_RADIUS = 5.0
_GROUND = 0.004


def spots(rng: np.random.Generator, shape: tuple[int, int], level: float) -> NDArray[np.float64]:
    """Return the expected electrons, float64 of `shape`: discs of `level` and 10 pixels across, one in 42 x 42 pixels.

    Where they lie is the generator's to say; between them are four thousandths of it, light that gets round the mask.
    """
    y, x = np.mgrid[: shape[0], : shape[1]]
    light = np.full(shape, _GROUND * level)
    for row in range(_STEP // 2, shape[0], _STEP):
        for column in range(_STEP // 2, shape[1], _STEP):
            place = np.array([row, column]) + rng.uniform(-12.0, 12.0, 2)
            near = np.s_[max(row - 30, 0) : row + 31, max(column - 30, 0) : column + 31]
            distance = np.hypot(y[near] - place[0], x[near] - place[1])
            light[near] += level * expit((_RADIUS - distance) / 0.5)
    return light
