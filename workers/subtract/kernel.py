"""The matching kernel: least squares on stamps of stars, with clipping and a ladder of simpler models to fall back on.

Alard & Lupton (1998), ApJ 503, 325; Alard (2000), A&AS 144, 363. Each star gives one Gram matrix; the spatially varying
problem is their Kronecker sum with the polynomial terms, so that clipping a star costs no pixel work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.subtract.basis import KernelBasis
from workers.subtract.convolve import VaryingKernel

__all__ = ["MIN_STARS", "KernelFit", "StampGrams", "fit_kernel", "stamp_grams"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
MIN_STARS = 3
_STARS_PER_TERM = 5
_RESERVED, _FEWEST_RESERVED = 5, 6
"""One star of so many tells the degree, where there are enough of them."""
_AT_ONCE = 32
"""Stars whose stamps are worked on at once."""
_CLIP_ROUNDS = 4
_CLIP_SIGMA = 4.0
_MISFIT = 0.03  # of a star's flux (rms): below it a high chi² is no reason to drop the star
_FLUX_GRADIENT = 0.02
"""Expected change (one sigma) of the kernel's sum, and of the broad Gaussian's share, from the middle to the edge."""
_BROAD_SHARE = 0.2
"""Expected share of the broad Gaussian in the kernel's sum: on a stamp it hides in the background."""
_NOISE_SHARES = (1.0, 0.9, 0.75, 0.5, 0.0)
"""Tried in turn; with faint stars only, taking all of it off can leave a matrix that is not positive."""
_KEPT_WEIGHT = 0.3
"""Of the weakest direction's weight: what taking noise off must leave."""
_MAX_CONDITION = 1e13  # of the diagonally scaled normal matrix; beyond it float64 holds no digit of the solution
_RIDGE = 1e-12
_LAST_RESORT = "kernelFallbackAnalytic"
_MODEL_ERROR = 0.01  # of the flux in a pixel: keeps a few very bright stars from ruling the fit


@dataclass(frozen=True)
class StampGrams:
    """The least-squares sums of each star: basis kernels first, then a constant background."""

    x: _Float
    y: _Float
    gram: _Float
    """Shape (stars, basis + 1, basis + 1)."""
    rhs: _Float
    """Shape (stars, basis + 1)."""
    norm: _Float
    """Weighted sum of squares of the data, shape (stars,)."""
    noise: _Float
    """Weighted sum of the variance of the image that is convolved, shape (stars,)."""
    pixels: int
    """Pixels of one stamp."""

    def kept(self, good: _Bool) -> StampGrams:
        """Return the sums of the stars that are `good`."""
        return StampGrams(
            x=self.x[good],
            y=self.y[good],
            gram=self.gram[good],
            rhs=self.rhs[good],
            norm=self.norm[good],
            noise=self.noise[good],
            pixels=self.pixels,
        )

    def chi2(self, coefficients: _Float) -> tuple[_Float, _Float]:
        """Return the reduced chi² of each star for its own coefficients (stars, basis + 1), and its model's S/N²."""
        c = coefficients
        quadratic = np.einsum("sa,sab,sb->s", c, self.gram, c)
        rest = self.norm - 2.0 * np.einsum("sa,sa->s", c, self.rhs) + quadratic
        return np.asarray(rest / self.pixels), np.asarray(quadratic)


@dataclass(frozen=True)
class KernelFit:
    """A fitted kernel and background, and how the fit went."""

    kernel: VaryingKernel
    background: VaryingKernel
    """The constant of the fit as a 1 x 1 kernel: its `sum_image` is the background, nJy."""
    stars: int
    rejected: int
    chi2: float
    """Median reduced chi² of the stars kept."""
    used: _Bool
    """Per star given."""
    x: _Float
    """Of the stars given, pixels."""
    y: _Float
    fallbacks: Mapping[str, int]
    """Cause of each step down the ladder, with the degree that was given up."""

    @classmethod
    def without_stars(cls, kernel: VaryingKernel) -> KernelFit:
        """Return a kernel that no star was fitted for, and no background."""
        nothing = np.zeros(0)
        level = VaryingKernel(np.zeros((1, 1, 1)), 0, kernel.shape)
        return cls(
            kernel=kernel,
            background=level,
            stars=0,
            rejected=0,
            chi2=float("nan"),
            used=nothing.astype(bool),
            x=nothing,
            y=nothing,
            fallbacks={_LAST_RESORT: 0},
        )


def stamp_grams(
    convolved: tuple[NDArray[np.floating], NDArray[np.floating]],
    target: tuple[NDArray[np.floating], NDArray[np.floating]],
    x: NDArray[np.intp],
    y: NDArray[np.intp],
    basis: KernelBasis,
    half: int,
) -> StampGrams:
    """Return the least-squares sums of stars at pixels (x, y): `target` modelled by kernels applied to `convolved`.

    Both are (image, variance) of one unit, (h, w) each; stamps are 2 `half` + 1 pixels on a side, and need a margin of
    the kernel's half width. The weights use the variance averaged over 5 x 5 pixels, since a weight that follows the
    noise of its own pixel pulls fluxes down.
    """
    count, size = len(x), len(basis) + 1
    gram, rhs = np.empty((count, size, size)), np.empty((count, size))
    norm, noise = np.empty(count), np.empty(count)
    for first in range(0, count, _AT_ONCE):  # few at a time: they stay in the processor's cache
        part = slice(first, first + _AT_ONCE)
        gram[part], rhs[part], norm[part], noise[part] = _sums(convolved, target, x[part], y[part], basis, half)
    pixels = (2 * half + 1) ** 2
    return StampGrams(x.astype(float), y.astype(float), gram, rhs, norm, noise, pixels)


def _sums(
    convolved: tuple[NDArray[np.floating], NDArray[np.floating]],
    target: tuple[NDArray[np.floating], NDArray[np.floating]],
    x: NDArray[np.intp],
    y: NDArray[np.intp],
    basis: KernelBasis,
    half: int,
) -> tuple[_Float, _Float, _Float, _Float]:
    """Return gram, rhs, norm and noise of `StampGrams`."""
    reach = basis.profiles.shape[1] // 2
    models = basis.convolved(_stamps(convolved[0], x, y, half + reach).astype(float))
    data = _stamps(target[0], x, y, half).astype(float)
    spread = [_smoothed(_stamps(variance, x, y, half + 2)) for variance in (convolved[1], target[1])]
    root = 1.0 / np.sqrt(spread[0] + spread[1] + (_MODEL_ERROR * models[:, 0]) ** 2)
    count, pixels = len(x), (2 * half + 1) ** 2
    design = np.concatenate([models * root[:, None], root[:, None]], axis=1).reshape(count, len(basis) + 1, pixels)
    weighted = (data * root).reshape(count, pixels, 1)
    gram = design @ design.transpose(0, 2, 1)
    noise = (spread[0] * np.square(root)).sum(axis=(1, 2))
    return gram, (design @ weighted)[:, :, 0], np.square(weighted[:, :, 0]).sum(axis=1), noise


def fit_kernel(grams: StampGrams, basis: KernelBasis, degree: int, shape: tuple[int, int]) -> KernelFit:
    """Return the kernel of at most `degree` that the stars allow, of the degree that predicts reserved stars best.

    Raises DataError with fewer than 3 usable stars, or where even a constant kernel is not determined.
    """
    fallbacks: dict[str, int] = {}
    if len(grams.x) < MIN_STARS:
        raise DataError(
            f"the kernel needs at least {MIN_STARS} bright stars that are clean in science and template, there are "
            f"{len(grams.x)}; look at the masks, the template's coverage and the alignment"
        )
    for trial in range(degree, -1, -1):
        terms = (trial + 1) * (trial + 2) // 2
        if trial and len(grams.x) < _STARS_PER_TERM * terms:
            fallbacks["kernelFallbackFewStars"] = trial
            continue
        fit = _clipped_fit(grams, basis, trial, shape, fallbacks)
        if fit is not None:
            best = _best_degree(grams.kept(fit.used), basis, trial, shape)
            return fit if best == trial else _clipped_fit(grams, basis, best, shape, fallbacks) or fit
        fallbacks["kernelFallbackIllConditioned"] = trial
    raise DataError(
        f"the matching kernel is not determined by {len(grams.x)} stars (condition above {_MAX_CONDITION:.0e}); "
        "look at the template: it may be empty or constant there"
    )


def _clipped_fit(
    grams: StampGrams, basis: KernelBasis, degree: int, shape: tuple[int, int], fallbacks: Mapping[str, int]
) -> KernelFit | None:
    """Fit, drop stars that the model misses, fit again; None where the system is ill-conditioned."""
    frame = VaryingKernel(np.zeros((1, 1, 1)), degree, shape)
    terms = frame.terms(grams.x, grams.y)
    prior = _prior(basis, terms.shape[1])
    products = _products(basis)
    good, chi2 = np.ones(len(grams.x), bool), np.zeros(len(grams.x))
    least = max(MIN_STARS, _STARS_PER_TERM * terms.shape[1] if degree else MIN_STARS)
    solution = np.zeros(prior.shape)
    for _ in range(_CLIP_ROUNDS + 1):
        found = _solve(grams.kept(good), terms[good], prior, products)
        if found is None:
            return None
        solution = found
        chi2, signal = grams.chi2(np.einsum("st,bt->sb", terms, solution))
        keep = _matching(chi2, signal / grams.pixels, good)
        if keep.sum() < least or np.array_equal(keep, good):
            break
        good = keep
    size = basis.profiles.shape[1]
    kernels = np.tensordot(solution[:-1].T, basis.images().reshape(len(basis), -1), axes=1)
    return KernelFit(
        kernel=VaryingKernel(kernels.reshape(-1, size, size), degree, shape),
        background=VaryingKernel(solution[-1].reshape(-1, 1, 1), degree, shape),
        used=good,
        x=grams.x,
        y=grams.y,
        stars=int(good.sum()),
        rejected=int((~good).sum()),
        chi2=float(np.median(chi2[good])),
        fallbacks=dict(fallbacks),
    )


def _best_degree(grams: StampGrams, basis: KernelBasis, most: int, shape: tuple[int, int]) -> int:
    """Return the degree whose kernel, fitted to four stars of five, leaves the least chi² of the fifth."""
    held = np.arange(len(grams.x)) % _RESERVED == _RESERVED // 2
    if most == 0 or held.sum() < _FEWEST_RESERVED:
        return most
    others, rest = grams.kept(~held), grams.kept(held)
    products, left = _products(basis), []
    for degree in range(most + 1):
        frame = VaryingKernel(np.zeros((1, 1, 1)), degree, shape)
        terms = frame.terms(others.x, others.y)
        solution = _solve(others, terms, _prior(basis, terms.shape[1]), products)
        if solution is None:
            left.append(np.inf)
            continue
        chi2, _ = rest.chi2(np.einsum("st,bt->sb", frame.terms(rest.x, rest.y), solution))
        left.append(float(np.minimum(chi2, 4.0 * np.median(chi2)).mean()))
    return int(np.argmin(left))


def _matching(chi2: _Float, signal: _Float, good: _Bool) -> _Bool:
    """Return which stars match: no excess of chi², or one that is a small share of the star's own signal (per pixel).

    A variable star, a blend with one or a missed cosmic ray leaves tens of per cent of its flux; a very bright star
    leaves a high chi² from a per cent of misfit, and carries most of what is known of the kernel.
    """
    middle = float(np.median(chi2[good]))
    spread = 1.4826 * float(np.median(np.abs(chi2[good] - middle)))
    excess = chi2 - middle
    return np.asarray((excess <= _CLIP_SIGMA * max(spread, 0.05 * middle)) | (excess <= _MISFIT**2 * signal))


def _prior(basis: KernelBasis, terms: int) -> _Float:
    """Return the inverse variance that each coefficient (basis + 1, terms) is expected to have about 0; mostly none.

    Without it a few faint stars leave the kernel's sum and far wings free away from them.
    """
    precision = np.zeros((len(basis) + 1, terms))
    broad = abs(float(basis.surplus[-1]))
    precision[0, 1:] = _FLUX_GRADIENT**-2
    precision[-2, 0] = (broad / _BROAD_SHARE) ** 2
    precision[-2, 1:] = (broad / _FLUX_GRADIENT) ** 2
    return precision


def _products(basis: KernelBasis) -> _Float:
    """Return the inner products of the basis kernels, with a zero row and column for the background."""
    flat = basis.images().reshape(len(basis), -1)
    return np.pad(flat @ flat.T, ((0, 1), (0, 1)))


def _solve(grams: StampGrams, terms: _Float, prior: _Float, products: _Float) -> _Float | None:
    """Return coefficients (basis + 1, terms) of the Kronecker-summed normal equations, None if ill-conditioned.

    The noise of the convolved image adds to the Gram matrices, which would make the kernel too weak (errors in
    variables); what it adds on average is known and taken off, as far as every direction keeps a good part of its
    weight: one that is left with next to none makes the kernel ring.
    """
    rhs = (grams.rhs.T @ terms).ravel()
    whole = _kronecker(grams.gram, terms) + np.diag(prior.ravel())
    weakest = _least_eigenvalue(whole)
    for share in _NOISE_SHARES:
        gram = grams.gram - share * grams.noise[:, None, None] * products
        matrix = _kronecker(gram, terms) + np.diag(prior.ravel()) if share else whole
        if share and _least_eigenvalue(matrix) < _KEPT_WEIGHT * weakest:
            continue
        solution = _positive_solution(matrix, rhs)
        if solution is not None:
            return solution.reshape(grams.rhs.shape[1], terms.shape[1])
    return None


def _least_eigenvalue(matrix: _Float) -> float:
    """Return the least eigenvalue of a symmetric matrix scaled to a diagonal of ones; -1 where it can't be."""
    scale = np.sqrt(np.maximum(np.diag(matrix), 0.0))
    if not np.all(np.isfinite(matrix)) or np.any(scale <= 0.0):
        return -1.0
    return float(np.linalg.eigvalsh(matrix / scale[:, None] / scale[None, :])[0])


def _kronecker(gram: _Float, terms: _Float) -> _Float:
    """Return the sum over stars of gram (x) terms termsᵀ, shape (basis * terms, basis * terms)."""
    (stars, size), count = gram.shape[:2], terms.shape[1]
    pairs = (terms[:, :, None] * terms[:, None, :]).reshape(stars, -1)
    blocks = (gram.reshape(stars, -1).T @ pairs).reshape(size, size, count, count)
    return np.asarray(blocks.transpose(0, 2, 1, 3).reshape(size * count, size * count))


def _positive_solution(matrix: _Float, rhs: _Float) -> _Float | None:
    """Solve a symmetric system, None where it is not safely positive definite."""
    scale = np.sqrt(np.maximum(np.diag(matrix), 0.0))
    if not np.all(np.isfinite(matrix)) or np.any(scale <= 0.0):
        return None
    scaled = matrix / scale[:, None] / scale[None, :]
    scaled[np.diag_indices_from(scaled)] += _RIDGE
    eigenvalues = np.linalg.eigvalsh(scaled)
    if eigenvalues[0] <= 0.0 or eigenvalues[-1] / eigenvalues[0] > _MAX_CONDITION:
        return None
    return np.asarray(np.linalg.solve(scaled, rhs / scale) / scale)


def _smoothed(stamps: NDArray[np.floating]) -> _Float:
    """Return the 5 x 5 means of stamps (m, n, n), complete windows only."""
    n = stamps.shape[1] - 4
    along = np.sum([stamps[:, :, k : k + n] for k in range(5)], axis=0, dtype=float)
    return np.asarray(np.sum([along[:, k : k + n] for k in range(5)], axis=0) / 25.0)


def _stamps(image: NDArray[np.floating], x: NDArray[np.intp], y: NDArray[np.intp], half: int) -> NDArray[np.floating]:
    """Cut squares of 2 `half` + 1 pixels round (x, y), shape (m, n, n)."""
    offset = np.arange(-half, half + 1)
    return np.asarray(image[y[:, None, None] + offset[None, :, None], x[:, None, None] + offset[None, None, :]])
