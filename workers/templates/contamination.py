"""A transient's own light in the template that it is compared with: whether, how much, and the flux without it.

With kept warps the amount is exact. The flux of a source is linear in the template: psfFlux = s - sum(g T), where g
takes a point source of the template's PSF to that of the difference, |P_D|² / P_T, normalised, and s has nothing to do
with the template. The same against the rest T', with its own PSF, is s - sum(g' T'): so

    c = sum(g T) - sum(g' T'),   psfFluxCorrected = psfFlux + c,

in which all that stands still cancels, whatever PSFs the inputs have. T and T' share inputs: with r = 1 - W_c the share
of weight that T' has of T, cov(T, T') = r var T', and

    var c = sum(g² var T) + sum(g'² var T') - 2 r sum(g g' var T'),
    psfFluxCorrectedErr² = psfFluxErr² - sum(g² var T) + sum(g'² var T').
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from workers.imaging.masks import BLOCKING
from workers.templates.activity import FURTHEST, Points, Shining, shining
from workers.templates.cell import TemplateCell
from workers.templates.leave_out import Box, Rest, Warps, box_round, given_in, leave_out, rest_psf

__all__ = [
    "Amount",
    "Contamination",
    "Seen",
    "amount_of",
    "contamination_of",
    "corrected",
    "flagged",
    "in_reach",
    "input_shares",
    "template_variance",
]

_Bool = NDArray[np.bool_]
_Float = NDArray[np.float64]
LEAST_LIGHT = 0.005
"""Of the brightest flux: less light in the template is no contamination."""
_CHANCE = 0.3
"""That the template holds more, from which a source is flagged."""
_TRACE, _TRACE_CHANCE = 0.003, 2e-3
"""An input is left out where it had more light than that (of the brightest flux) with more than this probability."""
_SURE, _CLEAN = 4.0, 3.0
"""Sigma of the amount that flag without further ado, and that must fit below `LEAST_LIGHT` to clear it."""
_VARIABLE_DAYS = 30.0
"""Before the first detection, of what is like no transient: inputs later than that are suspect."""
_SIDE = 64
_LEAST_POWER = 1e-4
"""Of a PSF's power, relative to its greatest: fainter frequencies are not restored."""
_LOST = 0.05
"""Of a point source's flux in the filter, on pixels without a value, above which there is no amount."""
_CORE = 0.1
"""Of the PSF's peak: an input that gave a pixel brighter than that is in the source's template."""


@dataclass(frozen=True)
class Seen:
    """A source of a difference image, and what is known of its object in this band."""

    ra: float
    dec: float
    psfFlux: float
    """nJy."""
    psfFluxErr: float
    first: float
    """First detection of the object in any band, MJD TAI."""
    history: Points
    """The object's earlier sources, corrected where they were contaminated; without this one."""
    mjd: float
    unseen: Points | None = None
    """Visits before the first detection, with their 5-sigma limits."""
    psf_variance: float | None = None
    """Second moment of the difference's PSF along an axis, arcsec²; that of the template where None."""


@dataclass(frozen=True)
class Amount:
    """Light of left-out inputs at a position, as a flux of the difference lacks it."""

    flux: float
    """c, nJy."""
    fluxErr: float
    template: float
    """What the template's noise adds to the variance of psfFlux, nJy²."""
    rest: float
    """And what that of the rest does."""
    epochs: _Float
    """Flux in each input left out, by its number, nJy; NaN where its warp is gone."""
    covariance: _Float


@dataclass(frozen=True)
class Contamination:
    """What a template holds of a source; names as in diaSource."""

    templateContaminated: bool
    inputs: tuple[int, ...]
    """Left out, or suspect where no warps are kept: places in the cell's plan.inputs."""
    share: float
    """Of the template's weight at the source, theirs."""
    templateFluxInWindow: float | None
    """nJy; None where warps are gone, or nothing is left without them."""
    templateFluxInWindowErr: float | None
    psfFluxCorrected: float | None
    psfFluxCorrectedErr: float | None
    chance: float
    """That the template holds more of its light than `LEAST_LIGHT` of its brightest flux."""


CLEAN = Contamination(False, (), 0.0, None, None, None, None, 0.0)


def in_reach(first: ArrayLike, last_epoch: ArrayLike) -> _Bool:
    """Say which objects, first detected at `first`, can be in templates whose last input is of `last_epoch` (MJD TAI).

    For the templates of an exposure, or of each cell (`CellRecord.lastEpochMjdTai`): no file is read.
    """
    return np.asarray(np.asarray(last_epoch, float) >= np.asarray(first, float) - FURTHEST)


def contamination_of(seen: Seen, cell: TemplateCell, warps: Warps) -> Contamination:
    """Return what the template `cell`, which holds the position, has of the source's light.

    An input is suspect where the light curve allows that it shone then. Suspects are measured in their warps, against
    the template without them; the flag says that the template probably holds more than 0.5 % of the brightest flux.
    Without warps the light curve alone decides, and there is no amount. Raises DataError where a cell is of a version
    that doesn't say which inputs are in a pixel.
    """
    x, y = (float(place) for place in cell.plan.grid.cell_wcs(cell.plan.cell).sky_to_pixel(seen.ra, seen.dec))
    shares = input_shares(cell, x, y)
    times = np.array([item.midpointMjdTai for item in cell.plan.inputs])

    def measure(out: NDArray[np.intp]) -> Amount | None:
        return amount_of(cell, x, y, tuple(out.tolist()), warps, psf_variance=seen.psf_variance)

    return flagged(seen, times, shares, measure)


def flagged(
    seen: Seen, times: _Float, shares: _Float, measure: Callable[[NDArray[np.intp]], Amount | None]
) -> Contamination:
    """Return what `contamination_of` does, for inputs of these times (MJD TAI) and shares of weight at the source.

    `measure` returns the amount of some of them, by their places, or None.
    """
    near = (shares > 0) & in_reach(seen.first, times)
    if not near.any():
        return CLEAN
    could = _could(seen, 0.0)
    suspect = near.copy()
    suspect[near] = could.chances(times[near], _TRACE * could.brightest) > _TRACE_CHANCE
    if could.like_none():
        suspect |= (shares > 0) & (times > seen.first - _VARIABLE_DAYS)
    out = np.flatnonzero(suspect)
    if not len(out):
        return CLEAN
    amount, share = measure(out), float(shares[out].sum())
    numbers = tuple(out.tolist())
    if amount is None:
        chance = 1.0 if could.like_none() else could.chance(times[near], shares[near], LEAST_LIGHT * could.brightest)
        return Contamination(chance > _CHANCE, numbers, share, None, None, None, None, chance)
    known = _could(seen, amount.flux).and_epochs(times[out], amount.epochs, amount.covariance)
    chance = _decided(known, amount, known.chance(times[near], shares[near], LEAST_LIGHT * known.brightest))
    flux, error = corrected(seen.psfFlux, seen.psfFluxErr, amount)
    return Contamination(chance > _CHANCE, numbers, share, amount.flux, amount.fluxErr, flux, error, chance)


def _decided(known: Shining, amount: Amount, chance: float) -> float:
    """Return the chance, but 1 or 0 where the amount alone decides, or where no transient is like the object."""
    if amount.flux > _SURE * amount.fluxErr:
        return 1.0
    if amount.flux + _CLEAN * amount.fluxErr < LEAST_LIGHT * known.brightest:
        return 0.0
    return 1.0 if known.like_none() else chance


def _could(seen: Seen, amount: float) -> Shining:
    """Return which transients could be the object, this source included."""
    old = seen.history
    points = Points(
        np.append(old.mjd, seen.mjd),
        np.append(old.flux, seen.psfFlux + amount),
        np.append(old.fluxErr, seen.psfFluxErr),
    )
    return shining(points, seen.first, seen.unseen)


def corrected(psfFlux: float, psfFluxErr: float, amount: Amount) -> tuple[float, float]:
    """Return psfFluxCorrected and psfFluxCorrectedErr, nJy: the flux against the template without the inputs."""
    science = max(psfFluxErr**2 - amount.template, 0.0)
    return psfFlux + amount.flux, float(np.sqrt(science + amount.rest))


def amount_of(
    cell: TemplateCell,
    x: float,
    y: float,
    out: tuple[int, ...],
    warps: Warps,
    *,
    psf: NDArray[np.floating] | None = None,
    psf_variance: float | None = None,
) -> Amount | None:
    """Return the light that inputs `out` brought into the template at (x, y), pixels of the cell.

    `psf` is that of the difference on the cell's pixels (n, n); without it the template's, broadened or sharpened to
    the second moment `psf_variance` (arcsec²) where that is given. None where warps are gone, too few pixels have a
    value, or nothing is left without the inputs.
    """
    box = box_round(cell, x, y, _SIDE)
    rest = leave_out(cell, out, warps, box)
    if rest is None:
        return None
    given = given_in(cell, box)
    middle = given[:, int(np.round(y)) - box.y, int(np.round(x)) - box.x]
    gone = np.isin(np.arange(len(given)), out)
    power = _power(cell, psf, psf_variance)
    place = _Place(box, x, y)
    g = place.filter(power, cell.psf)
    other = place.filter(power, rest_psf(cell, gone, middle))
    view = box.slices()
    good = (rest.nEpochs > 0) & ((cell.mask[view] & int(BLOCKING)) == 0)
    unit = place.stamp(cell.psf)
    if abs(1.0 - float((g * unit)[good].sum() / (g * unit).sum())) > _LOST:
        return None
    g, other = np.where(good, g, 0.0), np.where(good, other, 0.0)
    noise = float(cell.noiseCorrelation)
    template, left = noise * cell.variance[view].astype(float), noise * rest.variance.astype(float)
    parts = [float((g**2 * template).sum()), float((other**2 * left).sum())]
    shared = float((g * other * (1.0 - rest.share) * left).sum())
    epochs, variances = _epochs(cell, out, warps, place, (power, given, rest, other))
    return Amount(
        flux=float((g * cell.image[view]).sum() - (other * rest.image).sum()),
        fluxErr=float(np.sqrt(max(parts[0] + parts[1] - 2.0 * shared, 0.0))),
        template=parts[0],
        rest=parts[1],
        epochs=epochs,
        covariance=np.diag(variances) + parts[1],
    )


def _epochs(
    cell: TemplateCell, out: tuple[int, ...], warps: Warps, place: _Place, parts: tuple[_Float, _Bool, Rest, _Float]
) -> tuple[_Float, _Float]:
    """Return the flux in each input of `out` above the rest, and the variance of its own noise; nJy, nJy²."""
    power, given, rest, other = parts
    under = float((other * rest.image).sum())
    noise = float(cell.noiseCorrelation)
    fluxes, variances = np.zeros(len(out)), np.zeros(len(out))
    for row, number in enumerate(out):
        block = warps(cell.plan.inputs[number], cell.plan.cell)
        good = given[number] & (other != 0)
        if block is None or not good.any():  # the rest was made of the others' warps: it says nothing of this one
            variances[row] = 1e12 * max(float(np.median(cell.variance)), 1e-12)
            continue
        view = place.box.slices((block.image.shape[0] - cell.image.shape[0]) // 2)
        mine = place.filter(power, np.asarray(cell.psfs)[number])
        filled = np.where(good, block.image[view], rest.image)
        fluxes[row] = float((mine * filled)[other != 0].sum()) - under
        variances[row] = noise * float((mine**2 * block.variance[view])[good].sum())
    return fluxes, variances


def _power(cell: TemplateCell, psf: NDArray[np.floating] | None, variance: float | None) -> _Float:
    """Return the power of the difference's PSF, as a plane of frequencies."""
    power = np.abs(_transform(cell.psf if psf is None else psf)) ** 2
    if psf is not None or variance is None:
        return np.asarray(power)
    core = np.asarray(cell.psf, float)
    more = variance / cell.plan.grid.pixel_scale**2 - _moment(core)
    k2 = (2 * np.pi) ** 2 * (fft.fftfreq(_SIDE)[:, None] ** 2 + fft.rfftfreq(_SIDE)[None, :] ** 2)
    return np.asarray(power * np.exp(np.clip(-more * k2, -30.0, 3.0)))


def _moment(stamp: _Float) -> float:
    """Return the second moment along an axis of a stamp's core, pixels², weighted with a Gaussian like itself."""
    axis = np.arange(len(stamp)) - len(stamp) // 2
    r2 = (axis[:, None] ** 2 + axis[None, :] ** 2).astype(float)
    moment = 2.0
    for _ in range(30):
        weighted = stamp * np.exp(-0.5 * r2 / moment)
        moment = float((weighted * r2).sum() / weighted.sum())  # of a Gaussian: half of 2 sigma²
    return moment


def _transform(stamp: NDArray[np.floating]) -> NDArray[np.complex128]:
    """Return the transform of a centred PSF, unit sum, on the filters' grid."""
    half = min(len(stamp), _SIDE - 1) // 2
    middle = len(stamp) // 2
    core = np.asarray(stamp, float)[middle - half : middle + half + 1, middle - half : middle + half + 1]
    plane = np.zeros((_SIDE, _SIDE))
    plane[: 2 * half + 1, : 2 * half + 1] = core / core.sum()
    return np.asarray(fft.rfft2(np.roll(plane, (-half, -half), axis=(0, 1))))


@dataclass(frozen=True)
class _Place:
    """A position on a box of a cell's pixels."""

    box: Box
    x: float
    y: float

    def _on_box(self, transform: NDArray[np.complexfloating]) -> _Float:
        """Return what is centred on (0, 0) in frequencies, moved to the position, on the pixels of the box."""
        left, low = int(np.round(self.x)) - _SIDE // 2, int(np.round(self.y)) - _SIDE // 2
        ky, kx = fft.fftfreq(_SIDE)[:, None], fft.rfftfreq(_SIDE)[None, :]
        turned = transform * np.exp(-2j * np.pi * (ky * (self.y - low) + kx * (self.x - left)))
        plane = fft.irfft2(turned, s=(_SIDE, _SIDE))
        y, x = self.box.y - low, self.box.x - left
        return np.asarray(plane[y : y + self.box.height, x : x + self.box.width])

    def stamp(self, psf: NDArray[np.floating]) -> _Float:
        """Return a PSF at the position."""
        return self._on_box(_transform(psf))

    def filter(self, power: _Float, psf: NDArray[np.floating]) -> _Float:
        """Return g: its sum with an image of this PSF is the flux that a PSF fit to the difference finds."""
        transform = _transform(psf)
        strength = np.abs(transform) ** 2
        inner = power * transform * strength / (strength**2 + (_LEAST_POWER * strength.max()) ** 2)
        full = np.full(_SIDE // 2 + 1, 2.0)
        full[[0, -1]] = 1.0
        return np.asarray(self._on_box(inner) * (_SIDE**2 / float((power * full).sum())))


def input_shares(cell: TemplateCell, x: float, y: float) -> _Float:
    """Return the share of weight of each input in the core of a source at (x, y), (inputs,): mean over the PSF squared.

    Raises DataError for a cell of a version that doesn't say which inputs are in a pixel.
    """
    box = box_round(cell, x, y, _SIDE)
    profile = np.maximum(_Place(box, x, y).stamp(cell.psf), 0.0)
    core = np.where(profile > _CORE * profile.max(), profile**2, 0.0)
    weighted = given_in(cell, box) * np.array([item.weight for item in cell.plan.inputs])[:, None, None]
    total = weighted.sum(axis=0)
    shares = np.einsum("nij,ij->n", weighted / np.where(total > 0, total, 1.0), core)
    return np.asarray(shares / core.sum())


def template_variance(cell: TemplateCell, x: float, y: float, psf_variance: float | None = None) -> float:
    """Return what the template's noise adds to the variance of a flux at (x, y), nJy²; as `amount_of`."""
    place = _Place(box_round(cell, x, y, _SIDE), x, y)
    g = place.filter(_power(cell, None, psf_variance), cell.psf)
    return float(cell.noiseCorrelation) * float((g**2 * cell.variance[place.box.slices()]).sum())
