"""Refine a header's WCS with matched stars.

The header's WCS predicts where each reference star falls; a polynomial maps the measured pixel to the predicted
one; the header's WCS after that map is the truth. So the camera's own distortion, in whatever form the header gives
it (SIP, TPV …), is kept, and the polynomial needs only what the header lacks: order 1 (an affine map), or 2 or 3
where there are stars enough and they are predicted better by it when left out of the fit. The composition is written
as one TAN-SIP (Shupe et al. 2005, ASP 347, 491).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.psf import polynomial_terms
from workers.imaging.wcs import SkyWcs

__all__ = ["WcsFit", "fit_wcs", "tan_sip"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

FEWEST_STARS = {2: 18, 3: 30}
"""For a correction of that order: three per coefficient."""
GAIN = 4.0
"""A higher order must bring the rms of left-out stars below 1 - GAIN / stars times the lower order's: what it gains by
chance is of the order of its coefficients over the stars."""
SIP_TOLERANCE = 0.003
"""Pixels: how closely the TAN-SIP must follow the composed map; the SIP's order grows until it does."""
FLOOR = 0.005
"""Pixels: error added in quadrature to each centroid's, so that no single bright star decides."""
CLIP = 4.0
"""Sigma of the distance beyond which a star leaves the fit."""
GAUSSIAN_MEDIAN = 2.0 * np.log(2.0)
"""Median of the squared distance of two Gaussian coordinates of unit sigma."""
MAX_RMS = 0.5
"""Pixels per coordinate: a fit worse than this is refused."""


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
) -> WcsFit:
    """Refine `start` so that stars measured at pixels (x, y), with `error` pixels, fall on (ra, dec) degrees.

    All arrays float64 (n,); `shape` (height, width) of the detector: the domain of the polynomials. Outliers are
    clipped at 4 sigma (MAD). Raises DataError where fewer than `min_stars` stars remain or the rms exceeds 0.5 pixel.
    """
    predicted = np.stack(start.sky_to_pixel(ra, dec), axis=1)
    measured = np.stack([x, y], axis=1)
    variance = np.square(error) + FLOOR**2
    weights = 1.0 / variance
    kept = np.isfinite(predicted).all(axis=1) & np.isfinite(measured).all(axis=1) & np.isfinite(weights)
    predicted = np.where(kept[:, None], predicted, 0.0)
    order, solution, residual = 1, np.zeros((3, 2)), np.zeros_like(measured)
    for turn in range(8):
        _need(int(np.count_nonzero(kept)), min_stars, len(x))
        order, solution = _best_order(measured, predicted, weights, kept, shape)
        residual = predicted - measured - _terms(measured, order, shape) @ solution
        # scatter that the errors don't explain (blends, distortion) counts for every star, else the brightest decide
        square = np.square(residual).sum(axis=1)
        excess = max(0.0, float(np.median(square[kept]) / GAUSSIAN_MEDIAN - np.median(variance[kept])))
        weights = 1.0 / (variance + excess)
        keep = kept & (square * weights < CLIP**2)
        if np.array_equal(keep, kept) and turn > 1:
            break
        kept = keep
    _need(int(np.count_nonzero(kept)), min_stars, len(x))
    share = weights[kept] / weights[kept].sum()
    rms = float(np.sqrt((share * np.square(residual[kept]).sum(axis=1)).sum() / 2.0))
    if rms > MAX_RMS:
        raise DataError(f"astrometry failed: {np.count_nonzero(kept)} matches, rms {rms:.2f} pixels > {MAX_RMS}")
    return WcsFit(_composed(start, solution, order, shape), rms, kept, order)


def _need(kept: int, min_stars: int, given: int) -> None:
    """Raise DataError where too few stars remain."""
    if kept < min_stars:
        raise DataError(
            f"astrometry failed: {kept} of {given} matched stars agree with one WCS, {min_stars} are needed"
        )


def _terms(points: _Float, order: int, shape: tuple[int, int]) -> _Float:
    """Return monomials of pixel positions scaled to [-1, 1] over the detector."""
    height, width = shape
    return polynomial_terms(2.0 * points[:, 0] / width - 1.0, 2.0 * points[:, 1] / height - 1.0, order)


def _best_order(
    measured: _Float, predicted: _Float, weights: _Float, kept: _Bool, shape: tuple[int, int]
) -> tuple[int, _Float]:
    """Return the order that predicts left-out stars best, and its polynomial of predicted - measured (terms, 2)."""
    root = np.sqrt(weights[kept])[:, None]
    target = (predicted - measured)[kept] * root
    best = 1e30
    chosen: tuple[int, _Float] = (1, np.zeros((3, 2)))
    for order in (1, 2, 3):
        if len(target) < FEWEST_STARS.get(order, 3):
            break
        design = _terms(measured[kept], order, shape) * root
        solution = np.asarray(np.linalg.lstsq(design, target, rcond=None)[0], float)
        # residual of a star left out of the fit: r / (1 - h), h the diagonal of the hat matrix
        lever = np.square(np.linalg.qr(design)[0]).sum(axis=1, keepdims=True)
        left_out = np.abs(target - design @ solution) / np.maximum(1.0 - lever, 1e-3)
        score = float(np.sqrt(np.mean(np.square(np.minimum(left_out, 5.0 * np.median(left_out))))))
        if score < (1.0 - GAIN / len(target)) * best:
            best, chosen = score, (order, solution)
    return chosen


def _composed(start: SkyWcs, solution: _Float, order: int, shape: tuple[int, int]) -> SkyWcs:
    """Return `start` after the polynomial as TAN-SIP of the lowest order that follows it, from a grid of points."""
    height, width = shape
    axes = np.meshgrid(np.linspace(-0.5, width - 0.5, 13), np.linspace(-0.5, height - 0.5, 13))
    points = np.stack([axis.ravel() for axis in axes], axis=1)
    mapped = points + _terms(points, order, shape) @ solution
    ra, dec = start.pixel_to_sky(mapped[:, 0], mapped[:, 1])
    worst = np.inf
    for sip_order in range(max(order, 1), 7):
        header, worst = _sip_cards(points[:, 0], points[:, 1], ra, dec, sip_order, shape)
        if worst < SIP_TOLERANCE:
            return SkyWcs(header)
    raise DataError(
        f"astrometry failed: the header's WCS is no smooth map of the detector (a TAN-SIP of order 6 is {worst:.3f} "
        "pixels off); check the distortion terms in the raw header"
    )


def tan_sip(
    x: _Float, y: _Float, ra: _Float, dec: _Float, *, order: int, shape: tuple[int, int]
) -> tuple[SkyWcs, float]:
    """Fit a TAN-SIP WCS of `order` to pixel positions (x, y) and (ra, dec) degrees, float64 (n,).

    CRPIX is the detector's centre. Returns the WCS (plain TAN for order 1) and its worst residual, pixels. Inverse
    coefficients (AP, BP) are written for other readers.
    """
    header, worst = _sip_cards(x, y, ra, dec, order, shape)
    return SkyWcs(header), worst


def _sip_cards(
    x: _Float, y: _Float, ra: _Float, dec: _Float, order: int, shape: tuple[int, int]
) -> tuple[fits.Header, float]:
    """Return the cards of `tan_sip` and the worst residual, pixels."""
    crpix = np.array([0.5 * (shape[1] - 1), 0.5 * (shape[0] - 1)])
    u, v = x - crpix[0], y - crpix[1]
    scale = max(float(np.abs(u).max()), float(np.abs(v).max()), 1.0)
    terms = polynomial_terms(u / scale, v / scale, order)
    near = int(np.argmin(u**2 + v**2))
    crval = np.array([ra[near], dec[near]])
    plane: _Float = np.zeros((len(x), 2))
    solution: _Float = plane
    for _ in range(4):  # move CRVAL until the constant term is gone
        plane = _project(ra, dec, crval)
        solution = np.asarray(np.linalg.lstsq(terms, plane, rcond=None)[0], float)
        crval = _deproject(solution[0], crval)
    matrix = solution[1:3].T / scale  # rows xi, eta; columns u, v
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-20:
        raise DataError("astrometry failed: the header's WCS is singular or not finite over the detector")
    inverse = np.linalg.inv(matrix)
    worst = float(np.abs((plane - terms @ solution) @ inverse.T).max())
    header = _tan_header(crpix, crval, matrix)
    if order > 1:
        _add_sip(header, solution @ inverse.T, order, scale, ("A", "B"))
        ideal = plane @ inverse.T
        back = polynomial_terms(ideal[:, 0] / scale, ideal[:, 1] / scale, order)
        _add_sip(header, np.linalg.lstsq(back, np.stack([u, v], 1) - ideal, rcond=None)[0], order, scale, ("AP", "BP"))
    return header, worst


def _tan_header(crpix: _Float, crval: _Float, matrix: _Float) -> fits.Header:
    """Return the cards of a TAN projection; `crpix` 0-based."""
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CUNIT1"], header["CUNIT2"] = "deg", "deg"
    header["RADESYS"] = "ICRS"
    header["CRVAL1"], header["CRVAL2"] = float(crval[0]), float(crval[1])
    header["CRPIX1"], header["CRPIX2"] = float(crpix[0] + 1.0), float(crpix[1] + 1.0)
    for i in (0, 1):
        for j in (0, 1):
            header[f"CD{i + 1}_{j + 1}"] = float(matrix[i, j])
    return header


def _add_sip(header: fits.Header, solution: _Float, order: int, scale: float, names: tuple[str, str]) -> None:
    """Add SIP coefficients to a header made here; `solution` in the term order of `polynomial_terms`."""
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    powers = [(total - j, j) for total in range(order + 1) for j in range(total + 1)]
    lowest = 2 if names[0] == "A" else 0
    for axis, name in enumerate(names):
        header[f"{name}_ORDER"] = order
        for (i, j), value in zip(powers, solution[:, axis], strict=True):
            if i + j >= lowest:
                header[f"{name}_{i}_{j}"] = float(value / scale ** (i + j))


def _project(ra: _Float, dec: _Float, crval: _Float) -> _Float:
    """Return gnomonic (xi, eta), degrees (n, 2), about `crval` (Calabretta & Greisen 2002, section 5.1.3)."""
    a, d = np.radians(ra - crval[0]), np.radians(dec)
    d0 = np.radians(crval[1])
    cosine = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
    xi = np.cos(d) * np.sin(a) / cosine
    eta = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)) / cosine
    return np.asarray(np.degrees(np.stack([xi, eta], axis=1)))


def _deproject(point: _Float, crval: _Float) -> _Float:
    """Return (ra, dec), degrees, of one gnomonic point (xi, eta), degrees, about `crval`."""
    xi, eta = np.radians(point)
    d0 = np.radians(crval[1])
    a = np.arctan2(xi, np.cos(d0) - eta * np.sin(d0))
    d = np.arctan2((np.sin(d0) + eta * np.cos(d0)) * np.cos(a), np.cos(d0) - eta * np.sin(d0))
    return np.array([(crval[0] + np.degrees(a)) % 360.0, np.degrees(d)])
