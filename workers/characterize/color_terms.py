"""Colour terms: how much the camera's band differs from the catalogue's of the same name, by the colour of the star.

magnitude in the camera's band = magnitude in the catalogue + slope x (colour - pivot). A slope is fitted to a night's
stars of many exposures, each with a zero point of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigurationError, DataError
from workers.imaging.fits import write_atomically

__all__ = ["STAR_DTYPE", "ColorTerm", "fit_color_terms", "load_color_terms", "save_color_terms"]

_Float = NDArray[np.float64]
_Index = NDArray[np.int64]

STAR_DTYPE = np.dtype(
    [("exposure", "i8"), ("star", "i8"), ("band", "U16"), ("color", "f8"), ("difference", "f8"), ("error", "f8")]
)
"""One star on one exposure: numbers that name both, band, colour (mag), instrumental minus catalogue magnitude and its
error (mag)."""
LEAST_STARS = 30
LEAST_SPREAD = 0.1
"""Mag of colour (standard deviation within exposures) without which there is no slope."""
TUNING = 4.0
"""Sigma from which on Tukey's biweight gives a star no weight."""
START_SCATTER = 0.5
"""Mag: at first a star this far off still counts; each round is narrower, down to the stars' scatter."""
ROUNDS = 50


@dataclass(frozen=True)
class ColorTerm:
    """Of one band."""

    color: str
    """Two bands of the catalogue, ``blue-red``."""
    slope: float
    error: float
    pivot: float
    """Colour (mag) at which the two bands agree: that of the source a zero point holds for."""
    nStars: int = 0
    nights: int = 0

    @property
    def bands(self) -> tuple[str, str]:
        """The blue and the red band."""
        blue, _, red = self.color.partition("-")
        return blue, red

    def factor(self, color: _Float) -> _Float:
        """Return the flux in the camera's band over that in the catalogue's, for `color` (mag); NaN for NaN."""
        return np.asarray(10.0 ** (-0.4 * self.slope * (color - self.pivot)))


def fit_color_terms(stars: NDArray[Any], colors: Mapping[str, str]) -> dict[str, ColorTerm]:
    """Return the colour term of each band in `stars`, rows of `STAR_DTYPE`; `colors` names the colour by band.

    The pivot is the median colour. Bands with fewer than 30 stars, or without a spread in colour, are left out. Robust
    (Tukey's biweight); the error holds for a star whose catalogue flux is off on all
    exposures (Huber sandwich, one cluster per star). Raises DataError where no band is left.
    """
    terms = {}
    for band in sorted(set(stars["band"].tolist()) & set(colors)):
        rows = stars[stars["band"] == band]
        fine = np.isfinite(rows["color"]) & np.isfinite(rows["difference"]) & (rows["error"] > 0.0)
        term = _fit_band(rows[fine], colors[band])
        if term is not None:
            terms[str(band)] = term
    if not terms:
        raise DataError(
            f"colour terms failed: no band of {', '.join(sorted(colors)) or '(none)'} has {LEAST_STARS} stars whose "
            f"colours differ by {LEAST_SPREAD:g} mag, of {len(stars)} matches; does the catalogue hold both bands?"
        )
    return terms


def _fit_band(rows: NDArray[Any], color: str) -> ColorTerm | None:
    """Iterate slope and zero points with weights that shrink with the residual."""
    exposure = np.unique(rows["exposure"], return_inverse=True)[1]
    star = np.unique(rows["star"], return_inverse=True)[1]
    if len(rows) == 0 or star.max() + 1 < LEAST_STARS:
        return None
    pivot = float(np.median(rows["color"]))
    offset, difference = rows["color"] - pivot, rows["difference"].astype(float)
    if np.std(_centred(offset, np.ones(len(rows)), exposure)) < LEAST_SPREAD:
        return None
    slope, scatter = 0.0, START_SCATTER
    weight, residual = np.ones(len(rows)), difference - _levels(difference, exposure)
    for _ in range(ROUNDS):
        variance = np.square(rows["error"]) + scatter**2
        weight = np.square(np.clip(1.0 - np.square(residual) / (TUNING**2 * variance), 0.0, None)) / variance
        x, y = _centred(offset, weight, exposure), _centred(difference, weight, exposure)
        new = float((weight * x * y).sum() / (weight * x * x).sum())
        residual = y - new * x
        narrower = max(_scatter(residual, rows["error"]), 0.7 * scatter)
        done = abs(new - slope) < 1e-6 and abs(narrower - scatter) < 1e-3 * scatter
        slope, scatter = new, narrower
        if done:
            break
    x = _centred(offset, weight, exposure)
    error = _sandwich(x, residual, weight, rows["error"], scatter, star)
    return ColorTerm(color, slope, error, pivot, len(np.unique(star[weight > 0.0])))


def _levels(difference: _Float, exposure: _Index) -> _Float:
    """Return the median of each row's exposure: near enough to start from."""
    level = [np.median(difference[exposure == number]) for number in range(exposure.max() + 1)]
    return np.asarray(np.array(level)[exposure])


def _centred(value: _Float, weight: _Float, exposure: _Index) -> _Float:
    """Return `value` less its weighted mean in its exposure."""
    total = np.bincount(exposure, weight)
    mean = np.bincount(exposure, weight * value) / np.where(total > 0.0, total, 1.0)
    return np.asarray(value - mean[exposure])


def _scatter(residual: _Float, error: _Float) -> float:
    """Return the robust scatter beyond the errors: that of the median of the squares."""
    beyond = (1.4826 * float(np.median(np.abs(residual)))) ** 2 - float(np.median(np.square(error)))
    return float(np.sqrt(max(beyond, 1e-6)))


def _sandwich(x: _Float, residual: _Float, weight: _Float, error: _Float, scatter: float, star: _Index) -> float:
    """Return the error of the slope from the scatter of the stars' own influences on it (Huber 1967)."""
    variance = np.square(error) + scatter**2
    square = np.square(residual) / (TUNING**2 * variance)
    rise = np.where(square < 1.0, (1.0 - square) * (1.0 - 5.0 * square), 0.0) / variance  # of the influence
    bread = float((rise * x * x).sum())
    meat = float(np.square(np.bincount(star, weight * x * residual)).sum())
    stars = int(star.max()) + 1
    return float(np.sqrt(meat * stars / (stars - 1)) / bread)


def save_color_terms(path: Path, terms: Mapping[str, ColorTerm]) -> None:
    """Write the terms by band as JSON, complete or not at all."""
    table = {band: asdict(terms[band]) for band in sorted(terms)}
    write_atomically(path, (json.dumps(table, indent=1) + "\n").encode())


def load_color_terms(path: Path) -> dict[str, ColorTerm]:
    """Read what `save_color_terms` wrote; empty where there is no file. Raises ConfigurationError for another file."""
    if not path.exists():
        return {}
    try:
        return {band: ColorTerm(**row) for band, row in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"the colour terms {path} can't be read: {error}; make them again with `skydelta photometry color-terms`"
        ) from error
