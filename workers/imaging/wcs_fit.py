"""Refine a header's WCS with matched stars.

The header's WCS predicts where each reference star falls in the focal plane, that is before the camera's distortion; a
polynomial maps where the star was measured, freed of that distortion, to there; the header's projection after that map
is the truth. So the camera's own distortion, in whatever form the header gives it (SIP, TPV …), is kept, an error of
the pointing is an affine map, and the polynomial needs only what the header lacks: `wcs_correction` tells how much of
it the stars show. The composition is written as one TAN-SIP. A fit that leaves a corner of the detector uncertain is
refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.wcs import SkyWcs, focal_to_sky, pixel_to_focal, sky_to_focal
from workers.imaging.wcs_cards import fit_plane, sip_wcs
from workers.imaging.wcs_correction import Correction, Design, fit_correction

__all__ = [
    "PolynomialFit",
    "WcsFit",
    "accept",
    "accept_rms",
    "composed",
    "edge_points",
    "fit_polynomial",
    "fit_wcs",
    "pixel_grid",
    "sip_through",
]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

SIP_TOLERANCE = 0.003
"""Pixels: how closely the TAN-SIP must follow the composed map; the SIP's order grows until it does."""
FLOOR = 0.005
"""Pixels: error added in quadrature to each centroid's, so that no single bright star decides."""
CLIP = 4.0
"""Sigma of the distance beyond which a star leaves the fit."""
MOST_STARS = 1200
"""Of the best centroids, that make the fit; more bring nothing but time."""
FIRST_EXCESS = 0.1
"""Pixels: scatter beyond the errors that the first fit allows for."""
GAUSSIAN_MEDIAN = 2.0 * np.log(2.0)
"""Median of the squared distance of two Gaussian coordinates of unit sigma."""
MAX_RMS = 0.5
"""Pixels per coordinate: a fit worse than this is refused."""
MAX_EDGE_ERROR = 0.2
"""Pixels per coordinate: expected error at the worst corner beyond which a fit is refused: a fifth of what would
spoil a subtraction."""


@dataclass(frozen=True)
class PolynomialFit:
    """The map from measured to predicted pixels and the stars that made it."""

    correction: Correction
    rms: float
    """Of the kept stars, weighted, pixels per coordinate."""
    kept: _Bool
    weights: _Float
    """Inverse variance of each star's place, with the scatter that its error does not explain."""


@dataclass(frozen=True)
class WcsFit:
    """The refined WCS and how well it fits."""

    wcs: SkyWcs
    rms: float
    """Of the kept stars, weighted, pixels per coordinate."""
    kept: _Bool
    """Per star given."""
    order: int
    """Of the correction to the header's WCS."""
    edge_error: float = 0.0
    """Expected error at the worst corner, pixels per coordinate."""


def fit_wcs(
    start: SkyWcs,
    x: _Float,
    y: _Float,
    error: _Float,
    ra: _Float,
    dec: _Float,
    shape: tuple[int, int],
    *,
    min_stars: int = 4,
    max_edge_error: float = MAX_EDGE_ERROR,
) -> WcsFit:
    """Refine `start` so that stars measured at pixels (x, y), with `error` pixels, fall on (ra, dec) degrees.

    All arrays float64 (n,); `shape` (height, width) of the detector: the domain of the polynomials. Outliers are
    clipped at 4 sigma (MAD). Raises DataError where fewer than `min_stars` stars remain, the rms exceeds 0.5 pixel, or
    a corner stays uncertain by more than `max_edge_error` pixels.
    """
    measured = pixel_to_focal(start, np.stack([x, y], axis=1))
    predicted = sky_to_focal(start, ra, dec)
    fit = fit_polynomial(measured, predicted, error, shape, edge_points(start, shape), min_stars=min_stars)
    accept(fit, max_edge_error)
    wcs = composed(start, fit.correction, shape)
    return WcsFit(wcs, fit.rms, fit.kept, fit.correction.order, fit.correction.edge_error)


def edge_points(start: SkyWcs, shape: tuple[int, int]) -> _Float:
    """Return the corners, and the middles of the sides, of a detector in the focal plane, pixels (8, 2)."""
    height, width = shape
    grid = [(x, y) for x in (0.0, 0.5, 1.0) for y in (0.0, 0.5, 1.0) if (x, y) != (0.5, 0.5)]
    return pixel_to_focal(start, np.array(grid) * [width, height] - 0.5)


def accept(fit: PolynomialFit, max_edge_error: float) -> None:
    """Raise DataError where the fit is bad, or leaves a corner uncertain."""
    accept_rms(fit)
    edge = fit.correction.edge_error
    if not edge <= max_edge_error:
        raise DataError(
            f"astrometry failed: the {np.count_nonzero(fit.kept)} matches leave a corner of the detector uncertain by "
            f"{edge:.2f} pixels (max_edge_error = {max_edge_error:g} in [characterize.astrometry]); a deeper reference "
            "catalogue helps, or solving the detectors of the visit jointly: `skydelta astrometry`"
        )


def accept_rms(fit: PolynomialFit) -> None:
    """Raise DataError where the stars scatter about the fit."""
    if fit.rms > MAX_RMS:
        raise DataError(
            f"astrometry failed: {np.count_nonzero(fit.kept)} matches, rms {fit.rms:.2f} pixels > {MAX_RMS}"
        )


def fit_polynomial(
    measured: _Float,
    predicted: _Float,
    error: _Float,
    shape: tuple[int, int],
    edge: _Float,
    *,
    min_stars: int = 4,
    excess: float = FIRST_EXCESS,
) -> PolynomialFit:
    """Fit predicted - measured, focal-plane pixels (n, 2) each, rows with NaN left out; `error` (n,) of the centroids.

    `edge` (c, 2): where the expected error is told. `excess`: pixels, scatter beyond the errors that the first turn
    allows for. Raises DataError where fewer than `min_stars` remain.
    """
    variance = np.square(error) + FLOOR**2
    kept = np.isfinite(predicted).all(axis=1) & np.isfinite(measured).all(axis=1) & np.isfinite(variance)
    variance = np.where(kept, variance, 1e12)
    target = np.where(kept[:, None], predicted - measured, 0.0)
    terms = Design(shape)
    design, corners = terms(np.where(kept[:, None], measured, 0.0)), terms(edge)
    weights = 1.0 / (variance + excess**2)
    sharp = np.argsort(variance, kind="stable")
    for turn in range(10):
        _need(int(np.count_nonzero(kept)), min_stars, len(target))
        used = sharp[kept[sharp]][:MOST_STARS]
        fit = fit_correction(design[used], target[used], weights[used], corners)
        residual = target - design @ fit.solution
        # scatter that the errors don't explain (blends, distortion) counts for every star, else the brightest decide
        square = np.square(residual).sum(axis=1)
        lever = np.minimum(weights * ((design @ fit.covariance) * design).sum(axis=1), 0.9) * kept
        typical = float(np.median(square[used] / (1.0 - lever[used]))) / GAUSSIAN_MEDIAN
        weights = 1.0 / (variance + max(0.0, typical - float(np.median(variance[used]))))
        keep = kept & (square * weights < CLIP**2 * (1.0 - lever))
        if np.array_equal(keep, kept) and turn > 1:
            break
        kept = keep
    _need(int(np.count_nonzero(kept)), min_stars, len(target))
    share = weights[kept] / weights[kept].sum()
    rms = float(np.sqrt((share * np.square(residual[kept]).sum(axis=1)).sum() / 2.0))
    return PolynomialFit(fit, rms, kept, weights)


def _need(kept: int, min_stars: int, given: int) -> None:
    """Raise DataError where too few stars remain."""
    if kept < min_stars:
        raise DataError(
            f"astrometry failed: {kept} of {given} matched stars agree with one WCS, {min_stars} are needed"
        )


def composed(start: SkyWcs, correction: Correction, shape: tuple[int, int]) -> SkyWcs:
    """Return `start` after the polynomial as TAN-SIP of the lowest order that follows it, from a grid of points."""
    points = pixel_grid(shape)
    focal = pixel_to_focal(start, points)
    return sip_through(points, *focal_to_sky(start, focal + Design(shape)(focal) @ correction.solution), shape)


def pixel_grid(shape: tuple[int, int]) -> _Float:
    """Return 13 x 13 pixels (169, 2) from edge to edge."""
    height, width = shape
    axes = np.meshgrid(np.linspace(-0.5, width - 0.5, 13), np.linspace(-0.5, height - 0.5, 13))
    return np.stack([axis.ravel() for axis in axes], axis=1)


def sip_through(points: _Float, ra: _Float, dec: _Float, shape: tuple[int, int]) -> SkyWcs:
    """Return the TAN-SIP of the lowest order that puts pixels (n, 2) on (ra, dec) within `SIP_TOLERANCE`."""
    worst = np.inf
    for order in (1, 2, 3, 4, 5, 6, 7):
        found = fit_plane(points[:, 0], points[:, 1], ra, dec, order, shape)
        worst = found.worst
        if worst < SIP_TOLERANCE:
            return sip_wcs(found)
    raise DataError(
        f"astrometry failed: the header's WCS is no smooth map of the detector (a TAN-SIP of order 7 is {worst:.3f} "
        "pixels off); check the distortion terms in the raw header"
    )
