"""Dipoles: a positive and a negative lobe within about a PSF, the mark of misalignment or of fast proper motion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from workers.imaging.exposure import Exposure, FloatImage
from workers.subtract.dipole_fit import Fit

__all__ = ["DipoleFit", "Prior", "dipole_probability", "fit_dipole", "pair_lobes", "peak_position"]

_Float = NDArray[np.float64]
_Index = NDArray[np.intp]
_Rows = NDArray[Any]
_MIN_RATIO = 0.3
"""Of the weaker lobe's strength to the stronger one's."""
_DETECTED = 4.0
"""Errors that a change of flux must have to be the cause of a source."""
_DECADES = 3.0 * np.log(10.0)


@dataclass(frozen=True)
class DipoleFit:
    """Two point sources of opposite sign fitted together; fluxes nJy, positions pixels."""

    positive: float
    negative: float
    positiveErr: float
    negativeErr: float
    covariance: float
    chi2: float
    nPixels: int
    lobes: tuple[tuple[float, float], tuple[float, float]]
    """(x, y) of the positive and of the negative lobe."""

    @property
    def is_dipole(self) -> bool:
        """Whether the lobes have opposite signs and comparable strength."""
        low, high = sorted((self.positive, -self.negative))
        return bool(low > 0.0 and low >= _MIN_RATIO * high)


@dataclass(frozen=True)
class Prior:
    """What is known of sources before a look at their pixels; lengths in pixels."""

    fwhm: float
    registration: float = 0.05
    """Rms per axis of the distance between a star's places in two images that are well registered."""
    constancy: float = 0.05
    """Rms of ln(F_s / F_t) of the stars that dipoles are made of."""
    separation: float = 1.5
    """Largest one of a dipole, in units of the FWHM; also the reach of a point source round its star."""
    smallest: float = 0.02
    """Share of a star's flux below which a change isn't told from errors of the match."""

    def separations(self, square: _Float) -> _Float:
        """Return the density, per pixel^2, of a dipole's separation of so many pixels^2.

        Log-uniform from about twice the registration error to the largest separation.
        """
        scale, far = 2.0 * self.registration, self.separation * self.fwhm
        near = np.square(-np.expm1(-square / (2.0 * scale**2)))
        end = 1.0 / (1.0 + np.exp(np.clip(20.0 * (np.sqrt(square) / far - 1.0), -50.0, 50.0)))
        return np.asarray(near * end / (2.0 * np.pi * np.maximum(square, 1e-12) * np.log(far / scale)))

    def changes(self, flux: _Float, error: _Float, star: _Float) -> _Float:
        """Return the density, per unit of flux, of a real change of flux: log-uniform over three decades each way."""
        least = np.maximum(_DETECTED * error, self.smallest * np.abs(star))
        short = np.maximum(least - np.abs(flux), 0.0) / np.maximum(error, 0.25 * least)
        short = np.minimum(short, 30.0)
        return np.asarray(np.exp(-0.5 * np.square(short)) / (2.0 * _DECADES * np.maximum(np.abs(flux), least)))


def dipole_probability(dipole: Fit, transient: Fit, prior: Prior, noise: _Float) -> _Float:
    """Return the posterior probability, float64 (m,), that a source is a dipole and not a point source.

    Three hypotheses: (b) a star of constant flux at two places; (a1) a star that is well registered and changes its
    flux; (a2) a point source anywhere beside a star that is well registered. The integrals over the parameters are
    Laplace's; `dipole` serves both b and a1, which differ in their priors alone. b has the prior 1/2, a1 and a2 1/4
    each. `noise` (m,) divides the differences of chi2: the reduced chi2 of the better model, at least 1.
    """
    same, same_volume = dipole.covariance()
    free, free_volume = transient.covariance()
    star = dipole.parameters[:, 0]
    change = dipole.parameters[:, 10] - star
    error = np.sqrt(np.maximum(same[:, 10, 10] + same[:, 0, 0] - 2.0 * same[:, 0, 10], 0.0))
    shift = dipole.parameters[:, 11:13] - dipole.parameters[:, 1:3]
    spread = same[:, 11:13, 11:13] + same[:, 1:3, 1:3] - same[:, 11:13, 1:3] - same[:, 1:3, 11:13]
    separation = np.square(shift).sum(axis=1) + np.einsum("mii->m", spread)
    constant = np.square(error) + np.square(prior.constancy * star)
    moved = _log_normal(change[:, None], constant[:, None, None]) + _log(prior.separations(separation))
    varied = _log_normal(shift, spread + prior.registration**2 * np.eye(2)) + _log(prior.changes(change, error, star))
    flux, error = transient.parameters[:, 10], np.sqrt(free[:, 10, 10])
    area = np.pi * (prior.separation * prior.fwhm) ** 2
    # (2 pi)^1 of the two parameters more, over 2 pi sigma^2 of the prior of the misregistration
    added = _log(prior.changes(flux, error, star)) - np.log(area * prior.registration**2)
    added += 0.5 * (free_volume - same_volume) - 0.5 * (transient.chi2 - dipole.chi2) / noise
    return np.asarray(1.0 / (1.0 + 0.5 * (_ratio(varied - moved) + _ratio(added - moved))))


def _log(density: _Float) -> _Float:
    return np.asarray(np.log(np.maximum(density, 1e-300)))


def _ratio(logarithm: _Float) -> _Float:
    return np.asarray(np.exp(np.clip(logarithm, -300.0, 300.0)))


def _log_normal(value: _Float, covariance: _Float) -> _Float:
    """Return the logarithm of the normal density of values (m, k) with covariance (m, k, k), NaN where singular."""
    determinant = np.linalg.det(covariance)
    sound = determinant > 0.0
    safe = np.where(sound[:, None, None], covariance, np.eye(value.shape[1]))
    square = np.einsum("mi,mi->m", value, np.linalg.solve(safe, value[:, :, None])[:, :, 0])
    norm = value.shape[1] * np.log(2.0 * np.pi) + np.log(np.where(sound, determinant, np.nan))
    return np.asarray(-0.5 * (square + norm))


def pair_lobes(peaks: _Rows, radius: float) -> tuple[_Index, _Index]:
    """Return (stronger, weaker) indices of opposite peaks within `radius` pixels; each peak is in one pair at most.

    `peaks` are PEAK_DTYPE rows, strongest first.
    """
    if len(peaks) < 2:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    points = np.column_stack([peaks["x"], peaks["y"]])
    close = cKDTree(points).query_pairs(radius, output_type="ndarray")
    score = peaks["score"]
    opposite = score[close[:, 0]] * score[close[:, 1]] < 0.0
    strength = np.abs(score[close]).min(axis=1) / np.maximum(np.abs(score[close]).max(axis=1), 1e-30)
    close = np.sort(close[opposite & (strength >= _MIN_RATIO)], axis=1)
    used: set[int] = set()
    pairs = []
    for stronger, weaker in close[np.lexsort((close[:, 1], close[:, 0]))].tolist():
        if stronger not in used and weaker not in used:
            used |= {stronger, weaker}
            pairs.append((stronger, weaker))
    table = np.array(pairs, np.intp).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def peak_position(score: FloatImage, x: _Index, y: _Index) -> tuple[_Float, _Float]:
    """Return sub-pixel (x, y) of extrema of `score` at pixels not on its border, by a parabola along each axis."""
    middle = score[y, x].astype(float)
    before_x, after_x = score[y, x - 1].astype(float), score[y, x + 1].astype(float)
    before_y, after_y = score[y - 1, x].astype(float), score[y + 1, x].astype(float)
    return x + _vertex(before_x, middle, after_x), y + _vertex(before_y, middle, after_y)


def _vertex(before: _Float, middle: _Float, after: _Float) -> _Float:
    """Return the offset of the extremum of the parabola through three points, within half a step."""
    curvature = before - 2.0 * middle + after
    safe = np.where(curvature == 0.0, 1.0, curvature)
    return np.clip(np.where(curvature == 0.0, 0.0, 0.5 * (before - after) / safe), -0.5, 0.5)


def fit_dipole(
    exposure: Exposure,
    usable: NDArray[np.bool_],
    positive: tuple[float, float],
    negative: tuple[float, float],
) -> DipoleFit | None:
    """Fit the fluxes of two PSFs at given positions, all pixels alike; None without enough usable pixels."""
    psf = exposure.need_psf()
    half = psf.size // 2 + int(np.ceil(np.hypot(positive[0] - negative[0], positive[1] - negative[1])))
    x0 = round((positive[0] + negative[0]) / 2) - half
    y0 = round((positive[1] + negative[1]) / 2) - half
    size, (height, width) = 2 * half + 1, exposure.shape
    rows, columns = np.arange(y0, y0 + size), np.arange(x0, x0 + size)
    inside = np.outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    window = np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))
    good = inside & usable[window]
    design = np.stack([_placed(psf.stamps_at(*lobe)[0], lobe, x0, y0, size)[good] for lobe in (positive, negative)])
    normal = design @ design.T
    if good.sum() < psf.size or np.linalg.cond(normal) > 1e8:
        return None
    data, variance = exposure.image[window][good].astype(float), exposure.variance[window][good].astype(float)
    inverse = np.linalg.inv(normal)
    flux = inverse @ (design @ data)
    covariance = inverse @ ((design * variance) @ design.T) @ inverse
    chi2 = float((np.square(data - flux @ design) / variance).sum())
    errors = np.sqrt(np.diag(covariance))
    return DipoleFit(
        positive=float(flux[0]),
        negative=float(flux[1]),
        positiveErr=float(errors[0]),
        negativeErr=float(errors[1]),
        covariance=float(covariance[0, 1]),
        chi2=chi2,
        nPixels=int(good.sum()),
        lobes=(positive, negative),
    )


def _placed(stamp: _Float, at: tuple[float, float], x0: int, y0: int, size: int) -> _Float:
    """Return an empty square of `size` pixels, first pixel (x0, y0), with `stamp` centred on pixel round(at)."""
    half = stamp.shape[0] // 2
    out = np.zeros((size + 2 * half, size + 2 * half))
    row, column = round(at[1]) - y0, round(at[0]) - x0
    out[row : row + 2 * half + 1, column : column + 2 * half + 1] = stamp
    return out[half : half + size, half : half + size]
