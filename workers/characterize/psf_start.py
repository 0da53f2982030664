"""The first PSF: the round Moffat profile that fits the bright stars best, integrated over pixels.

Light that is finer than the pixels can't be told from one star's pixels; a profile that is close to the true one has
it about right from the start, and the rounds that follow need to add what pixels do tell.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from workers.characterize.psf_stars import PsfStars, located, residuals
from workers.imaging.psf import PsfModel, shift_stamps

__all__ = ["moffat_psf", "starting_psf"]

_Float = NDArray[np.float64]

BRIGHTEST = 40
"""Stars that are fitted."""
TURNS, TURNS_FINER = 5, 2
ERROR = 0.03
"""Of the profile, relative: how well stars' pixels follow it."""
STEP = 0.02
"""In ln: of the numerical derivatives."""
BETA = (1.6, 12.0)
"""Bounds; beyond 12 a Moffat is a Gaussian."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(5)


def moffat_psf(fwhm: float, beta: float, *, size: int, width: int, height: int, oversampling: int) -> PsfModel:
    """Return a constant round Moffat (1969, A&A 3, 455) of `fwhm` pixels before they integrate it."""
    half = oversampling * (size // 2)
    places = (np.arange(-half, half + 1) / oversampling)[:, None] + 0.5 * _NODES
    squared = np.square(places.ravel())
    scale = (0.5 * fwhm) ** 2 / (2.0 ** (1.0 / beta) - 1.0)
    value = (1.0 + (squared[:, None] + squared) / scale) ** -beta
    count, nodes = places.shape
    stamp = np.einsum("aibj,i,j->ab", value.reshape(count, nodes, count, nodes), _WEIGHTS, _WEIGHTS)
    stamp *= oversampling**2 / stamp.sum()
    return PsfModel(stamp[None].astype(np.float32), 0, width, height, oversampling)


def starting_psf(stars: PsfStars, fwhm: float, *, width: int, height: int, finer: Callable[[float], int]) -> PsfModel:
    """Return the Moffat profile that fits the brightest of `stars` (brightest first); `fwhm` a guess, pixels.

    `finer` tells the oversampling for a FWHM: the profile is fitted on pixels, and once more on the finer grid.
    """
    stars, size = stars.chosen(np.arange(len(stars)) < BRIGHTEST), stars.data.shape[1]
    domain = {"size": size, "width": width, "height": height}
    values = _fitted(stars, np.log([max(fwhm, 1.0), 3.5]), TURNS, {**domain, "oversampling": 1})
    model = moffat_psf(*np.exp(values), **domain, oversampling=1)
    oversampling = finer(model.fwhm(0.5 * width, 0.5 * height))
    if oversampling == 1:
        return model
    values = _fitted(stars, values, TURNS_FINER, {**domain, "oversampling": oversampling})
    return moffat_psf(*np.exp(values), **domain, oversampling=oversampling)


def _fitted(stars: PsfStars, values: _Float, turns: int, grid: dict[str, int]) -> _Float:
    """Return ln FWHM and ln beta after some turns of Gauss-Newton from `values`."""

    def profile(at: _Float) -> PsfModel:
        fwhm, beta = np.exp(at)
        return moffat_psf(fwhm, beta, **grid)

    for turn in range(turns):
        model = profile(values)
        stars = located(stars, model, 6 if turn == 0 else 2)
        if len(stars) == 0:
            break
        slopes = [
            (profile(values + step).coefficients - profile(values - step).coefficients) / (2.0 * STEP)
            for step in np.diag([STEP, STEP])
        ]
        values = values + np.clip(_change(stars, model, slopes, clip=turn > 1), -0.3, 0.3)
        values = np.clip(values, np.log([0.5, BETA[0]]), np.log([0.8 * grid["size"], BETA[1]]))
    return values


def _change(stars: PsfStars, model: PsfModel, slopes: list[NDArray[np.float32]], *, clip: bool) -> _Float:
    """Return the change of the profile's parameters that takes most of the stars' residuals away."""
    left = residuals(stars, model, ERROR, clip=clip)
    shift = stars.x - stars.column, stars.y - stars.line
    planes = []
    for plane in (model.coefficients, *slopes):
        moved = shift_stamps(np.broadcast_to(plane, (len(stars), *plane.shape[1:])), *shift, model.oversampling)
        planes.append((moved * left.good).reshape(len(stars), -1))
    stamp, *tangents = planes
    norm = np.square(stamp).sum(axis=1, keepdims=True)
    # the flux is fitted too: only what it can't take up counts
    design = np.stack([plane - stamp * (stamp * plane).sum(axis=1, keepdims=True) / norm for plane in tangents])
    weight = (np.minimum(left.snr, 1.0 / ERROR**1.5) ** 2)[:, None]
    normal = np.einsum("asp,bsp->ab", design * weight, design)
    right = np.einsum("asp,sp->a", design * weight, left.residual.reshape(len(stars), -1))
    return np.asarray(np.linalg.solve(normal + 1e-9 * np.trace(normal) * np.eye(2), right))
