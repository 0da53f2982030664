"""Measure the PSF: pixel by pixel, varying over the detector as a polynomial, from the chosen stars.

The model starts as a Moffat profile. In each round the stars are fitted with it (position and flux); what is left, in
units of the star's flux, is moved back to the PSF's centre and its polynomial is added to the model. Because only
residuals are interpolated, the model converges to the one that reproduces the stars as sampled (the effective PSF of
Anderson & King 2000, PASP 112, 1360), and masked or clipped pixels, whose residual is set to zero, simply keep the
model's value.

Every fifth star is reserved: the polynomial's degree is the one whose model, fitted to the others, fits the reserved
ones best, and their chi2 is what the PSF's quality reports. They join the others in the last round. A PSF too narrow
for its pixels is fitted on a grid twice as fine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.characterize.psf_basis import updated
from workers.characterize.psf_quality import PsfQuality, psf_quality
from workers.characterize.psf_stars import (
    PsfStars,
    Residuals,
    core_chi2,
    cut_stars,
    least_chi2,
    located,
    moved_back,
    residuals,
)
from workers.characterize.psf_start import starting_psf
from workers.imaging.psf import PsfModel, polynomial_terms

__all__ = ["PsfFit", "fit_psf", "psf_degree"]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]

FEWEST = 3
"""Stars for any PSF at all."""
DEGREE_STARS = ((60, 3), (30, 2), (12, 1), (0, 0))
"""Fewest stars for each polynomial degree."""
EVERY, FOLD = 5, 2
"""One star of so many is reserved, beginning with this one."""
FEWEST_RESERVED = 10
"""Stars below which none is reserved."""
ONE_FOLD = 60
"""Stars above which one reserved share tells the degree; with fewer each star is reserved once."""
ROUNDS = 3
"""With the chosen degree, before the reserved stars join."""
STAR_CLIP = 4.0
"""Robust sigma of ln(chi2 per pixel): blends and galaxies leave the fit."""
FIRST_ERROR = 0.03
"""Of the PSF's value: how well a star's pixel follows the model of the first rounds."""
LEAST_ERROR = 0.001
"""Later on; bounds the weight of very bright stars too."""
UNDERSAMPLED = 2.8
"""Pixels, FWHM of the PSF as pixels of full size see it (a PSF of 2.5 pixels under them)."""
OVERSAMPLED_STARS = 16
"""Fewest stars for a finer grid: their pixel phases must fill it."""
MAX_CONDITION = 20.0
"""Of the polynomial's design matrix; stars spread over the whole detector give 4 to 15."""


@dataclass(frozen=True)
class PsfFit:
    """The model and the stars behind it."""

    model: PsfModel
    used: _Bool
    """Per star given."""
    chi2: float
    """Median over the used stars of chi2 per pixel within the core."""
    quality: PsfQuality


@dataclass(frozen=True)
class _State:
    """Between two rounds."""

    model: PsfModel
    stars: PsfStars
    error: float
    """Of the model, relative to the PSF's value."""
    fwhm: float
    base: _Float
    """The profile that the fit started with, on the model's grid."""


def psf_degree(stars: int, most: int) -> int:
    """Return the polynomial degree that `stars` stars carry, at most `most`."""
    return min(most, next(degree for fewest, degree in DEGREE_STARS if stars >= fewest))


def fit_psf(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: _Bool,
    x: _Float,
    y: _Float,
    *,
    fwhm: float,
    size: int,
    max_degree: int,
    oversampling: int | None = 1,
) -> PsfFit:
    """Fit the PSF to stars near (x, y), 0-based pixels (n,), on a background-subtracted image.

    `fwhm` a first guess, pixels; `size` of the stamps, odd; `oversampling` 1 or 2, or None: 2 where the PSF needs it.
    The stamps of the result fall to zero at their rim, so fluxes are those inside a circle of half the size; the zero
    point, measured with the same fluxes, makes up for it. Raises DataError with fewer than 3 stars.
    """
    height, width = image.shape
    stars = cut_stars(image, variance, usable, x, y, size)
    _need(stars, len(x))

    def finer(width: float) -> int:
        needed = width < UNDERSAMPLED and len(stars) >= OVERSAMPLED_STARS
        return oversampling or (2 if needed else 1)

    model = starting_psf(stars, fwhm, width=width, height=height, finer=finer)
    state = _State(
        model, stars, FIRST_ERROR, model.fwhm(0.5 * width, 0.5 * height), model.coefficients[0].astype(float)
    )
    state = _rounds(state, 2, 0, len(x), iterations=4)
    degree = _best_degree(state, max_degree)
    state, chi2, reserved = _with_reserved(state, degree, len(x))
    left = residuals(state.stars, state.model, state.error, clip=True)
    used = np.zeros(len(x), bool)
    used[state.stars.row] = True
    quality = psf_quality(
        state.model, state.stars, left, _weights(left), chi2=chi2, reserved=reserved, error=state.error
    )
    return PsfFit(state.model, used, float(np.median(core_chi2(left, state.fwhm))), quality)


def _need(stars: PsfStars, given: int) -> None:
    """Raise DataError where too few stars remain."""
    if len(stars) < FEWEST:
        raise DataError(
            f"PSF needs at least {FEWEST} isolated, unsaturated stars; {len(stars)} of {given} candidates "
            "are left. Lower star_snr in [characterize.psf] of survey.toml, or check the focus of the exposure"
        )


def _rounds(state: _State, number: int, degree: int, given: int, *, iterations: int = 2) -> _State:
    """Go through `number` rounds with all of the state's stars."""
    for turn in range(number):
        stars = located(state.stars, state.model, iterations if turn == 0 else 2)
        _need(stars, given)
        settled = state.error < FIRST_ERROR
        left = residuals(stars, state.model, state.error, clip=settled)
        if settled:
            keep = _without_outliers(core_chi2(left, state.fwhm))
            stars = stars.chosen(keep)
            _need(stars, given)
            left = residuals(stars, state.model, state.error, clip=True)
        carried = _carried_degree(state.model, stars, degree)
        model = _improved(state, stars, left, carried)
        state = replace(state, model=model, stars=stars, fwhm=model.fwhm(0.5 * model.width, 0.5 * model.height))
    return state


def _improved(state: _State, stars: PsfStars, left: Residuals, degree: int) -> PsfModel:
    """Return the model with the residuals' polynomial added."""
    moved = moved_back(left, stars, state.model.oversampling)
    return updated(
        state.model, moved, _weights(left), stars.x, stars.y, degree=degree, fwhm=state.fwhm, base=state.base
    )


def _weights(left: Residuals) -> _Float:
    """Return each star's weight, (m,)."""
    return np.asarray(1.0 / (1.0 / np.square(left.snr) + LEAST_ERROR**2))


def _carried_degree(model: PsfModel, stars: PsfStars, most: int) -> int:
    """Return the degree that the stars carry: lower where they crowd in one part of the detector or on a line."""
    degree = psf_degree(len(stars), most)
    u, v = 2.0 * stars.x / model.width - 1.0, 2.0 * stars.y / model.height - 1.0
    while degree > 0 and np.linalg.cond(polynomial_terms(u, v, degree)) > MAX_CONDITION:
        degree -= 1
    return degree


def _reserved(number: int, fold: int = FOLD) -> _Bool:
    """Tell which stars, brightest first, are held out: all brightnesses alike."""
    return np.asarray(np.arange(number) % EVERY == fold)


def _best_degree(state: _State, most: int) -> int:
    """Return the degree whose model, fitted to the other stars, fits the reserved ones best."""
    stars = located(state.stars, state.model, 2)
    most = _carried_degree(state.model, stars, most)
    if most == 0 or len(stars) < FEWEST_RESERVED:
        return most
    left = residuals(stars, state.model, state.error, clip=False)
    moved, weight = moved_back(left, stars, state.model.oversampling), _weights(left)
    total = np.zeros(most + 1)
    for fold in range(EVERY) if len(stars) < ONE_FOLD else (FOLD,):
        held = _reserved(len(stars), fold)
        others, rest = stars.chosen(~held), stars.chosen(held)
        for degree in range(most + 1):
            model = updated(
                state.model,
                moved[~held],
                weight[~held],
                others.x,
                others.y,
                degree=degree,
                fwhm=state.fwhm,
                base=state.base,
            )
            chi2 = core_chi2(residuals(rest, model, LEAST_ERROR, clip=False), state.fwhm)
            total[degree] += np.minimum(chi2, 4.0 * np.median(chi2)).sum()
    return int(np.argmin(total))


def _with_reserved(state: _State, degree: int, given: int) -> tuple[_State, float, int]:
    """Fit without the reserved stars, compare with them, then let them join; return their chi2 and number too."""
    if len(state.stars) < FEWEST_RESERVED:
        state = _rounds(state, 1, degree, given)
        state = _rounds(_settled(state), ROUNDS, degree, given)
        return state, float("nan"), 0
    held = _reserved(len(state.stars))
    reserve = state.stars.chosen(held)
    state = _rounds(replace(state, stars=state.stars.chosen(~held)), 1, degree, given)
    state = _rounds(_settled(state), ROUNDS, degree, given)
    reserve = located(reserve, state.model, 4)
    if len(reserve) == 0:
        return state, float("nan"), 0
    chi2 = least_chi2(reserve, state.model, residuals(reserve, state.model, 0.0, clip=True), state.fwhm)
    fair = core_chi2(residuals(reserve, state.model, state.error, clip=True), state.fwhm)
    keep = _without_outliers(fair)
    everyone = _joined(state.stars, reserve.chosen(keep))
    state = _rounds(replace(state, stars=everyone), 1, degree, given)
    return state, float(chi2[keep].mean()), int(np.count_nonzero(keep))


def _joined(one: PsfStars, other: PsfStars) -> PsfStars:
    """Return both, in the order they were given."""
    both = {name: np.concatenate([value, getattr(other, name)]) for name, value in vars(one).items()}
    return PsfStars(**both).chosen(np.argsort(both["row"], kind="stable"))


def _settled(state: _State) -> _State:
    """Return the state with the model's error as the brighter half of the stars shows it."""
    left = residuals(state.stars, state.model, FIRST_ERROR, clip=True)
    bright = left.snr >= np.median(left.snr)
    error = LEAST_ERROR
    while error < 0.9 * FIRST_ERROR:
        left = residuals(state.stars.chosen(bright), state.model, error, clip=False)
        if np.median(core_chi2(left, state.fwhm)) < 1.05:
            break
        error *= 1.4
    return replace(state, error=min(error, 0.9 * FIRST_ERROR))


def _without_outliers(chi2: _Float) -> _Bool:
    """Tell which stars' chi2 does not stand far above the others'."""
    log = np.log(np.maximum(chi2, 1e-6))
    middle = np.median(log)
    spread = max(1.4826 * float(np.median(np.abs(log - middle))), 0.1)
    return np.asarray(log < middle + STAR_CLIP * spread)
