"""Supernovae in the templates that they are compared with: how many are flagged, how many wrongly, and the correction.

Run: PYTHONPATH=. python tests/bench/bench_contamination.py [FIELDS [SEED [IMAGES]]]
Flags: FIELDS (default 20) fields of 20 type Ia supernovae, peak S/N from 5 to 100, 12 visits a year in half-year
seasons, with the product's own windows, selection and weights: the default (trailing year, 60 d gap), season-aligned,
and windows that overlap transients (gaps of 20 and 0 d). Every visit that detects one at 5 sigma, of either sign, is a
source; its history is what was published of the earlier ones. With the inputs' warps, and without. Recall: of sources
whose template holds more than 0.5 % (2 %) of the peak; false: of those whose template's inputs have no light at all.
Correction: IMAGES (default 200) cells, over a bright host, of inputs of different seeing, transient in 1 to 8 of 12, by
S/N: bias and scatter over the peak, pulls, and the difference from the flux against a template that was combined
without them; with exact registration and PSFs, and with 0.2 px and 1 % off.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np

from tests.templates.kept_cells import BORDER, make, stamp
from tests.templates.kept_cells import seen as seen_sky
from tests.templates.supernovae import make_field, make_supernovae, template_weights
from tests.templates.test_contamination import flux_lacked
from workers.survey.config import TemplatesConfig
from workers.templates.activity import Points
from workers.templates.contamination import Amount, Seen, amount_of, corrected, flagged
from workers.templates.leave_out import rest_psf

MOVING = TemplatesConfig(pixel_scale=0.2)
WINDOWS = {
    "trailing year, gap 60 d": MOVING,
    "season-aligned": MOVING.model_copy(update={"season_aligned": True}),
    "trailing year, gap 20 d": MOVING.model_copy(update={"gap_days": 20.0}),
    "trailing year, no gap": MOVING.model_copy(update={"gap_days": 0.0}),
}
PLACE = (31.3, 32.4)


def measured(values, shares, sigma, kept):
    """The amount that warps of these fluxes give, or None; `values` are fluxes in the inputs, static sky left out."""

    def amount(out):
        rest = np.setdiff1d(np.flatnonzero(shares), out)
        if not kept or not len(rest):
            return None
        weights = shares[rest] / shares[rest].sum()
        left, noise = float(weights @ values[rest]), float(weights**2 @ sigma[rest] ** 2)
        mine, share = shares[out], shares[out].sum()
        error = np.sqrt(mine**2 @ sigma[out] ** 2 + share**2 * noise)
        covariance = np.diag(sigma[out] ** 2) + noise
        template = float(shares**2 @ sigma**2)
        return Amount(float(shares @ values - left), float(error), template, noise, values[out] - left, covariance)

    return amount


def follow(rng, field, light, shares, kept):
    """Rows (light in the template, any light in an input, flag, seconds) of the sources of one supernova."""
    snr = np.exp(rng.uniform(np.log(5.0), np.log(100.0)))
    values = snr * np.median(field.sigma) * light + rng.normal(0.0, field.sigma)
    history, unseen, rows = [], [], []
    for visit, mjd in enumerate(field.mjd):
        weights = shares[visit]
        if not weights.any():
            continue
        flux = float(values[visit] - weights @ values)
        error = float(np.sqrt(field.sigma[visit] ** 2 + weights**2 @ field.sigma**2))
        if abs(flux) < 5.0 * error:
            if not history:
                unseen.append((mjd, 5.0 * error, 0.0))
            continue
        old, limits = (Points(*np.array(part, float).reshape(-1, 3).T) for part in (history, unseen))
        first = history[0][0] if history else mjd
        seen = Seen(0.0, 0.0, flux, error, first, old, mjd, limits)
        begin = time.process_time()
        got = flagged(seen, field.mjd, weights, measured(values, weights, field.sigma, kept))
        seconds = time.process_time() - begin
        fluxes = (flux, error) if got.psfFluxCorrected is None else (got.psfFluxCorrected, got.psfFluxCorrectedErr)
        history.append((mjd, *fluxes))
        rows.append((weights @ light, (light[weights > 0] > 0).any(), got.templateContaminated, seconds))
    return rows


def flags(fields, seed):
    rng, rows = np.random.default_rng(seed), {}
    for _ in range(fields):
        field = make_field(rng)
        sne = make_supernovae(rng, field, 20)
        for name, config in WINDOWS.items():
            shares = template_weights(field, config)
            for kept in (True, False):
                for light in sne.light(field.mjd):
                    rows.setdefault((name, kept), []).extend(follow(rng, field, light, shares, kept))
    print(f"{'':34} sources  held  recall > 0.5 %   > 2 %   false  ms")
    for (name, kept), found in rows.items():
        held, any_light, flag, seconds = np.array(found, float).T
        over, much, none = held > 0.005, held > 0.02, any_light == 0
        print(
            f"{name + ('' if kept else ', no warps'):34} {len(held):7d} {over.mean():5.1%} {flag[over].mean():13.2%} "
            f"{flag[much].mean():9.2%} {flag[none].mean():7.2%} {1e3 * seconds.mean():4.2f}"
        )


def science_flux(flux, host, fwhm, noise):
    """The flux that a PSF fit to a science image finds, host included."""
    x, y = (int(np.round(place)) for place in PLACE)
    at = stamp(fwhm, x=PLACE[0] - x, y=PLACE[1] - y)
    cut = (slice(BORDER + y - 15, BORDER + y + 16), slice(BORDER + x - 15, BORDER + x + 16))
    return flux + float((at * seen_sky(fwhm, host)[cut]).sum() / (at**2).sum()) + noise


def correction(rng, snr, *, shifts=0.0, psf_error=0.0):
    """One cell: corrected flux off the truth, its pull, template noise, off the flux with a clean template, CPU s.

    All but pull and time over the flux.
    """
    fwhm = rng.uniform(2.6, 3.8, 12)
    out = np.sort(rng.choice(12, rng.integers(1, 9), replace=False))
    flux = snr * 5.0 * 5.4  # a PSF flux has the noise of 5.4 pixels
    light = np.where(np.isin(np.arange(12), out), flux, 0.0)
    host = ((29.0, 34.0, 5.0 * flux, 7.0),)
    cell_of = make(int(rng.integers(1 << 30)), light, sources=host, fwhm=fwhm, shifts=shifts)
    cell = cell_of.cell
    if psf_error:
        wrong = np.array([stamp(f * (1 + psf_error * rng.normal())) for f in fwhm], np.float32)
        weights = np.array([i.weight for i in cell.plan.inputs])
        cell = replace(cell, psfs=wrong, psf=np.average(wrong, axis=0, weights=weights).astype(np.float32))
    begin = time.process_time()
    amount = amount_of(cell, *PLACE, tuple(out.tolist()), cell_of.warps, psf=stamp(3.4))
    seconds = time.process_time() - begin
    error = 5.0 * 5.4
    science = science_flux(flux, host, 3.4, rng.normal(0.0, error))
    psf_flux = science - flux_lacked(cell.image, cell.psf, 3.4)
    clean = cell_of.without(out)
    against = science - flux_lacked(clean.image, rest_psf(cell, np.isin(np.arange(12), out)), 3.4)
    fixed, fixed_error = corrected(psf_flux, float(np.hypot(error, np.sqrt(amount.template))), amount)
    return (
        (fixed - flux) / flux,
        (fixed - flux) / fixed_error,
        np.sqrt(amount.rest) / flux,
        (fixed - against) / flux,
        seconds,
    )


def corrections(images, seed):
    columns = "S/N   bias / peak          scatter  (science noise, template noise)  pulls      off a clean one's   ms"
    print(f"{'':34} {columns}")
    for name, settings in {
        "exact": {},
        "0.2 px and 1 % of PSF off": {"shifts": 0.2, "psf_error": 0.01},
    }.items():
        for snr in (10, 30, 100):
            rng = np.random.default_rng(seed)
            off, pulls, noise, beside, seconds = np.array([correction(rng, snr, **settings) for _ in range(images)]).T
            print(
                f"{name:34} {snr:3d} {off.mean():8.3%} +- {off.std() / np.sqrt(images):6.3%} {off.std():8.2%}  "
                f"({1 / snr:6.2%}, {np.sqrt((noise**2).mean()):6.2%})  {pulls.mean():6.2f} {pulls.std():5.2f} "
                f"{beside.mean():8.4%} {beside.std():8.4%} {1e3 * np.median(seconds):6.1f}"
            )


def main(fields=20, seed=1, images=200):
    begin = time.process_time()
    flags(int(fields), int(seed))
    corrections(int(images), int(seed))
    print(f"{time.process_time() - begin:.1f} CPU s")


if __name__ == "__main__":
    main(*sys.argv[1:])
