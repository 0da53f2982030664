"""Clouds: how transparent the sky was beside a clear one, and whether the stars' residuals change over the detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gamma

from workers.characterize.zero_point import ZeroPoint
from workers.imaging.bright_stars import AB_NJY
from workers.survey.characterize_config import PhotometryConfig

__all__ = ["SkyClarity", "cloud_structure", "sky_clarity"]

_Float = NDArray[np.float64]

PER_CELL = 12
"""Stars in a cell on average, at least."""
MOST_CELLS = 5
"""Along a side."""
CHANCE = 1e-4
"""That a clear sky is called structured."""
LEAST_STRUCTURE = 0.01
"""Relative, rms between cells: what a flat field or a PSF can leave is no cloud."""
WINSOR = 3.0
"""Sigma beyond which a star's residual counts no more."""
SHUFFLES = 100


@dataclass(frozen=True)
class SkyClarity:
    """What the zero point says of the sky."""

    transparency: float
    """1: clear; NaN where the configuration does not tell a clear sky's zero point."""
    transparencyErr: float
    structure: float
    """Relative rms of the residuals between parts of the detector beyond their errors; 0 where stars are too few."""
    structureChance: float
    """Probability of so much structure under an even sky; 1 where stars are too few."""
    cloudFlag: bool


def sky_clarity(
    zero: ZeroPoint,
    band: str,
    exposure_time: float,
    shape: tuple[int, int],
    config: PhotometryConfig,
    airmass: float = 1.0,
) -> SkyClarity:
    """Return transparency and cloud flag of an exposure of `exposure_time` s on a detector of `shape` (height, width).

    A clear sky's zero point is `config.zero_point[band]` less `config.extinction[band]` (mag per airmass, 0 where not
    told) times (airmass - 1). The flag is raised below `config.min_transparency` by more than two sigma, or by a zero
    point that changes over the detector beyond the stars' errors.
    """
    transparency = error = np.nan
    if band in config.zero_point:
        magnitude = config.zero_point[band] - config.extinction.get(band, 0.0) * (airmass - 1.0)
        clear = 10.0 ** (0.4 * (AB_NJY - magnitude)) / exposure_time
        transparency = clear / zero.nJyPerElectron
        error = transparency * zero.relativeError
    structure, chance = cloud_structure(zero, shape)
    dim = bool(transparency + 2.0 * error < config.min_transparency)
    return SkyClarity(transparency, error, structure, chance, dim or (chance < CHANCE and structure > LEAST_STRUCTURE))


def cloud_structure(zero: ZeroPoint, shape: tuple[int, int]) -> tuple[float, float]:
    """Return rms and chance of the structure in the residuals of `zero.stars`, with the spatial term put back.

    Neither errors that are too small nor outliers that lie everywhere make structure.
    """
    rows = zero.stars
    fine = np.zeros(0, bool) if rows is None else np.isfinite(rows["x"]) & np.isfinite(rows["y"])
    side = min(MOST_CELLS, int(np.sqrt(np.count_nonzero(fine) / PER_CELL)))
    if rows is None or side < 2:
        return 0.0, 1.0
    rows = rows[fine]
    value = (1.0 + rows["residual"]) / zero.field(rows["x"], rows["y"]) - 1.0
    error = np.hypot(rows["error"], zero.scatter)
    column = np.clip((rows["x"] + 0.5) / shape[1] * side, 0, side - 1).astype(int)
    row = np.clip((rows["y"] + 0.5) / shape[0] * side, 0, side - 1).astype(int)
    return _between(value, error, rows["membership"], row * side + column)


def _between(value: _Float, error: _Float, membership: _Float, cell: NDArray[np.int64]) -> tuple[float, float]:
    """Compare the cells' means with those of the same stars shuffled among the cells: a null that needs no error.

    The chance is that of a gamma law with the mean and the variance of the shuffled statistics.
    """
    weight = membership / np.square(error)
    score = weight * error * np.clip(value / error, -WINSOR, WINSOR)
    score -= weight * (score.sum() / weight.sum())
    shuffle = np.random.default_rng(len(value))
    found, spread = _statistic(score, weight, cell)
    null = np.array([_statistic(score, weight, shuffle.permutation(cell)) for _ in range(SHUFFLES)])
    mean, variance = float(null[:, 0].mean()), float(null[:, 0].var())
    chance = float(gamma.sf(found, mean**2 / variance, scale=variance / mean)) if variance > 0.0 else 1.0
    return float(np.sqrt(max(spread - float(null[:, 1].mean()), 0.0))), chance


def _statistic(score: _Float, weight: _Float, cell: NDArray[np.int64]) -> tuple[float, float]:
    """Return chi-squared of the cells' means, and their weighted mean square."""
    total = np.bincount(cell, weight)
    some = total > 0.0
    chi2 = float((np.square(np.bincount(cell, score)[some]) / total[some]).sum())
    return chi2, chi2 / float(total.sum())
