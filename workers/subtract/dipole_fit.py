"""Joint fits of difference, science and template round one place: a dipole, or a point source beside a static star.

Each image is a sum of PSFs, so a fit needs no more of it than the weighted products of the PSFs, their slopes and the
pixels: compiled loops sum those, small matrices do the rest for all candidates at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.point_fits import design_all, shift_table
from workers.imaging.psf import KERNEL_REACH

__all__ = ["Fit", "Window", "fit_dipoles", "fit_stars", "fit_transients"]

_Float = NDArray[np.float64]
_Index = NDArray[np.int64]
_Bool = NDArray[np.bool_]
ROUNDS = 12
"""Steps at most; a fit that goes well ends after three to five."""
CLOSE = 0.1
"""Change of chi2 that ends a fit."""
FINE, ROUGH = 0.02, 0.1
"""Pixels that a PSF moves along its slopes, in the difference and in the other images, before it is shifted anew."""
LONGEST = 0.7
"""Pixels: longest step of a position along an axis."""
OFFSET_ERROR, SCALE_ERROR = 0.2, 0.1
"""Shift (pixels) and relative scale that the matching kernel may have taken out, and the PSFs' own centres: by so much
science and template alone know where a source of the difference is, and how bright."""
COMMON = 10
"""Parameters of both models, in this order: flux (0) and position (1, 2) of the star in the template as the difference
sees it, backgrounds of science (3) and template (4), offsets of science (5, 6) and template (7, 8), scale (9)."""


@dataclass(frozen=True)
class Window:
    """The same square of one image round each of m candidates."""

    data: _Float
    """(m, side, side)."""
    weight: _Float
    """Inverse variance, 0 where a pixel isn't used."""
    x: _Float
    """Middle pixel of each square, (m,)."""
    y: _Float
    stamps: _Float
    """PSFs there as `PsfModel.fine_stamps` gives them, (m, n, n)."""
    oversampling: int

    def take(self, index: _Bool | _Index) -> Self:
        """Return some of the squares."""
        names = ("data", "weight", "x", "y", "stamps")
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    def products(self, positions: _Float) -> _Float:
        """Return the weighted products of PSFs, a constant and the data over the pixels, float64 (m, k, k).

        Order: PSF and its derivatives by x and y of its position for each of `positions` (m, stars, 2), then those two.
        """
        away = positions - np.stack([self.x, self.y], axis=1)[:, None, :]
        whole = np.round(away)
        count, stars, side = len(away), positions.shape[1], self.data.shape[1]
        # the PSF round what the square sees of it, as far as the shift needs it
        size = self.oversampling * (side - 1) + 1 + 2 * (KERNEL_REACH + self.oversampling)
        parts, fields = np.empty((count, size, size)), np.empty((stars, count, 3, side, side))
        for k in range(stars):
            shift = away[:, k] - whole[:, k]
            _cut_stamps(self.stamps, whole[:, k].astype(np.int64) * self.oversampling, parts)
            design_all(parts, shift[:, 0], shift[:, 1], self.oversampling, shift_table(), fields[k])
        out = np.empty((count, 3 * stars + 2, 3 * stars + 2))
        _sum_products(fields, self.data, self.weight, out)
        return out


@njit(cache=True, nogil=True)
def _cut_stamps(stamps: Any, steps: Any, out: Any) -> None:  # pragma: no cover - compiled
    """Copy each stamp, moved by `steps` (m, 2: x, y), into a square of `out` (m, n, n); zero where there is none."""
    size, side = stamps.shape[1], out.shape[1]
    for source in range(out.shape[0]):
        right = size // 2 - side // 2 - steps[source, 0]
        up = size // 2 - side // 2 - steps[source, 1]
        for i in range(side):
            line = out[source, i]
            line[:] = 0.0
            if 0 <= i + up < size:
                for j in range(max(0, -right), min(side, size - right)):
                    line[j] = stamps[source, i + up, j + right]


@njit(cache=True, nogil=True, fastmath=True)
def _dot(first: Any, second: Any) -> float:  # pragma: no cover - compiled
    """Return the sum of first x second."""
    total = 0.0
    for k in range(first.size):
        total += first[k] * second[k]
    return total


@njit(cache=True, nogil=True)
def _sum_products(fields: Any, data: Any, weight: Any, out: Any) -> None:  # pragma: no cover - compiled
    """See `Window.products`; `fields` (stars, m, 3, side, side)."""
    size, pixels = out.shape[1], data.shape[1] * data.shape[2]
    plain, weighted = np.ones((size, pixels)), np.empty(pixels)
    for source in range(data.shape[0]):
        for k in range(size - 2):
            plain[k] = fields[k // 3, source, k % 3].ravel()
        plain[size - 1] = data[source].ravel()
        weights = weight[source].ravel()
        for k in range(size):
            for pixel in range(pixels):
                weighted[pixel] = plain[k, pixel] * weights[pixel]
            for m in range(k + 1):
                value = _dot(weighted, plain[m])
                out[source, k, m] = value
                out[source, m, k] = value


class _Image:
    """Products of one image, kept until the PSFs have moved too far for their slopes to stand for the step."""

    def __init__(self, window: Window, stars: int, tolerance: float) -> None:
        count, size = len(window.data), 3 * stars + 2
        self.window, self.tolerance = window, tolerance
        self._at = np.full((count, stars, 2), np.nan)
        self._products = np.empty((count, size, size))

    def seen(self, index: _Index, *positions: tuple[_Float, _Float]) -> tuple[_Float, _Float]:
        """Return products (m, k, k) of the candidates `index`, and how far each PSF is from there, (m, stars, 2)."""
        now = np.stack([np.stack(place, axis=1) for place in positions], axis=1)
        near = np.abs(now - self._at[index]).max(axis=(1, 2)) <= self.tolerance
        stale = index[~near]
        if len(stale):
            self._at[stale] = now[~near]
            self._products[stale] = self.window.take(stale).products(now[~near])
        return self._products[index], now - self._at[index]


@dataclass(frozen=True)
class Fit:
    """The best parameters of one model for each of m candidates."""

    parameters: _Float
    """(m, p)."""
    chi2: _Float
    """All images and priors together."""
    difference: _Float
    """The part of chi2 that comes from the first window, which is the difference's."""
    normal: _Float
    """(m, p, p), half the curvature of chi2."""

    @cached_property
    def covariance(self) -> tuple[_Float, _Float]:
        """The parameters' covariance (m, p, p) and the logarithm of its determinant; NaN where singular."""
        scale = np.sqrt(np.maximum(np.einsum("mii->mi", self.normal), 1e-300))
        unit = self.normal / (scale[:, :, None] * scale[:, None, :])
        values, vectors = np.linalg.eigh(np.nan_to_num(unit))
        values = np.where(values > 1e-13, values, np.nan)
        inverse = (vectors / values[:, None, :]) @ vectors.transpose(0, 2, 1)
        determinant = -np.log(values).sum(axis=1) - 2.0 * np.log(scale).sum(axis=1)
        return inverse / (scale[:, :, None] * scale[:, None, :]), determinant


@dataclass
class _Sums:
    """chi2, its gradient and its curvature (both halved, the gradient with the opposite sign), summed over images."""

    chi2: _Float
    gradient: _Float
    normal: _Float
    difference: _Float

    @classmethod
    def empty(cls, count: int, parameters: int) -> Self:
        """Return sums over nothing."""
        zero = np.zeros(count)
        return cls(zero, np.zeros((count, parameters)), np.zeros((count, parameters, parameters)), zero)

    def add(self, products: _Float, terms: _Terms) -> None:
        """Add an image."""
        amplitude, slopes = terms.amplitude, terms.slopes
        gram, right = products[:, :-1, :-1], products[:, :-1, -1]
        seen = np.einsum("mij,mj->mi", gram, amplitude)
        chi2 = products[:, -1, -1] + np.einsum("mi,mi->m", amplitude, seen - 2.0 * right)
        turned = slopes.transpose(0, 2, 1)
        self.chi2 = self.chi2 + chi2
        self.gradient += np.einsum("mpk,mk->mp", turned, right - seen)
        self.normal += turned @ gram @ slopes

    def add_prior(self, value: _Float, sign: dict[int, float], error: float) -> None:
        """Add (value / error)^2; `sign` is the derivative of `value` by each parameter that it depends on."""
        self.chi2 = self.chi2 + np.square(value / error)
        for i, a in sign.items():
            self.gradient[:, i] -= a * value / error**2
            for j, b in sign.items():
                self.normal[:, i, j] += a * b / error**2


_Model = Callable[[_Index, _Float], _Sums]
"""What the parameters (k, p) of the candidates (k,) give."""


def _minimised(model: _Model, start: _Float, positions: list[int]) -> Fit:
    """Return the fit of `model` by Levenberg-Marquardt steps from `start`; `positions` are pixels and bounded."""
    active = np.arange(len(start))
    best, value = start.copy(), model(active, start)
    damping = np.full(len(start), 1e-4)
    for _ in range(ROUNDS):
        if len(active) == 0:
            break
        trial = best[active] + _steps(value.normal[active], value.gradient[active], damping[active], positions)
        found = model(active, trial)
        gain = value.chi2[active] - found.chi2
        better = np.isfinite(gain) & (gain >= 0.0)
        into = active[better]
        best[into] = trial[better]
        for name in ("chi2", "gradient", "normal", "difference"):
            getattr(value, name)[into] = getattr(found, name)[better]
        damping[active] *= np.where(better, 0.1, 30.0)
        active = active[~((np.abs(gain) < CLOSE) | (damping[active] > 1e6))]
    return Fit(best, value.chi2, value.difference, value.normal)


def _steps(normal: _Float, gradient: _Float, damping: _Float, positions: list[int]) -> _Float:
    """Return one damped step for each candidate."""
    scale = np.sqrt(np.maximum(np.einsum("mii->mi", normal), 1e-300))
    unit = normal / (scale[:, :, None] * scale[:, None, :])
    unit += (damping[:, None, None] + 1e-12) * np.eye(normal.shape[1])
    step = np.linalg.solve(unit, (gradient / scale)[:, :, None])[:, :, 0] / scale
    step[:, positions] = np.clip(step[:, positions], -LONGEST, LONGEST)
    return np.asarray(step)


def fit_stars(window: Window, flux: _Float, x: _Float, y: _Float) -> Fit:
    """Fit flux, x, y and background (4 parameters) of a star in each square, starting as given."""
    image = _Image(window, 1, ROUGH)

    def model(index: _Index, now: _Float) -> _Sums:
        sums, terms = _Sums.empty(len(now), 4), _Terms.empty(now, 1)
        products, moved = image.seen(index, (now[:, 1], now[:, 2]))
        terms.star(0, now[:, 0], moved, {0: 1.0}, {1: 1, 2: 2})
        terms.constant(now, 3)
        sums.add(products, terms)
        sums.difference = sums.chi2.copy()
        return sums

    return _minimised(model, np.stack([flux, x, y, np.zeros(len(x))], axis=1), [1, 2])


@dataclass
class _Terms:
    """Amplitudes (m, k) of an image's fields and their derivatives (m, k, p) by the parameters."""

    amplitude: _Float
    slopes: _Float

    @classmethod
    def empty(cls, now: _Float, stars: int) -> Self:
        """Return zeros for so many PSFs and a constant."""
        fields = 3 * stars + 1
        return cls(np.zeros((len(now), fields)), np.zeros((len(now), fields, now.shape[1])))

    def star(self, number: int, flux: _Float, moved: _Float, by: dict[int, Any], along: dict[int, int]) -> None:
        """Enter PSF `number` of `flux`, `moved` from where its products were made.

        `by`: derivative of the flux by parameters; `along`: parameters that move it, and the axis (1 x, 2 y).
        """
        first = 3 * number
        self.amplitude[:, first] = flux
        for parameter, slope in by.items():
            self.slopes[:, first, parameter] = slope
        for axis in (1, 2):
            step = moved[:, number, axis - 1]
            self.amplitude[:, first + axis] = flux * step
            for parameter, slope in by.items():
                self.slopes[:, first + axis, parameter] = slope * step
        for parameter, axis in along.items():
            self.slopes[:, first + axis, parameter] = flux

    def constant(self, now: _Float, parameter: int) -> None:
        """Enter the background."""
        self.amplitude[:, -1] = now[:, parameter]
        self.slopes[:, -1, parameter] = 1.0


def _add_template(sums: _Sums, template: _Image, index: _Index, now: _Float) -> None:
    """Add the template with its star, and the priors of the parameters in common."""
    terms, scale = _Terms.empty(now, 1), 1.0 + now[:, 9]
    products, moved = template.seen(index, (now[:, 1] + now[:, 7], now[:, 2] + now[:, 8]))
    terms.star(0, now[:, 0] * scale, moved, {0: scale, 9: now[:, 0]}, {1: 1, 2: 2, 7: 1, 8: 2})
    terms.constant(now, 4)
    sums.add(products, terms)
    for k in (5, 6, 7, 8):
        sums.add_prior(now[:, k], {k: 1.0}, OFFSET_ERROR)
    sums.add_prior(now[:, 9], {9: 1.0}, SCALE_ERROR)


def fit_dipoles(windows: tuple[Window, ...], start: _Float, width: float) -> Fit:
    """Fit a star of the template that the science image sees elsewhere: difference = F_s P(c_s) - F_t P(c_t).

    `windows` of difference, science and template; parameters: the `COMMON`, then F_s, x_s, y_s. A prior of `width`
    pixels on the separation keeps it finite where the science image shows nothing.
    """
    difference, science, template = (
        _Image(window, stars, near)
        for window, stars, near in zip(windows, (2, 1, 1), (FINE, ROUGH, ROUGH), strict=True)
    )

    def model(index: _Index, now: _Float) -> _Sums:
        sums, terms = _Sums.empty(len(now), COMMON + 3), _Terms.empty(now, 2)
        products, moved = difference.seen(index, (now[:, 11], now[:, 12]), (now[:, 1], now[:, 2]))
        terms.star(0, now[:, 10], moved, {10: 1.0}, {11: 1, 12: 2})
        terms.star(1, -now[:, 0], moved, {0: -1.0}, {1: 1, 2: 2})
        sums.add(products, terms)
        sums.difference = sums.chi2.copy()
        terms = _Terms.empty(now, 1)
        products, moved = science.seen(index, (now[:, 11] + now[:, 5], now[:, 12] + now[:, 6]))
        terms.star(0, now[:, 10], moved, {10: 1.0}, {11: 1, 12: 2, 5: 1, 6: 2})
        terms.constant(now, 3)
        sums.add(products, terms)
        _add_template(sums, template, index, now)
        for k in (1, 2):
            sums.add_prior(now[:, 10 + k] - now[:, k], {10 + k: 1.0, k: -1.0}, width)
        return sums

    return _minimised(model, start, [1, 2, 11, 12])


def fit_transients(windows: tuple[Window, ...], start: _Float, registration: float, width: float) -> Fit:
    """Fit a point source anywhere beside a star of the template that is misregistered by about `registration` pixels.

    difference = f P(c) + F_t d . grad P(c_t), with the prior N(0, registration) for d; parameters: the `COMMON`, then
    f, x, y, d_x, d_y. A prior of `width` pixels keeps the position near the square's middle.
    """
    difference, science, template = (
        _Image(window, stars, near)
        for window, stars, near in zip(windows, (2, 2, 1), (FINE, ROUGH, ROUGH), strict=True)
    )

    def model(index: _Index, now: _Float) -> _Sums:
        sums, terms = _Sums.empty(len(now), COMMON + 5), _Terms.empty(now, 2)
        products, moved = difference.seen(index, (now[:, 11], now[:, 12]), (now[:, 1], now[:, 2]))
        terms.star(0, now[:, 10], moved, {10: 1.0}, {11: 1, 12: 2})
        for axis in (1, 2):
            terms.amplitude[:, 3 + axis] = now[:, 0] * now[:, 12 + axis]
            terms.slopes[:, 3 + axis, 0], terms.slopes[:, 3 + axis, 12 + axis] = now[:, 12 + axis], now[:, 0]
        sums.add(products, terms)
        sums.difference = sums.chi2.copy()
        terms = _Terms.empty(now, 2)
        source = now[:, 11] + now[:, 5], now[:, 12] + now[:, 6]
        star = now[:, 1] + now[:, 13] + now[:, 5], now[:, 2] + now[:, 14] + now[:, 6]
        products, moved = science.seen(index, source, star)
        terms.star(0, now[:, 10], moved, {10: 1.0}, {11: 1, 12: 2, 5: 1, 6: 2})
        terms.star(1, now[:, 0], moved, {0: 1.0}, {1: 1, 2: 2, 13: 1, 14: 2, 5: 1, 6: 2})
        terms.constant(now, 3)
        sums.add(products, terms)
        _add_template(sums, template, index, now)
        for k in (13, 14):
            sums.add_prior(now[:, k], {k: 1.0}, registration)
        for k, middle in ((11, difference.window.x), (12, difference.window.y)):
            sums.add_prior(now[:, k] - middle[index], {k: 1.0}, width)
        return sums

    return _minimised(model, start, [1, 2, 11, 12, 13, 14])
