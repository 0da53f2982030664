"""How far a PSF can be trusted: the numbers that travel with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.characterize.psf_stars import PsfStars, Residuals, moved_back
from workers.imaging.psf import FWHM_PER_SIGMA, PsfModel
from workers.imaging.psf_shapes import adaptive_moments

__all__ = ["CELLS", "PsfQuality", "psf_quality"]

CELLS = 4
"""Of the residual map, along a side of the detector."""
_GRID = 5


@dataclass(frozen=True)
class PsfQuality:
    """What was fitted, and what the stars say of it."""

    nStars: int
    """Fitted, the reserved ones among them: they join the last round."""
    nReserved: int
    """Held out until then."""
    chi2: float
    """Per degree of freedom, of the reserved stars' cores under the model fitted without them; NaN without any."""
    degree: int
    oversampling: int
    size: float
    """Adaptive-moment T = Mxx + Myy, pixels^2, mean over the detector."""
    sizeSpread: float
    """Standard deviation of T over the detector, pixels^2."""
    e1: float
    """(Mxx - Myy) / T, mean over the detector."""
    e2: float
    """2 Mxy / T, mean over the detector."""
    fwhm: float
    """Pixels, at the detector's centre."""
    modelError: float
    """Of the PSF's value at a pixel: what bright stars show beyond their noise."""
    residuals: NDArray[np.float32]
    """(4, 4, n, n): the mean residual of the stars in each cell of the detector (row, column), centred, in units of
    the star's flux; NaN where a cell has no star."""
    counts: NDArray[np.int32]
    """(4, 4): stars per cell."""


def psf_quality(
    model: PsfModel,
    stars: PsfStars,
    left: Residuals,
    weight: NDArray[np.float64],
    *,
    chi2: float,
    reserved: int,
    error: float,
) -> PsfQuality:
    """Gather the numbers; `left` what the model leaves of `stars`, `weight` theirs in the fit."""
    x, y = np.meshgrid(np.linspace(0, model.width - 1, _GRID), np.linspace(0, model.height - 1, _GRID))
    fwhm = model.fwhm(0.5 * model.width, 0.5 * model.height)
    shapes = adaptive_moments(model.stamps(x.ravel(), y.ravel()), guess=(fwhm / FWHM_PER_SIGMA) ** 2)
    residuals, counts = _residual_map(model, stars, left, weight)
    return PsfQuality(
        nStars=len(stars),
        nReserved=reserved,
        chi2=chi2,
        degree=model.degree,
        oversampling=model.oversampling,
        size=float(np.mean(shapes.size)),
        sizeSpread=float(np.std(shapes.size)),
        e1=float(np.mean(shapes.e1)),
        e2=float(np.mean(shapes.e2)),
        fwhm=fwhm,
        modelError=error,
        residuals=residuals,
        counts=counts,
    )


def _residual_map(
    model: PsfModel, stars: PsfStars, left: Residuals, weight: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the weighted mean residual and the number of stars per cell."""
    moved = moved_back(left, stars, 1)
    row = np.clip(stars.y * CELLS / model.height, 0, CELLS - 1).astype(int)
    column = np.clip(stars.x * CELLS / model.width, 0, CELLS - 1).astype(int)
    member = np.zeros((CELLS * CELLS, len(stars)))
    member[row * CELLS + column, np.arange(len(stars))] = 1.0
    with np.errstate(invalid="ignore"):
        mean = np.tensordot(member * weight, moved, axes=1) / (member @ weight)[:, None, None]
    size = moved.shape[1]
    counts = member.sum(axis=1).reshape(CELLS, CELLS).astype(np.int32)
    return mean.reshape(CELLS, CELLS, size, size).astype(np.float32), counts
