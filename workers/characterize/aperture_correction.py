"""Aperture correction: what a PSF flux must be multiplied by to be the flux in a wide aperture, over the detector.

From bright lonely stars: aperture flux over PSF flux, a polynomial of position whose order left-out stars choose, with
the covariance of its coefficients. The curve of growth says what the aperture itself leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

from schemas.errors import DataError
from workers.characterize.zero_point_mixture import robust_level
from workers.characterize.zero_point_spatial import choose_order, legendre_terms, weighted_fit
from workers.imaging.photometry import aperture_fluxes, psf_fluxes
from workers.imaging.psf import PsfModel
from workers.imaging.squares import cut_squares

__all__ = ["GROWTH_RADII", "ApertureCorrection", "fit_aperture_correction"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

RADIUS = 12.0
"""Pixels, of the aperture that counts as all."""
GROWTH_RADII = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0)
MIN_SNR = 200.0
NEIGHBOUR = 1e-3
"""Of a star's flux: a neighbour that gives more within the aperture's reach spoils it."""
MARGIN = 2.0
"""FWHM round the aperture in which a neighbour's light is looked for."""
SKY_WIDTH = 10.0
"""Pixels, of the ring outside all apertures whose median is the local sky."""
LEAST_PIXELS = 100
"""In the ring, for a sky."""
GROWTH_SCATTER = 0.002
"""Relative: what the PSF's changes leave between stars."""
MOST_STARS = 200
LEAST_STARS = 3


@dataclass(frozen=True)
class ApertureCorrection:
    """factor(x, y) = sum_k coefficients[k] P_k(u, v), of the Legendre terms of `legendre_terms`."""

    radius: float
    """Pixels."""
    order: int
    coefficients: _Float
    """The first is the mean over the detector."""
    covariance: _Float
    width: int
    """Of the detector, pixels."""
    height: int
    nStars: int
    scatter: float
    """Relative, of the stars beyond their errors; with few stars what is usual."""
    growthRadii: _Float
    growth: _Float
    """Flux within each radius over that within `radius`."""
    growthErr: _Float

    def __call__(self, x: ArrayLike, y: ArrayLike) -> tuple[_Float, _Float]:
        """Return the factor on a PSF flux, and its error, at pixel positions; float64 (n,) each."""
        terms = legendre_terms(x, y, (self.height, self.width), self.order)
        variance = np.einsum("ni,ij,nj->n", terms, self.covariance, terms)
        return np.asarray(terms @ self.coefficients), np.sqrt(np.maximum(variance, 0.0))

    def corrected(self, flux: _Float, error: _Float, x: _Float, y: _Float) -> tuple[_Float, _Float]:
        """Return aperture-corrected PSF fluxes with errors that hold the correction's, in the unit given."""
        factor, own = self(x, y)
        return flux * factor, np.hypot(error * factor, flux * own)


@dataclass(frozen=True)
class _Stars:
    """Chosen stars, n of them."""

    x: _Float
    y: _Float
    flux: _Float
    error: _Float
    column: _Float
    """Place in the mosaic."""
    row: _Float
    sky: _Float
    """Median per pixel in a ring outside the apertures, and its error."""
    skyErr: _Float

    def chosen(self, rows: _Bool) -> _Stars:
        """Return some of them."""
        return _Stars(*(getattr(self, name)[rows] for name in _Stars.__dataclass_fields__))


@dataclass(frozen=True)
class _Mosaic:
    """The stars' surroundings one above the other: apertures on it cost nothing, on a whole detector they do."""

    image: _Float
    variance: _Float
    usable: _Bool

    def aperture(self, stars: _Stars, radius: float) -> tuple[_Float, _Float, NDArray[np.int32]]:
        """Return flux without sky, its error without the sky's, and flags."""
        flux, error, flags = aperture_fluxes(self.image, self.variance, self.usable, stars.column, stars.row, radius)
        return flux - np.pi * radius**2 * stars.sky, error, flags


def fit_aperture_correction(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    psf: PsfModel,
    x: _Float,
    y: _Float,
    *,
    radius: float = RADIUS,
) -> ApertureCorrection:
    """Fit the correction to the sources at pixels `x`, `y` (n,): all that were detected, the stars are chosen here.

    `image` without its sky, `variance`, `usable` of `usable_pixels`, all (height, width). Stars have S/N above 200, no
    unusable pixel in the aperture and no neighbour. Raises DataError where there are fewer than three.
    """
    at, flux, flux_error = _chosen(image, variance, usable, psf, x, y, radius)
    _need(len(at), len(x), radius)
    mosaic, stars = _cut(image, variance, usable, psf, (x[at], y[at], flux, flux_error))
    value, error, flags = mosaic.aperture(stars, radius)
    ratio = value / stars.flux
    noise = _ratio_error(mosaic, psf, stars, ratio, radius, error)
    fine = (flags == 0) & np.isfinite(ratio) & (noise > 0.0) & (ratio > 0.0)
    _need(int(np.count_nonzero(fine)), len(x), radius)
    stars = stars.chosen(fine)
    order, coefficients, covariance, membership, scatter = _surface(ratio[fine], noise[fine], stars, usable.shape)
    growth, growth_error = _growth(mosaic, stars.chosen(membership > 0.5), radius)
    return ApertureCorrection(
        radius=radius,
        order=order,
        coefficients=coefficients,
        covariance=covariance,
        width=usable.shape[1],
        height=usable.shape[0],
        nStars=int(np.count_nonzero(membership > 0.5)),
        scatter=scatter,
        growthRadii=np.array(GROWTH_RADII),
        growth=growth,
        growthErr=growth_error,
    )


def _need(stars: int, sources: int, radius: float) -> None:
    """Raise DataError where too few stars remain."""
    if stars < LEAST_STARS:
        raise DataError(
            f"aperture correction failed: {stars} of {sources} sources are stars of S/N above {MIN_SNR:g} with nothing "
            f"else within {radius:g} pixels, {LEAST_STARS} are needed; it is crowded, or clouds or a short exposure "
            "hide the stars"
        )


def _chosen(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    psf: PsfModel,
    x: _Float,
    y: _Float,
    radius: float,
) -> tuple[NDArray[np.int64], _Float, _Float]:
    """Return the rows of the brightest lonely stars, their PSF fluxes and errors."""
    rows = psf_fluxes(image, variance, usable, psf, x, y)
    flux, error = rows["flux"], rows["fluxErr"]
    with np.errstate(invalid="ignore"):
        bright = (rows["flags"] == 0) & (flux > MIN_SNR * error)
    height, width = usable.shape
    bright &= (x > radius) & (x < width - 1 - radius) & (y > radius) & (y < height - 1 - radius)
    reach = radius + MARGIN * psf.fwhm(0.5 * width, 0.5 * height)
    places = np.stack([x, y], axis=1)
    order = np.flatnonzero(bright)[np.argsort(-flux[bright], kind="stable")]
    around = KDTree(places).query_ball_point(places[order], reach) if len(order) else []
    lonely = [
        star
        for star, near in zip(order, around, strict=True)
        if all(other == star or flux[other] < NEIGHBOUR * flux[star] for other in near)
    ]
    at = np.array(lonely[:MOST_STARS], np.int64)
    return at, flux[at], error[at]


def _cut(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    psf: PsfModel,
    stars: tuple[_Float, _Float, _Float, _Float],
) -> tuple[_Mosaic, _Stars]:
    """Cut the surroundings of stars (x, y, flux, error) out; measure their sky, and take it off their PSF fluxes."""
    x, y, flux, error = stars
    half = int(max(GROWTH_RADII) + SKY_WIDTH)
    size = 2 * half + 1
    squares = cut_squares(image, variance, usable, x, y, half)
    dx, dy = x - squares.x, y - squares.y
    axis = np.arange(size) - half
    distance = np.hypot(axis - dx[:, None, None], axis[:, None] - dy[:, None, None])
    ring = squares.good & (distance > max(GROWTH_RADII)) & (distance <= half)
    sky, sky_error = np.zeros(len(x)), np.zeros(len(x))
    for number, place in enumerate(ring):
        sky[number], sky_error[number] = _clipped_median(squares.data[number][place])
    flux = flux - sky * psf.noise_area(x, y)
    planes = squares.data.reshape(-1, size), squares.variance.reshape(-1, size)
    mosaic = _Mosaic(*planes, squares.good.reshape(-1, size))
    return mosaic, _Stars(x, y, flux, error, half + dx, size * np.arange(len(x)) + half + dy, sky, sky_error)


def _clipped_median(values: _Float) -> tuple[float, float]:
    """Return the median of what lies within 3 sigma, and its error; zeros where too few pixels are left."""
    for _ in range(3):
        if len(values) < LEAST_PIXELS:
            return 0.0, 0.0
        middle = np.median(values)
        sigma = 1.4826 * float(np.median(np.abs(values - middle)))
        values = values[np.abs(values - middle) <= 3.0 * sigma]
    return float(np.median(values)), 1.2533 * float(np.std(values)) / float(np.sqrt(max(len(values), 1)))


def _ratio_error(
    mosaic: _Mosaic, psf: PsfModel, stars: _Stars, ratio: _Float, radius: float, aperture_error: _Float
) -> _Float:
    """Return the error of aperture over PSF flux: sums over the same pixels, most of whose noise they share."""
    squares = cut_squares(mosaic.image, mosaic.variance, mosaic.usable, stars.column, stars.row, psf.size // 2)
    stamps = psf.stamps_at(stars.x, stars.y)
    reach = np.arange(psf.size) - psf.size // 2
    across = squares.x[:, None, None] + reach - stars.column[:, None, None]
    up = squares.y[:, None, None] + reach[:, None] - stars.row[:, None, None]
    inside = np.clip(radius + 0.5 - np.hypot(across, up), 0.0, 1.0)
    model = stamps * squares.good
    shared = (inside * model * squares.variance).sum(axis=(1, 2)) / np.square(model).sum(axis=(1, 2))
    square = np.square(aperture_error) + np.square(ratio * stars.error) - 2.0 * ratio * shared
    lever = np.pi * radius**2 - ratio * psf.noise_area(stars.x, stars.y)
    square = np.maximum(square, 0.05 * np.square(aperture_error)) + np.square(lever * stars.skyErr)
    return np.asarray(np.sqrt(square) / stars.flux)


def _surface(
    ratio: _Float, error: _Float, stars: _Stars, shape: tuple[int, ...]
) -> tuple[int, _Float, _Float, _Float, float]:
    """Return order, coefficients and covariance of the surface, the stars' membership, and their relative scatter."""
    terms = legendre_terms(stars.x, stars.y, (shape[0], shape[1]), 2)
    surface = np.full(len(ratio), float(np.median(ratio)))
    order, coefficients, covariance = 0, np.zeros(1), np.zeros((1, 1))
    membership, scatter = np.ones(len(ratio)), 0.0
    for _ in range(3):
        level = robust_level(ratio / surface - 1.0, error / surface)
        membership, scatter = level.membership, level.scatter
        weight = membership / (np.square(error) + np.square(scatter * surface))
        order = choose_order(ratio, weight, terms, membership)
        used = terms[:, : (1, 3, 6)[order]]
        coefficients, covariance = weighted_fit(used, ratio, weight)
        if order == 0:  # the level's own error knows how sure the outliers are
            covariance = np.maximum(covariance, (level.error * surface[0]) ** 2)
        surface = used @ coefficients
    return order, coefficients, covariance, membership, scatter


def _growth(mosaic: _Mosaic, stars: _Stars, radius: float) -> tuple[_Float, _Float]:
    """Return flux within each of `GROWTH_RADII` over that within `radius`, weighted means and their errors."""
    total, total_error, _ = mosaic.aperture(stars, radius)
    growth, error = np.ones(len(GROWTH_RADII)), np.zeros(len(GROWTH_RADII))
    for number, reach in enumerate(GROWTH_RADII):
        flux, noise, flags = mosaic.aperture(stars, reach)
        ring = np.pi * abs(reach**2 - radius**2)
        apart = np.hypot(np.sqrt(np.abs(np.square(noise) - np.square(total_error))), ring * stars.skyErr)
        weight = np.where(flags == 0, 1.0 / (np.square(apart / total) + GROWTH_SCATTER**2), 0.0)
        if weight.sum() == 0.0:
            growth[number] = error[number] = np.nan
            continue
        growth[number] = float(np.average(flux / total, weights=weight))
        square = np.square(weight * (flux / total - growth[number])).sum()
        error[number] = float(np.sqrt(square) / weight.sum())
    return growth, error
