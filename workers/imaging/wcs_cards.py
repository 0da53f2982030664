"""Fit the FITS WCS conventions to a map: TAN-SIP (Shupe et al. 2005, ASP 347, 491) and TPV, from points of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.psf import polynomial_terms
from workers.imaging.wcs import SkyWcs

__all__ = ["PlaneFit", "deproject", "fit_plane", "project", "sip_wcs", "tan_sip", "tan_tpv"]

_Float = NDArray[np.float64]

TPV_FIRST = {1: 1, 2: 4, 3: 7, 4: 12, 5: 17, 6: 24, 7: 31}
"""Number of the first PV card of each order: those between belong to the radial terms, which are not used."""


@dataclass(frozen=True)
class PlaneFit:
    """Polynomials from pixels about CRPIX to the tangent plane at CRVAL."""

    crpix: _Float
    """0-based."""
    crval: _Float
    matrix: _Float
    """(2, 2): degrees per pixel; rows xi, eta."""
    distorted: _Float
    """(terms, 2): pixels added before the matrix, monomials of (x - CRPIX) / scale, order 2 and more."""
    inverse: _Float
    """(terms, 2): the same for the way back."""
    order: int
    scale: float
    worst: float
    """Largest residual, pixels."""


def tan_sip(
    x: _Float, y: _Float, ra: _Float, dec: _Float, *, order: int, shape: tuple[int, int]
) -> tuple[SkyWcs, float]:
    """Fit a TAN-SIP WCS of `order` to pixel positions (x, y) and (ra, dec) degrees, float64 (n,).

    CRPIX is the detector's centre. Returns the WCS (plain TAN for order 1) and its worst residual, pixels. Inverse
    coefficients (AP, BP) are written for other readers.
    """
    fit = fit_plane(x, y, ra, dec, order, shape)
    return sip_wcs(fit), fit.worst


def fit_plane(x: _Float, y: _Float, ra: _Float, dec: _Float, order: int, shape: tuple[int, int]) -> PlaneFit:
    """Fit polynomials of `order` by least squares; raises DataError where the map is singular or not finite."""
    crpix = np.array([0.5 * (shape[1] - 1), 0.5 * (shape[0] - 1)])
    u, v = x - crpix[0], y - crpix[1]
    scale = max(float(np.abs(u).max()), float(np.abs(v).max()), 1.0)
    terms = polynomial_terms(u / scale, v / scale, order)
    near = int(np.argmin(u**2 + v**2))
    crval = np.array([ra[near], dec[near]])
    plane: _Float = np.zeros((len(x), 2))
    solution: _Float = plane
    for _ in range(3):  # move CRVAL until the constant term is gone
        plane = project(ra, dec, crval)
        solution = _least_squares(terms, plane)
        crval = deproject(solution[0], crval)
    matrix = solution[1:3].T / scale  # rows xi, eta; columns u, v
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-20:
        raise DataError("astrometry failed: the header's WCS is singular or not finite over the detector")
    inverse = np.linalg.inv(matrix)
    worst = float(np.abs((plane - terms @ solution) @ inverse.T).max())
    ideal = plane @ inverse.T
    back = polynomial_terms(ideal[:, 0] / scale, ideal[:, 1] / scale, order)
    returned = _least_squares(back, np.stack([u, v], 1) - ideal)
    return PlaneFit(crpix, crval, matrix, solution @ inverse.T, returned, order, scale, worst)


def tan_tpv(
    x: _Float, y: _Float, ra: _Float, dec: _Float, *, order: int, shape: tuple[int, int]
) -> tuple[SkyWcs, float]:
    """Fit a TPV WCS of `order` 1 to 7 to pixel positions (x, y) and (ra, dec) degrees, float64 (n,).

    The distortion, PV cards, is in the tangent plane after the CD matrix (the registry of FITS conventions, "TPV World
    Coordinate System"). Returns the WCS and its worst residual, pixels.
    """
    if order not in TPV_FIRST:
        raise DataError(f"TPV has orders 1 to 7, not {order}")
    linear = fit_plane(x, y, ra, dec, order, shape)
    uv = np.stack([x, y], axis=1) - linear.crpix
    ideal, plane = uv @ linear.matrix.T, project(ra, dec, linear.crval)
    scale = max(float(np.abs(ideal).max()), 1e-12)
    terms = polynomial_terms(ideal[:, 0] / scale, ideal[:, 1] / scale, order)
    solution = _least_squares(terms, plane)
    worst = float(np.abs((plane - terms @ solution) @ np.linalg.inv(linear.matrix).T).max())
    cards = _tan_cards(linear, "TPV")
    for total in range(order + 1):
        first = TPV_FIRST.get(total, 0)
        for j in range(total + 1):
            row = total * (total + 1) // 2 + j
            xi, eta = (float(value) for value in solution[row] / scale**total)
            cards.append((f"PV1_{first + j}", xi))
            cards.append((f"PV2_{first + total - j}", eta))  # the second axis counts powers of y first
    return SkyWcs(fits.Header(sorted(cards, key=lambda card: _place(card[0])))), worst


def _place(key: str) -> tuple[int, int, int]:
    """Sort PV cards by axis and number behind the others."""
    if not key.startswith("PV"):
        return (0, 0, 0)
    return (1, int(key[2]), int(key[4:]))


def _tan_cards(fit: PlaneFit, projection: str) -> list[tuple[str, str | float]]:
    """Return the cards of the linear part, with `projection` in CTYPE."""
    cards: list[tuple[str, str | float]] = [
        ("CTYPE1", f"RA---{projection}"),
        ("CTYPE2", f"DEC--{projection}"),
        ("CUNIT1", "deg"),
        ("CUNIT2", "deg"),
        ("RADESYS", "ICRS"),
        ("CRVAL1", float(fit.crval[0])),
        ("CRVAL2", float(fit.crval[1])),
        ("CRPIX1", float(fit.crpix[0] + 1.0)),
        ("CRPIX2", float(fit.crpix[1] + 1.0)),
    ]
    return cards + [(f"CD{i + 1}_{j + 1}", float(fit.matrix[i, j])) for i in (0, 1) for j in (0, 1)]


def _least_squares(terms: _Float, values: _Float) -> _Float:
    """Solve the normal equations: monomials on [-1, 1] are well enough conditioned up to order 7."""
    square = terms.T @ terms
    try:
        return np.asarray(np.linalg.solve(square, terms.T @ values))
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(terms, values, rcond=None)[0])


def sip_wcs(fit: PlaneFit) -> SkyWcs:
    """Return the fit as TAN (order 1) or TAN-SIP."""
    if fit.order == 1:
        return SkyWcs.from_parts("TAN", fit.crpix, fit.crval, fit.matrix)
    powers = [(total - j, j) for total in range(fit.order + 1) for j in range(total + 1)]
    tables = np.zeros((4, fit.order + 1, fit.order + 1))  # A, B, AP, BP
    for (i, j), forth, back in zip(powers, fit.distorted, fit.inverse, strict=True):
        tables[:2, i, j] = forth / fit.scale ** (i + j) if i + j > 1 else 0.0
        tables[2:, i, j] = back / fit.scale ** (i + j)
    return SkyWcs.from_parts("TAN", fit.crpix, fit.crval, fit.matrix, tables)


def project(ra: _Float, dec: _Float, crval: _Float) -> _Float:
    """Return gnomonic (xi, eta), degrees (n, 2), about `crval` (Calabretta & Greisen 2002, section 5.1.3)."""
    a, d = np.radians(ra - crval[0]), np.radians(dec)
    d0 = np.radians(crval[1])
    cosine = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
    xi = np.cos(d) * np.sin(a) / cosine
    eta = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)) / cosine
    return np.asarray(np.degrees(np.stack([xi, eta], axis=1)))


def deproject(point: _Float, crval: _Float) -> _Float:
    """Return (ra, dec), degrees, of gnomonic points (xi, eta), degrees, (2,) or (2, n), about `crval`."""
    xi, eta = np.radians(point)
    d0 = np.radians(crval[1])
    a = np.arctan2(xi, np.cos(d0) - eta * np.sin(d0))
    d = np.arctan2((np.sin(d0) + eta * np.cos(d0)) * np.cos(a), np.cos(d0) - eta * np.sin(d0))
    return np.array([(crval[0] + np.degrees(a)) % 360.0, np.degrees(d)])
