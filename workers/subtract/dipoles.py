"""Find and measure dipoles among the sources of a difference: candidates, joint fits, probability, columns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import Exposure, FloatImage
from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.wcs import SkyWcs
from workers.subtract.dipole import Prior, dipole_probability, pair_lobes
from workers.subtract.dipole_fit import COMMON, Fit, Window, fit_dipoles, fit_stars, fit_transients

__all__ = ["CANDIDATE_DTYPE", "dipole_candidates", "measure_dipoles", "redundant_lobes"]

_Float = NDArray[np.float64]
_Index = NDArray[np.intp]
_Bool = NDArray[np.bool_]
_Rows = NDArray[Any]

CANDIDATE_DTYPE = np.dtype([("row", "i8"), ("x", "f8"), ("y", "f8")])
"""Index of a source and the pixel of its lobe of opposite sign."""
_PROBABLE = 0.5
_WINDOW_FWHM = 2.0
"""Half the side of the squares of the difference that are fitted."""
_STAR_FWHM = 1.25
"""Radius of the discs of science and template that are fitted, and how far from the middle their star is sought."""
_LOBE_FWHM = 1.5
_LOBE_SCORE = 2.0
_PAIR_FWHM = 2.0
_STAR_SIGNAL = 5.0
"""S/N of the star in the template without which there is no dipole."""
_BATCH = 64
_MATCH_ERROR = 0.01
"""Of the science image's light per pixel: error of the difference where PSFs were matched."""
_PSF_ERROR = 0.02
"""Of the light per pixel, in science and template."""
_SHARE = 0.5
"""Weight of science and template beside the difference's 1: three images hold the light of two."""


def dipole_candidates(rows: _Rows, partner: _Rows, score: FloatImage, fwhm: float) -> _Rows:
    """Return rows of `CANDIDATE_DTYPE`: sources that may be dipoles, in the order of `rows`.

    `partner` are the PEAK_DTYPE rows of the opposite lobes that were detected (score 0 where there is none). Other
    sources qualify where the template has a star (templateFlux) and the score an opposite lobe beyond 2 sigma close by.
    """
    paired = partner["score"] != 0.0
    with np.errstate(invalid="ignore"):
        star = rows["templateFlux"] > _STAR_SIGNAL * rows["templateFluxErr"]
    alone = np.flatnonzero(~paired & star)
    at_x, at_y, strength = _opposite_lobes(rows[alone], score, _LOBE_FWHM * fwhm)
    found = strength >= _LOBE_SCORE
    out = np.zeros(np.count_nonzero(paired) + np.count_nonzero(found), CANDIDATE_DTYPE)
    out["row"] = np.concatenate([np.flatnonzero(paired), alone[found]])
    out["x"] = np.concatenate([partner["x"][paired], at_x[found]])
    out["y"] = np.concatenate([partner["y"][paired], at_y[found]])
    return out[np.argsort(out["row"], kind="stable")]


def redundant_lobes(rows: _Rows, fwhm: float) -> _Bool:
    """Return which sources are the second lobe of a dipole: of two opposite lobes the weaker, or that which is none.

    Of `rows` measured by `measure_dipoles`; lobes of a star that is out of place by little lie up to 1.6 FWHM apart.
    """
    order = np.argsort(-rows["snr"], kind="stable")
    order = order[np.isfinite(rows["x"][order]) & np.isfinite(rows["y"][order])]
    lobes = np.zeros(len(order), [("x", "f8"), ("y", "f8"), ("score", "f8")])
    lobes["x"], lobes["y"] = rows["x"][order], rows["y"][order]
    lobes["score"] = np.where(rows["isNegative"], -rows["snr"], rows["snr"])[order]
    stronger, weaker = (order[place] for place in pair_lobes(lobes, _PAIR_FWHM * fwhm))
    dipole = rows["isDipole"]
    out = np.zeros(len(rows), bool)
    out[weaker] = dipole[stronger]
    out[stronger] = ~dipole[stronger] & dipole[weaker]
    return out


def _opposite_lobes(rows: _Rows, score: FloatImage, radius: float) -> tuple[_Index, _Index, _Float]:
    """Return the pixel (x, y) of the strongest score of opposite sign within `radius` pixels, and its size."""
    half = int(np.ceil(radius))
    values, inside, left, top = _squares(score, rows["x"], rows["y"], half)
    axis = np.arange(-half, half + 1)
    inside &= (np.add.outer(np.square(axis), np.square(axis)) <= radius**2)[None]
    sign = np.where(rows["isNegative"], 1.0, -1.0)
    flat = np.where(inside, values * sign[:, None, None], -np.inf).reshape(len(rows), len(axis) ** 2)
    best = flat.argmax(axis=1)
    return left + best % len(axis), top + best // len(axis), flat[np.arange(len(rows)), best].astype(float)


def _squares(plane: NDArray[Any], x: _Float, y: _Float, half: int) -> tuple[NDArray[Any], _Bool, _Index, _Index]:
    """Return squares round positions, which of their pixels lie inside the image, and their first column and row."""
    height, width = plane.shape
    left, top = np.round(x).astype(np.intp) - half, np.round(y).astype(np.intp) - half
    columns = left[:, None, None] + np.arange(2 * half + 1)[None, None, :]
    lines = top[:, None, None] + np.arange(2 * half + 1)[None, :, None]
    inside = (columns >= 0) & (columns < width) & (lines >= 0) & (lines < height)
    return plane[np.clip(lines, 0, height - 1), np.clip(columns, 0, width - 1)], inside, left, top


def measure_dipoles(
    rows: _Rows,
    candidates: _Rows,
    difference: Exposure,
    science: Exposure,
    template: Exposure,
    usable: _Bool,
    *,
    registration: float = 0.05,
) -> _Float:
    """Fill the dipole columns of the candidates' rows; return the probability of a dipole, float64 (n,), of all rows.

    `candidates` of `dipole_candidates`; `template` is the warped one, on the science image's pixels, not convolved;
    `usable` are the difference's pixels that may be used. 0 where no fit was made. Chi2 and number of pixels are the
    difference's; length in arcsec, angle in degrees from north through east, from the negative to the positive lobe.
    `registration`: rms, in pixels per axis, of the misregistration that is normal (`Prior`).
    """
    height, width = difference.shape
    prior = Prior(difference.need_psf().fwhm(width / 2, height / 2), registration)
    probability = np.zeros(len(rows))
    good = np.isfinite(rows["x"][candidates["row"]]) & np.isfinite(rows["y"][candidates["row"]])
    for first in range(0, int(good.sum()), _BATCH):
        chosen = candidates[good][first : first + _BATCH]
        index = chosen["row"]
        lobes = rows["x"][index].astype(float), rows["y"][index].astype(float)
        middle = np.round(0.5 * (lobes[0] + chosen["x"])), np.round(0.5 * (lobes[1] + chosen["y"]))
        windows = _windows((difference, science, template), usable, middle, prior.fwhm)
        flux = np.nan_to_num(rows["psfFlux"][index].astype(float))
        _measure_batch(rows, index, windows, (flux, *lobes), prior, difference.need_wcs(), probability)
    return probability


def _windows(
    exposures: tuple[Exposure, Exposure, Exposure], usable: _Bool, middle: tuple[_Float, _Float], fwhm: float
) -> tuple[Window, ...]:
    """Return the squares of difference, science and template round pixels `middle`, weighted by inverse variance."""
    half, windows = int(np.ceil(_WINDOW_FWHM * fwhm)), []
    for number, exposure in enumerate(exposures):
        data, inside, _, _ = _squares(exposure.image, *middle, half)
        variance = _squares(exposure.variance, *middle, half)[0].astype(float)
        good = inside & (variance > 0.0)
        if number == 0:
            good &= _squares(usable, *middle, half)[0]
        else:
            good &= usable_pixels(data, variance, _squares(exposure.mask, *middle, half)[0])
        psf = exposure.need_psf()
        # of 3 x 3 pixels: a pixel's own noise, which its variance shares, would bias the fluxes low
        around = _box_sum(np.where(good, variance, 0.0)) / np.maximum(_box_sum(good.astype(float)), 1.0)
        weight = np.where(good, 1.0 / np.where(good, around, 1.0), 0.0)
        pixels = np.where(good, data, 0.0).astype(float)
        windows.append(Window(pixels, weight, *middle, psf.fine_stamps(*middle), psf.oversampling))
    return tuple(windows)


def _measure_batch(
    rows: _Rows,
    index: _Index,
    windows: tuple[Window, ...],
    source: tuple[_Float, _Float, _Float],
    prior: Prior,
    wcs: SkyWcs,
    probability: _Float,
) -> None:
    """Fit both models to some candidates and write what comes out; `source` holds their flux, x and y."""
    windows, stars, there = _stars(windows, prior.fwhm)
    windows = tuple(window.take(there) for window in windows)
    index, (seen, star) = index[there], (fit.parameters[there] for fit in stars)
    if len(index) == 0:
        return
    nuisance = np.zeros((len(index), COMMON))
    nuisance[:, :5] = np.column_stack([star[:, :3], seen[:, 3], star[:, 3]])
    start = np.column_stack([nuisance, *_moved(seen, star, prior)])
    dipole = fit_dipoles(windows, start, prior.fwhm)
    flux, x, y = (part[there] for part in source)
    start = np.column_stack([nuisance, flux, x, y, np.zeros((len(index), 2))])
    transient = fit_transients(windows, start, prior.registration, prior.separation * prior.fwhm)
    pixels = (windows[0].weight > 0.0).sum(axis=(1, 2))
    better = np.minimum(dipole.difference, transient.difference)
    noise = np.maximum(better / np.maximum(pixels - 6, 1), 1.0)
    found = np.nan_to_num(dipole_probability(dipole, transient, prior, noise))
    probability[index] = found
    rows["dipoleFitAttempted"][index] = True
    rows["isDipole"][index] = found > _PROBABLE
    rows["dipoleProbability"][index] = found
    _write(rows, index, dipole, wcs)
    rows["dipoleNdata"][index] = pixels


def _moved(seen: _Float, star: _Float, prior: Prior) -> tuple[_Float, _Float, _Float]:
    """Return flux, x and y of the star in the science image to start from, not farther than a dipole's lobes are."""
    step = seen[:, 1:3] - star[:, 1:3]
    far = prior.separation * prior.fwhm / np.maximum(np.hypot(*step.T), 1e-9)
    place = star[:, 1:3] + step * np.minimum(far, 1.0)[:, None]
    return seen[:, 0], place[:, 0], place[:, 1]


def _stars(windows: tuple[Window, ...], fwhm: float) -> tuple[tuple[Window, ...], tuple[Fit, Fit], _Bool]:
    """Find the star in science and template; return windows with their final weights, its fits, and where there is one.

    Science and template count within a disc round their star, with an error for what their PSFs can't tell and the
    reduced chi2 of the star's own fit, so that a galaxy or a crowd leaves the word to the difference.
    """
    out, fits = [windows[0]], []
    for window in windows[1:]:
        row, column = _brightest(window, _STAR_FWHM * fwhm)
        disc = _disc(window, row, column, _STAR_FWHM * fwhm)
        weight = disc.weight / (1.0 + disc.weight * np.square(_PSF_ERROR * np.maximum(disc.data, 0.0)))
        disc = replace(disc, weight=weight)
        fit = fit_stars(disc, _peak_flux(window, row, column), disc.x, disc.y)
        noise = np.maximum(fit.chi2 / np.maximum((weight > 0.0).sum(axis=(1, 2)) - 4, 1), 1.0)
        out.append(replace(disc, weight=_SHARE * weight / noise[:, None, None]))
        fits.append(replace(fit, normal=fit.normal / noise[:, None, None]))
    light = np.maximum(windows[1].data - fits[0].parameters[:, 3, None, None], 0.0)
    out[0] = replace(out[0], weight=out[0].weight / (1.0 + out[0].weight * np.square(_MATCH_ERROR * light)))
    return tuple(out), (fits[0], fits[1]), _there(out, fits[1], fwhm)


def _disc(window: Window, row: _Index, column: _Index, radius: float) -> Window:
    """Return the disc of `radius` pixels round pixels (row, column from the middle), weight 0 beyond the window."""
    middle, size, half = window.data.shape[1] // 2, window.data.shape[1], int(np.ceil(radius))
    axis = np.arange(-half, half + 1)
    rows, columns = (middle + place[:, None] + axis for place in (row, column))
    known = ((rows >= 0) & (rows < size))[:, :, None] & ((columns >= 0) & (columns < size))[:, None, :]
    known &= np.add.outer(np.square(axis), np.square(axis)) <= radius**2
    pick = np.arange(len(row))[:, None, None], np.clip(rows, 0, size - 1)[:, :, None]
    data, weight = (plane[(*pick, np.clip(columns, 0, size - 1)[:, None, :])] for plane in (window.data, window.weight))
    weight = np.where(known, weight, 0.0)
    return replace(window, data=data, weight=weight, x=window.x + column, y=window.y + row)


def _there(windows: list[Window], star: Fit, fwhm: float) -> _Bool:
    """Return where there is a star in the template, in reach, and enough of each image to tell."""
    error = np.sqrt(star.covariance[0][:, 0, 0])
    place = star.parameters[:, 1:3] - np.column_stack([windows[0].x, windows[0].y])
    with np.errstate(invalid="ignore"):
        there = (star.parameters[:, 0] > _STAR_SIGNAL * error) & (np.hypot(*place.T) < _LOBE_FWHM * fwhm)
    for window, least in zip(windows, (_WINDOW_FWHM * fwhm, _STAR_FWHM * fwhm, _STAR_FWHM * fwhm), strict=True):
        there &= (window.weight > 0.0).sum(axis=(1, 2)) > 0.5 * np.pi * least**2
    return np.asarray(there)


def _brightest(window: Window, radius: float) -> tuple[_Index, _Index]:
    """Return (row, column), from the middle, of the brightest peak within `radius` pixels of it (3 x 3 means)."""
    size = window.data.shape[1]
    good = (window.weight > 0.0).astype(float)
    total, count = (_box_sum(plane) for plane in (window.data * good, good))
    mean = np.where(count > 4, total / np.maximum(count, 1.0), -np.inf)
    axis = np.arange(1, size - 1) - size // 2
    near = np.add.outer(np.square(axis), np.square(axis)) <= radius**2
    inner = mean[:, 1:-1, 1:-1]
    peak = near[None] & np.isfinite(inner)
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            peak = peak & (inner >= mean[:, dy : dy + size - 2, dx : dx + size - 2])
    # a slope without a peak: its upper end
    peak = np.where(peak.any(axis=(1, 2))[:, None, None], peak, near[None])
    best = np.where(peak, inner, -np.inf).reshape(len(inner), -1).argmax(axis=1)
    return axis[best // (size - 2)], axis[best % (size - 2)]


def _box_sum(planes: _Float) -> _Float:
    """Return sums over 3 x 3 pixels, zero beyond the edge."""
    padded = np.pad(planes, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return np.asarray(rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:])


def _peak_flux(window: Window, row: _Index, column: _Index) -> _Float:
    """Return a first guess of a star's flux: its brightest pixel over the PSF's."""
    half = window.data.shape[1] // 2
    value = window.data[np.arange(len(row)), half + row, half + column]
    middle = window.stamps.shape[1] // 2
    return np.asarray(value / window.stamps[:, middle, middle])


def _write(rows: _Rows, index: _Index, dipole: Fit, wcs: SkyWcs) -> None:
    """Write fluxes, length, angle and chi2 of the dipole fits to ``rows[index]``."""
    template, science = dipole.parameters[:, 0], dipole.parameters[:, 10]
    covariance = dipole.covariance[0]
    total, cross = covariance[:, 0, 0] + covariance[:, 10, 10], 2.0 * covariance[:, 0, 10]
    rows["dipoleMeanFlux"][index] = 0.5 * (science + template)
    rows["dipoleMeanFluxErr"][index] = 0.5 * np.sqrt(np.maximum(total + cross, 0.0))
    rows["dipoleFluxDiff"][index] = science - template
    rows["dipoleFluxDiffErr"][index] = np.sqrt(np.maximum(total - cross, 0.0))
    middle = 0.5 * (dipole.parameters[:, 1:3] + dipole.parameters[:, 11:13])
    step = dipole.parameters[:, 11:13] - dipole.parameters[:, 1:3]
    length = np.maximum(np.hypot(*step.T), 1e-9)
    ends = middle[:, None, :] + (step / length[:, None])[:, None, :] * np.array([-0.5, 0.5])[None, :, None]
    ra, dec = wcs.pixel_to_sky(ends[:, :, 0], ends[:, :, 1])
    east = ((ra[:, 1] - ra[:, 0] + 180.0) % 360.0 - 180.0) * np.cos(np.radians(dec.mean(axis=1)))
    north = dec[:, 1] - dec[:, 0]
    rows["dipoleLength"][index] = np.hypot(east, north) * length * 3600.0
    rows["dipoleAngle"][index] = np.degrees(np.arctan2(east, north)) % 360.0
    rows["dipoleChi2"][index] = dipole.difference
