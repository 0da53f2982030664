"""Trails: sources that moved during the exposure, fitted with the PSF drawn along a line."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from workers.imaging.exposure import Exposure
from workers.imaging.photometry import MIN_SUPPORT, PhotometryFlag, core_half
from workers.imaging.point_fits import shifted_gradients
from workers.imaging.psf import FWHM_PER_SIGMA, PsfModel
from workers.imaging.psf_kernel import interpolation_matrices
from workers.imaging.squares import cut_squares
from workers.subtract.trail_fit import fit_lines, line_nodes
from workers.subtract.trail_start import REACH, line_noise

__all__ = ["TRAIL_ALGORITHM", "TRAIL_DTYPE", "elongations", "fit_trails", "measure_trails", "polar_errors"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_Rows = NDArray[Any]

TRAIL_DTYPE = np.dtype(
    [
        *((name, "f8") for name in ("flux", "fluxErr", "x", "y", "xErr", "yErr", "length", "lengthErr")),
        *((name, "f8") for name in ("angle", "angleErr", "x0", "y0", "x1", "y1", "chi2", "gain")),
        ("nPixels", "i4"),
        ("flags", "i4"),
        ("covariance", "f8", (5, 5)),
    ]
)
"""One fitted trail: flux and its error in the image's unit; middle, ends and length in 0-based pixels; angle in degrees
from +x towards +y, 0 to 180; `gain`: what chi2 is better than a point's by; covariance of flux, x, y and of the vector
from end to end, (x1 - x0, y1 - y0); flags of `PhotometryFlag`."""

TRAIL_ALGORITHM = 3
"""Of trailAlgorithm: neither of the moments' methods, but the PSF drawn along a line, maximum likelihood."""
ELONGATED = 13.8
"""Chi-square of the elongation, 2 degrees of freedom, from which a trail is fitted: 1 point source in 1000."""
MIN_GAIN = 25.0
"""Chi-square by which a trail must beat a point (two more parameters): 1 point source in 270,000."""
MIN_LENGTH = 0.3
"""Shortest trail, of the PSF's FWHM: half that follows from a PSF that is wrong by 2 % of its width."""
MIN_SIGNIFICANCE = 3.0
_FINE = 3
"""B-spline coefficients per pixel at least: the spline then follows the PSF to 1e-4 of its peak."""
_BATCH = 32
_MARGIN = 2
"""Pixels beyond the PSF's core about the line that are used."""


def polar_errors(vector: _Float, covariance: _Float) -> tuple[_Float, _Float, _Float, _Float]:
    """Return length, its error, angle (radians, first axis towards second, 0 to pi) and its error, each (m,).

    `vector` (m, 2) from end to end and its covariance (m, 2, 2). Only the square of the length is measured with a
    Gaussian error where it is short: the error given reaches to the further end of the square's interval, and to zero
    where that does. The angle's error is at most that of an unknown angle.
    """
    length = np.hypot(*vector.T)
    safe = np.where(length > 0.0, length, 1.0)
    along = vector / safe[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    spread, turn = (np.sqrt(np.einsum("mi,mij,mj->m", axis, covariance, axis)) for axis in (along, across))
    square = 2.0 * length * spread
    low = np.sqrt(np.maximum(np.square(length) - square, 0.0))
    error = np.maximum(length - low, np.sqrt(np.square(length) + square) - length)
    unknown = math.pi / math.sqrt(12.0)
    angle = np.arctan2(vector[:, 1], vector[:, 0]) % math.pi
    angle[angle >= math.pi] = 0.0
    return length, error, angle, np.minimum(turn / safe, unknown)


@cache
def _finer(size: int, factor: int) -> _Float:
    """Return the matrix (factor (size - 1) + 1, size) that interpolates between samples of a stamp."""
    shifts = -np.arange(factor) / factor
    matrices = interpolation_matrices(shifts, size, 1)
    return np.ascontiguousarray(matrices.transpose(1, 0, 2).reshape(factor * size, size)[: factor * (size - 1) + 1])


def psf_splines(psf: PsfModel, x: ArrayLike, y: ArrayLike) -> tuple[_Float, int]:
    """Return cubic B-spline coefficients (m, k, k) of the PSFs at positions, and how many there are to a pixel.

    The middle coefficient is at the PSF's centre; the spline's sum over pixels is 1.
    """
    stamps = psf.fine_stamps(x, y)
    factor = math.ceil(_FINE / psf.oversampling)
    matrix = _finer(stamps.shape[1], factor)
    fine = np.matmul(np.matmul(matrix, stamps), matrix.T)
    fine = np.pad(fine, ((0, 0), (2, 2), (2, 2)))  # so that the spline fades to zero
    for axis in (1, 2):
        fine = ndimage.spline_filter1d(fine, 3, axis=axis, mode="mirror")
    return np.ascontiguousarray(fine), factor * psf.oversampling


def fit_trails(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    psf: PsfModel,
    x: ArrayLike,
    y: ArrayLike,
    *,
    negative: ArrayLike = False,
) -> _Rows:
    """Fit flux, middle, length and angle of a trail to the source at each (x, y); return rows of `TRAIL_DTYPE`.

    Planes and positions as in `psf_fluxes`; `negative` (m,) sources have negative flux. A source may lie anywhere on
    its trail. The first guess is the line through the source that stands out most; then Levenberg-Marquardt on the
    pixels about the line, all alike, with errors from the variance plane (see `workers.imaging.photometry`). Values are
    NaN where too few pixels are usable (NO_SUPPORT) or the fit fails (NOT_CONVERGED); EDGE: an end of the trail lies
    within a FWHM of the image's border or beyond.
    """
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    signs = np.where(np.broadcast_to(negative, x.shape), -1.0, 1.0)
    fwhm = psf.fwhm(psf.width / 2, psf.height / 2)
    reach = core_half(psf) + _MARGIN
    parts = [np.zeros(0, TRAIL_DTYPE)]
    for start in range(0, len(x), _BATCH):
        part = slice(start, start + _BATCH)
        squares = cut_squares(image, variance, usable, x[part], y[part], REACH + reach + 2)
        at = np.where(np.isfinite(x[part]), x[part], 0.0), np.where(np.isfinite(y[part]), y[part], 0.0)
        splines, fine = psf_splines(psf, *at)
        count = len(splines)
        lines, covariances, facts = np.empty((count, 5)), np.empty((count, 5, 5)), np.empty((count, 5))
        tables = line_nodes(), line_noise(fwhm / FWHM_PER_SIGMA)
        shape = fine, fwhm / FWHM_PER_SIGMA, float(reach)
        fit_lines(squares.data, squares.noise, signs[part], splines, *shape, *tables, lines, covariances, facts)
        lines[:, 1] += squares.x
        lines[:, 2] += squares.y
        parts.append(_fitted_rows(lines, covariances, facts, usable.shape, fwhm))
    return np.concatenate(parts)


def _fitted_rows(lines: _Float, covariances: _Float, facts: _Float, shape: tuple[int, ...], fwhm: float) -> _Rows:
    """Return rows of `TRAIL_DTYPE` from what `fit_lines` found."""
    rows = np.zeros(len(lines), TRAIL_DTYPE)
    supported = facts[:, 4] > MIN_SUPPORT
    good = supported & (facts[:, 3] > 0.0) & np.isfinite(covariances).all(axis=(1, 2))
    for column, name in enumerate(("flux", "x", "y")):
        rows[name] = lines[:, column]
        rows[f"{name}Err"] = np.sqrt(covariances[:, column, column])
    length, error, angle, turn = polar_errors(lines[:, 3:], covariances[:, 3:, 3:])
    rows["length"], rows["lengthErr"] = length, error
    rows["angle"], rows["angleErr"] = np.degrees(angle), np.degrees(turn)
    for side, name in ((-0.5, "0"), (0.5, "1")):
        rows[f"x{name}"], rows[f"y{name}"] = (lines[:, 1:3] + side * lines[:, 3:]).T
    rows["chi2"], rows["gain"], rows["covariance"] = facts[:, 0], facts[:, 2], covariances
    height, width = shape
    near = np.zeros(len(rows), bool)
    for end in ("0", "1"):
        near |= (rows[f"x{end}"] < fwhm) | (rows[f"x{end}"] > width - 1 - fwhm)
        near |= (rows[f"y{end}"] < fwhm) | (rows[f"y{end}"] > height - 1 - fwhm)
    for name in TRAIL_DTYPE.names or ():
        if TRAIL_DTYPE[name].kind == "f" or name == "covariance":
            rows[name][~good] = np.nan
    rows["nPixels"] = facts[:, 1]
    flags = np.where(supported, 0, int(PhotometryFlag.NO_SUPPORT)) | np.where(near, int(PhotometryFlag.EDGE), 0)
    rows["flags"] = flags | np.where(supported & ~good, int(PhotometryFlag.NOT_CONVERGED), 0)
    return rows


def elongations(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    psf: PsfModel,
    x: ArrayLike,
    y: ArrayLike,
) -> _Float:
    """Return chi-square (2 degrees of freedom) of how much longer than wide each source is, float64 (m,).

    The PSF, its slopes and its second derivatives are fitted to the core together. To first order a trail of length L
    adds F L^2 / 24 times the second derivative along it; what makes a source broader the same in all directions is
    left out, since galaxies that were subtracted badly do that. NaN where the fit is not possible.
    """
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    half = min(core_half(psf), psf.size // 2 - 1)
    parts = [np.zeros(0)]
    for start in range(0, len(x), _BATCH):
        px, py = x[start : start + _BATCH], y[start : start + _BATCH]
        squares = cut_squares(image, variance, usable, px, py, half)
        px, py = (np.where(np.isfinite(at), at, 0.0) for at in (px, py))
        stamps = psf.fine_stamps(px, py)
        planes = shifted_gradients(stamps, px - np.round(px), py - np.round(py), psf.oversampling)
        design = _second_order(planes, half)
        parts.append(_elongation(design, squares.data, squares.noise))
    return np.concatenate(parts)


def _second_order(planes: _Float, half: int) -> _Float:
    """Return P, P_x, P_y, P_xx + P_yy, P_xx - P_yy and P_xy, up to factors, within `half`: float64 (m, 6, pixels)."""
    middle = planes.shape[2] // 2
    inner, after, before = (slice(middle - half + k, middle + half + 1 + k) for k in (0, 1, -1))
    xx = planes[:, 1, inner, before] - planes[:, 1, inner, after]
    yy = planes[:, 2, before, inner] - planes[:, 2, after, inner]
    xy = planes[:, 1, before, inner] - planes[:, 1, after, inner]
    first = (planes[:, k, inner, inner] for k in range(3))
    return np.stack([*first, xx + yy, xx - yy, 2.0 * xy], axis=1).reshape(len(planes), 6, -1)


def _elongation(design: _Float, data: _Float, noise: _Float) -> _Float:
    """Return the chi-square of the last two planes of `design` (m, 6, pixels) in squares (m, s, s)."""
    data, noise = data.reshape(len(data), -1), noise.reshape(len(noise), -1)
    design = np.where(noise[:, None, :] >= 0.0, design, 0.0)
    normal = design @ design.transpose(0, 2, 1)
    scale = np.sqrt(np.einsum("mii->mi", normal))
    good = (scale > 0.0).all(axis=1)
    out = np.full(len(data), np.nan)
    design = design[good] / scale[good, :, None]
    normal = design @ design.transpose(0, 2, 1)
    inverse = np.linalg.pinv(normal, rcond=1e-8, hermitian=True)
    spread = (design * np.maximum(noise[good], 0.0)[:, None, :]) @ design.transpose(0, 2, 1)
    value = (inverse @ (design @ data[good][:, :, None]))[:, 4:, 0]
    a, b, c = ((inverse @ spread @ inverse)[:, i, j] for i, j in ((4, 4), (5, 5), (4, 5)))
    determinant = a * b - c * c
    safe = np.where(determinant > 0.0, determinant, np.nan)
    out[good] = (b * value[:, 0] ** 2 + a * value[:, 1] ** 2 - 2.0 * c * value[:, 0] * value[:, 1]) / safe
    return out


def measure_trails(rows: _Rows, difference: Exposure, usable: _Bool) -> _Bool:
    """Fill the trail columns of diaSource `rows` that are trails; return which rows (n,) are pieces of a brighter one.

    Rows have x, y, isNegative, snr and isDipole. Sources that are longer than wide (see `elongations`) are fitted,
    dipoles not. A trail is what beats a point by `MIN_GAIN`, and is longer than `MIN_LENGTH` and `MIN_SIGNIFICANCE`
    errors (unless it reaches the image's edge); its columns are filled and others' stay NaN. trail_flag: a source
    longer than wide whose fit failed. A piece has the sign of a trail with a higher snr and lies within a FWHM of it:
    long trails have several peaks.
    """
    rows["trailNdata"], rows["trailAlgorithm"] = 0, 0
    rows["trail_flag"], rows["trail_flag_edge"] = False, False
    pieces = np.zeros(len(rows), bool)
    psf, planes = difference.need_psf(), (difference.image, difference.variance, usable)
    x, y = rows["x"].astype(float), rows["y"].astype(float)
    index = np.flatnonzero((elongations(*planes, psf, x, y) > ELONGATED) & ~rows["isDipole"])
    if len(index) == 0:
        return pieces
    fits = fit_trails(*planes, psf, x[index], y[index], negative=rows["isNegative"][index])
    fwhm = psf.fwhm(difference.shape[1] / 2, difference.shape[0] / 2)
    failed = ~np.isfinite(fits["flux"]) | ((fits["flux"] < 0.0) != rows["isNegative"][index])
    trail = ~failed & (fits["gain"] > MIN_GAIN) & (fits["length"] > MIN_LENGTH * fwhm)
    # one that leaves the image may have any length
    cut = (fits["flags"] & int(PhotometryFlag.EDGE)) != 0
    trail &= cut | (fits["length"] > MIN_SIGNIFICANCE * fits["lengthErr"])
    rows["trail_flag"][index[failed]] = True
    _fill(rows, index[trail], fits[trail], difference)
    strength = rows["snr"][index]
    for k in np.flatnonzero(trail):
        near = _distance(fits[k], x, y) < fwhm
        near &= (rows["isNegative"] == rows["isNegative"][index[k]]) & (rows["snr"] < strength[k])
        pieces |= near
    return pieces


def _fill(rows: _Rows, index: NDArray[np.intp], fits: _Rows, difference: Exposure) -> None:
    """Write fits to ``rows[index]``: positions and angles on the sky, lengths in arcsec, angle from north to east."""
    wcs = difference.need_wcs()
    ra, dec = wcs.pixel_to_sky(fits["x"], fits["y"])
    if len(index) == 0:
        return
    to_sky = np.stack([wcs.jacobian(*at) for at in zip(fits["x"], fits["y"], strict=True)])
    # north first: the angle of the vector is then counted from north through east
    turned = 3600.0 * to_sky[:, ::-1]
    vector = np.stack([fits["x1"] - fits["x0"], fits["y1"] - fits["y0"]], axis=1)
    covariance = turned @ fits["covariance"][:, 3:, 3:] @ turned.transpose(0, 2, 1)
    length, error, angle, turn = polar_errors(np.einsum("mij,mj->mi", turned, vector), covariance)
    middle = to_sky @ fits["covariance"][:, 1:3, 1:3] @ to_sky.transpose(0, 2, 1)
    values = {
        "Flux": fits["flux"],
        "FluxErr": fits["fluxErr"],
        "Ra": ra,
        "Dec": dec,
        "RaErr": np.sqrt(middle[:, 0, 0]),
        "DecErr": np.sqrt(middle[:, 1, 1]),
        "Length": length,
        "LengthErr": error,
        "Angle": np.degrees(angle),
        "AngleErr": np.degrees(turn),
        "Chi2": fits["chi2"],
        "Ndata": fits["nPixels"],
        "Algorithm": TRAIL_ALGORITHM,
        "_flag_edge": (fits["flags"] & int(PhotometryFlag.EDGE)) != 0,
    }
    for name, value in values.items():
        rows[f"trail{name}"][index] = value


def _distance(fit: Any, x: _Float, y: _Float) -> _Float:
    """Return the distance of points from the line of one fit, pixels (n,)."""
    along = np.array([fit["x1"] - fit["x0"], fit["y1"] - fit["y0"]])
    u, v = x - fit["x"], y - fit["y"]
    s = np.clip((u * along[0] + v * along[1]) / max(along @ along, 1e-12), -0.5, 0.5)
    return np.asarray(np.hypot(u - s * along[0], v - s * along[1]))
