"""The zero point: how many nanojansky one electron of this exposure is, from reference stars.

The electrons are PSF fluxes. No aperture correction is needed: whatever part of a star's light the PSF's stamp leaves
out is the same for reference stars and for sources, and the zero point contains it.

Per star: measured electrons over catalogue flux, the catalogue's brought to the camera's band by the colour term. Stars
are chosen, and weighed, by what they should give and never by what they gave. The level they share is that of
`robust_level`; where stars left out are predicted better, it is a surface.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.characterize.color_terms import ColorTerm
from workers.characterize.zero_point_mixture import RobustLevel, robust_level
from workers.characterize.zero_point_noise import expected_error
from workers.characterize.zero_point_spatial import SpatialTerm, fit_spatial_term, level_inflation

__all__ = ["RESIDUAL_DTYPE", "ZeroPoint", "ZeroPointFlag", "fit_zero_point"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

MIN_SNR = 15.0
"""Expected, of the stars used: fainter ones carry no weight and the noise in their choice."""
SEARCH_STARS = 200
"""Brightest stars that tell about where the level is."""
NATURAL = 0.4 * float(np.log(10.0))
"""Relative flux per magnitude."""
UNKNOWN_SPREAD = 0.4
"""Mag: of stars' colours, where too few are known to tell."""
NARROW = 0.15
"""Mag: colours with a robust standard deviation below it say nothing of a source of another colour."""
RESIDUAL_DTYPE = np.dtype([(name, "f8") for name in ("x", "y", "residual", "error", "membership")])
"""A star used: pixels (NaN where not given), measured over expected flux less one, its error without the scatter, and
the probability that it is a good star."""


class ZeroPointFlag(IntFlag):
    """What to know before a zero point is trusted."""

    AMBIGUOUS = 1 << 0
    """Two groups of stars agree on different levels: the error spans both."""
    OUTLIERS = 1 << 1
    """More than 40 % of the stars are outliers."""
    COLOR_UNKNOWN = 1 << 2
    """Fewer than half of the good stars have a colour, though there is a colour term."""
    COLOR_NARROW = 1 << 3
    """The good stars' colours are too alike, or the pivot is outside them."""


@dataclass(frozen=True)
class ZeroPoint:
    """The result of one exposure."""

    nJyPerElectron: float
    """Mean over the detector, for a source of the colour term's pivot."""
    relativeError: float
    """With the colour term's part."""
    nStars: int
    """Good ones."""
    scatter: float
    """Relative, of the good stars beyond their errors; with few stars what is usual."""
    colorTerm: ColorTerm | None = None
    """The one used."""
    colorError: float = 0.0
    """Relative: what the error of the colour term adds, as the stars' mean colour is not the pivot."""
    spatial: SpatialTerm | None = None
    """None: the same everywhere, as far as stars tell."""
    chi2: float = 1.0
    """Per degree of freedom, of the good stars about the level with their errors alone."""
    outliers: float = 0.0
    """Share of the stars."""
    flags: int = 0
    """Of `ZeroPointFlag`."""
    stars: NDArray[Any] | None = None
    """Rows of `RESIDUAL_DTYPE`."""

    def field(self, x: _Float, y: _Float) -> _Float:
        """Return the factor on nJyPerElectron at pixel positions, float64 (n,); its mean over the detector is 1."""
        return np.ones(np.shape(x)) if self.spatial is None else self.spatial(x, y)

    def plane(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return the factor on nJyPerElectron of every pixel, (height, width)."""
        return np.ones(shape, np.float32) if self.spatial is None else self.spatial.plane()


@dataclass(frozen=True)
class _Stars:
    """Usable stars; fluxes in electrons and nJy, of one length n."""

    electrons: _Float
    error: _Float
    reference: _Float
    """In the camera's band."""
    relative: _Float
    """Error of the reference, relative."""
    color: _Float
    x: _Float
    y: _Float
    """NaN where not given."""

    def chosen(self, rows: _Bool | NDArray[np.intp]) -> _Stars:
        """Return some of the stars."""
        return _Stars(*(getattr(self, name)[rows] for name in _Stars.__dataclass_fields__))


def fit_zero_point(
    electrons: _Float,
    electrons_error: _Float,
    reference: _Float,
    reference_error: _Float,
    *,
    min_stars: int,
    color: _Float | None = None,
    color_term: ColorTerm | None = None,
    x: _Float | None = None,
    y: _Float | None = None,
    shape: tuple[int, int] | None = None,
) -> ZeroPoint:
    """Return the zero point from matched stars: PSF fluxes in electrons, reference fluxes in nJy, float64 (n,) each.

    `color` (mag, NaN where unknown) with the band's `color_term`: stars of unknown colour take the median one, with the
    error that its spread means. `x`, `y` (pixels) with the detector's `shape` (height, width): a spatial term is tried.
    The mean is free of bias by selection and Poisson noise; up to 40 % of the stars may be outliers, all to one side.
    Raises DataError where fewer than `min_stars` usable stars agree.
    """
    count = len(electrons)
    blank = np.full(count, np.nan)
    fine = np.isfinite(electrons) & (electrons_error > 0.0) & (reference > 0.0) & (reference_error >= 0.0)
    fine &= electrons > 0.0
    _need(int(np.count_nonzero(fine)), min_stars, count)
    columns = (reference, blank if color is None else color, blank if x is None else x, blank if y is None else y)
    ref, hue, at_x, at_y = (np.asarray(column, float)[fine] for column in columns)
    stars = _Stars(electrons[fine], electrons_error[fine], ref, reference_error[fine] / ref, hue, at_x, at_y)
    term = color_term if np.isfinite(hue).any() else None
    if term is not None:
        stars = _in_camera_band(stars, term)
    typical = _typical(stars)
    bright = _expected_snr(stars, typical) > MIN_SNR
    _need(int(np.count_nonzero(bright)), min_stars, count)
    stars = stars.chosen(bright)
    ratio, error = _ratios(stars, typical)
    level, spatial, ratio = _level(ratio, error, stars, shape if x is not None else None)
    good = int(np.count_nonzero(level.membership > 0.5))
    _need(good, min_stars, count)
    found = _record(stars, level, spatial, ratio, error, typical)
    found = found if term is None else _with_color(found, stars, term, level, error)
    return replace(found, flags=found.flags | _color_flags(stars, level, color_term))


def _need(stars: int, min_stars: int, matched: int) -> None:
    """Raise DataError where too few stars remain."""
    if stars < min_stars:
        raise DataError(
            f"zero point failed: {stars} of {matched} matched stars are usable and agree, {min_stars} are needed; is "
            "the reference catalogue's flux column in nJy and of this band, and is the exposure not saturated?"
        )


def _in_camera_band(stars: _Stars, term: ColorTerm) -> _Stars:
    """Bring the reference fluxes to the camera's band."""
    known = np.isfinite(stars.color)
    middle = float(np.median(stars.color[known]))
    spread = 1.4826 * float(np.median(np.abs(stars.color[known] - middle)))
    spread = spread if np.count_nonzero(known) >= 5 else UNKNOWN_SPREAD
    unknown = np.where(known, 0.0, NATURAL * abs(term.slope) * spread)
    factor = term.factor(np.where(known, stars.color, middle))
    return replace(stars, reference=stars.reference * factor, relative=np.hypot(stars.relative, unknown))


def _typical(stars: _Stars) -> float:
    """Return about the electrons per nJy on which most of the bright stars agree."""
    ratio = stars.electrons / stars.reference
    typical = float(np.median(ratio))
    rows = np.argsort(stars.error / stars.electrons, kind="stable")[:SEARCH_STARS]
    bright = stars.chosen(rows)
    for _ in range(2):
        value, error = _ratios(bright, typical)
        typical *= max(1.0 + robust_level(value - 1.0, error).value, 1e-3)
    return typical


def _expected_snr(stars: _Stars, typical: float) -> _Float:
    """Return the signal-to-noise ratio that each star's reference flux promises."""
    expected = typical * stars.reference
    return np.asarray(expected / expected_error(stars.electrons, stars.error, expected))


def _ratios(stars: _Stars, typical: float) -> tuple[_Float, _Float]:
    """Return measured over expected flux, and its error.

    The difference of the two is divided by their weighted mean, whose noise is not the difference's: neither flux's
    noise makes the ratio's distribution lopsided.
    """
    expected = typical * stars.reference
    noise = expected_error(stars.electrons, stars.error, expected)
    own = np.square(stars.relative * expected)
    excess = stars.electrons - expected
    best = np.maximum(expected + excess * own / (own + np.square(noise)), 0.5 * expected)
    variance = np.square(expected_error(stars.electrons, stars.error, best)) + own
    return np.asarray(1.0 + excess / best), np.asarray(np.sqrt(variance) / best)


def _level(
    ratio: _Float, error: _Float, stars: _Stars, shape: tuple[int, int] | None
) -> tuple[RobustLevel, SpatialTerm | None, _Float]:
    """Return the level of `ratio`, the spatial term with which the stars agree on it, and the ratios with the term."""
    level = robust_level(ratio - 1.0, error)
    if shape is None:
        return level, None, ratio
    spatial, flat = None, ratio
    for _ in range(2):  # the term decides which stars agree, and they the term
        noise = np.hypot(error, level.scatter)
        spatial = fit_spatial_term(ratio / (1.0 + level.value), noise, level.membership, stars.x, stars.y, shape)
        if spatial is None:
            return level, None, ratio
        flat = ratio * spatial(stars.x, stars.y)
        level = robust_level(flat - 1.0, error)
    weight = level.membership / np.square(np.hypot(error, level.scatter))
    inflation = level_inflation(spatial, weight, stars.x, stars.y) if spatial is not None else 1.0
    return replace(level, error=level.error * inflation), spatial, flat


def _record(
    stars: _Stars, level: RobustLevel, spatial: SpatialTerm | None, ratio: _Float, error: _Float, typical: float
) -> ZeroPoint:
    """Put the pieces together."""
    mean = 1.0 + level.value
    residual = ratio / mean - 1.0
    share = level.membership
    freedom = max(float(share.sum()) - 1.0, 1.0)
    rows = np.zeros(len(ratio), RESIDUAL_DTYPE)
    columns = (stars.x, stars.y, residual, error / mean, share)
    for name, column in zip(RESIDUAL_DTYPE.names or (), columns, strict=True):
        rows[name] = column
    flags = ZeroPointFlag.AMBIGUOUS if level.ambiguous else ZeroPointFlag(0)
    flags |= ZeroPointFlag.OUTLIERS if level.outliers > 0.4 else ZeroPointFlag(0)
    return ZeroPoint(
        1.0 / (typical * mean),
        level.error / mean,
        int(np.count_nonzero(share > 0.5)),
        level.scatter / mean,
        spatial=spatial,
        chi2=float((share * np.square(residual * mean / error)).sum() / freedom),
        outliers=level.outliers,
        flags=int(flags),
        stars=rows,
    )


def _with_color(found: ZeroPoint, stars: _Stars, term: ColorTerm, level: RobustLevel, error: _Float) -> ZeroPoint:
    """Add the error that the colour term's own error means, at the stars' mean colour."""
    weight = level.membership / (np.square(error) + level.scatter**2)
    known = np.isfinite(stars.color)
    lever = UNKNOWN_SPREAD
    if weight[known].sum() > 0.0:
        lever = abs(float(np.average(stars.color[known] - term.pivot, weights=weight[known])))
    added = NATURAL * term.error * lever
    return replace(found, colorTerm=term, colorError=added, relativeError=float(np.hypot(found.relativeError, added)))


def _color_flags(stars: _Stars, level: RobustLevel, term: ColorTerm | None) -> int:
    """Return the flags that colours raise; none where no colour was asked for."""
    good = level.membership > 0.5
    known = stars.color[good & np.isfinite(stars.color)]
    flags = ZeroPointFlag(0)
    if term is not None and len(known) < 0.5 * np.count_nonzero(good):
        flags |= ZeroPointFlag.COLOR_UNKNOWN
    if len(known) >= 3:
        low, first, third, high = np.percentile(known, [5, 25, 75, 95])
        outside = term is not None and not low <= term.pivot <= high
        if outside or third - first < 1.349 * NARROW:
            flags |= ZeroPointFlag.COLOR_NARROW
    return int(flags)
