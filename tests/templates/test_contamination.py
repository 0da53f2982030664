"""A transient's light in its template: found by time and measured, and the flux without it."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import fft

from tests.templates.kept_cells import CELL, GRID, PSF_SIDE, SIDE, make, stamp
from workers.templates.activity import Points, light_of, shining
from workers.templates.contamination import Seen, amount_of, contamination_of, corrected, in_reach

PLACE = (31.3, 32.4)
HOST = ((29.0, 34.0, 3e5, 7.0), (50.0, 20.0, 2e5, 0.0))
FWHM = np.array([2.6, 3.4, 2.9, 3.1, 2.7, 3.6, 3.0, 2.8, 3.3, 2.9, 3.2, 2.65])
LIGHT = np.where(np.isin(np.arange(12), (3, 7, 8)), 4000.0, 0.0)
OUT = (3, 7, 8)


def flux_lacked(image, psf, fwhm, place=PLACE):
    """What a PSF fit to K * image finds at a place, K = P_S / P_T by transforms of the whole image."""
    science = np.zeros(image.shape)
    science[:PSF_SIDE, :PSF_SIDE] = stamp(fwhm)
    model = np.zeros(image.shape)
    model[:PSF_SIDE, :PSF_SIDE] = psf
    kernel = fft.fft2(science) / fft.fft2(model)
    matched = fft.ifft2(fft.fft2(image) * kernel).real
    y, x = int(np.round(place[1])), int(np.round(place[0]))
    at = stamp(fwhm, x=place[0] - x, y=place[1] - y)
    half = PSF_SIDE // 2
    return float((at * matched[y - half : y + half + 1, x - half : x + half + 1]).sum() / (at**2).sum())


def test_the_amount_is_what_the_difference_lacks():
    """Noise-free, over a bright host, PSFs of all sizes: what a convolved template holds more than its rest does."""
    made = make(1, LIGHT, sources=HOST, sigma=0.0, fwhm=FWHM)
    rest = made.without(OUT)
    want = flux_lacked(made.cell.image, made.cell.psf, 3.5) - flux_lacked(rest.image, rest.psf, 3.5)
    amount = amount_of(made.cell, *PLACE, OUT, made.warps, psf=stamp(3.5))
    assert amount.flux == pytest.approx(want, abs=0.001 * 4000)
    assert 800 < amount.flux < 1300  # three of twelve, some of better seeing than others
    assert amount.epochs == pytest.approx([4000.0] * 3, abs=0.002 * 4000)
    broadened = amount_of(made.cell, *PLACE, OUT, made.warps, psf_variance=(0.2 * 3.5 / 2.3548) ** 2)
    assert broadened.flux == pytest.approx(amount.flux, abs=0.003 * 4000)


def test_without_light_and_noise_the_amount_is_nothing():
    made = make(1, 0 * LIGHT, sources=HOST, sigma=0.0, fwhm=FWHM)
    assert amount_of(made.cell, *PLACE, OUT, made.warps).flux == pytest.approx(0.0, abs=4.0)


def test_amounts_and_corrected_fluxes_are_unbiased_with_true_errors():
    """Pulls of c, of the fluxes in the inputs, and of the corrected flux, for a source of 4000 nJy (S/N 90)."""
    rng = np.random.default_rng(5)
    pulls, ratios, off = [], [], []
    for seed in range(60):
        made = make(100 + seed, LIGHT, sources=HOST, fwhm=FWHM)
        quiet = make(100 + seed, LIGHT, sources=HOST, fwhm=FWHM, sigma=0.0)
        amount = amount_of(made.cell, *PLACE, OUT, made.warps)
        weights = np.array([i.weight for i in made.cell.plan.inputs])
        powers = np.array([(stamp(f) * made.cell.psf).sum() / (made.cell.psf**2).sum() for f in FWHM])
        truth = float((weights * powers * LIGHT).sum() / weights.sum())
        # g T, g' T' of which the flux of the difference lacks the one and the corrected one the other
        science = rng.normal(4000.0, 30.0)
        template = amount_sum(made, amount_of(quiet.cell, *PLACE, OUT, quiet.warps))
        flux, error = corrected(science - template, float(np.hypot(30.0, np.sqrt(amount.template))), amount)
        pulls.append([(amount.flux - truth) / amount.fluxErr, (flux - 4000.0) / error])
        off.append([amount.flux - truth, flux - 4000.0])
        ratios.append((amount.epochs - 4000.0) / np.sqrt(np.diag(amount.covariance)))
    pulls, ratios, off = np.array(pulls), np.array(ratios), np.array(off)
    assert np.abs(pulls.mean(axis=0)).max() < 0.35
    assert np.abs(pulls.std(axis=0) - 1).max() < 0.2
    assert abs(ratios.std() - 1) < 0.15
    assert np.abs(off.mean(axis=0)).max() < 0.004 * 4000


def amount_sum(made, quiet):
    """Sum of g T over the noisy template, less the static sky's, by the filter of its own PSF: a PSF fit."""
    half = PSF_SIDE // 2
    y, x = (int(np.round(place)) for place in PLACE[::-1])
    at = stamp_like(made.cell.psf, PLACE[0] - x, PLACE[1] - y)
    window = (slice(y - half, y + half + 1), slice(x - half, x + half + 1))
    static = make(1, 0 * LIGHT, sources=HOST, fwhm=FWHM, sigma=0.0)
    weights = [i.weight for i in made.cell.plan.inputs]
    sky = np.average([b.image[16:-16, 16:-16] for b in static.blocks], axis=0, weights=weights)
    return float((at * (made.cell.image - sky)[window]).sum() / (at**2).sum())


def stamp_like(psf, dx, dy):
    """A PSF moved by a part of a pixel."""
    ky, kx = fft.fftfreq(len(psf))[:, None], fft.fftfreq(len(psf))[None, :]
    return fft.ifft2(fft.fft2(psf) * np.exp(-2j * np.pi * (kx * dx + ky * dy))).real


def seen(made, flux=4000.0, first=60400.0, history=(), mjd=60400.0):
    """A source at the transient's place."""
    ra, dec = GRID.cell_wcs(CELL).pixel_to_sky(*PLACE)
    points = Points(*(np.array([row[k] for row in history], float) for k in range(3)))
    return Seen(float(ra), float(dec), flux, 50.0, first, points, mjd)


def test_light_is_found_and_the_clean_are_not_flagged():
    held = np.where(np.arange(12) >= 10, 3000.0, 0.0)
    for light, truth in ((held, True), (0 * held, False)):
        made = make(9, light, mjd=60050.0 + 30.0 * np.arange(12), sources=HOST)
        got = contamination_of(seen(made), made.cell, made.warps)
        assert got.templateContaminated is truth
        assert got.inputs
        assert max(got.inputs) == 11
        weights = [i.weight for i in made.cell.plan.inputs]
        assert got.share == pytest.approx(sum(weights[k] for k in got.inputs) / sum(weights), rel=1e-3)
        assert got.psfFluxCorrected == pytest.approx(4000.0 + got.templateFluxInWindow)
        gone = contamination_of(seen(made), made.cell, lambda item, cell: None)
        assert gone.templateFluxInWindow is None
        assert gone.psfFluxCorrected is None
        assert gone.inputs == got.inputs


def test_old_templates_are_clean_and_no_warp_is_read():
    def warps(item, cell):
        raise AssertionError

    made = make(9, LIGHT, mjd=59500.0 + 20.0 * np.arange(12))
    got = contamination_of(seen(made), made.cell, warps)
    assert not got.templateContaminated
    assert got.inputs == ()


def test_variables_are_flagged_by_time_and_negative_sources_always():
    made = make(9, 0 * LIGHT, mjd=60050.0 + 30.0 * np.arange(12))
    times = np.arange(60370.0, 60400.0, 2.0)
    history = [(t, 4000.0 + 3500.0 * (-1) ** k, 30.0) for k, t in enumerate(times)]
    assert contamination_of(
        seen(made, first=60370.0, history=history), made.cell, lambda item, cell: None
    ).templateContaminated
    assert contamination_of(seen(made, flux=-900.0), made.cell, lambda item, cell: None).templateContaminated


def test_the_reach_needs_no_file():
    first = np.full(1000, 60400.0)
    last = np.where(np.arange(1000) % 2, 60000.0, 60300.0)
    begin = time.process_time()
    for _ in range(100):
        found = in_reach(first, last)
    assert (time.process_time() - begin) / 1e5 < 5e-6
    assert np.array_equal(found, np.arange(1000) % 2 == 0)


def test_the_explosion_is_known_to_days_from_a_good_light_curve():
    mjd = 60400.0 + np.arange(0.0, 40.0, 4.0)
    flux = 5000.0 * light_of((mjd - 60392.0) / 1.2)
    could = shining(Points(mjd, flux, np.full(10, 50.0)), 60400.0)
    chances = could.chances(np.array([60370.0, 60384.0, 60398.0, 60410.0]), 0.005 * 5000.0)
    assert chances[0] < 0.02
    assert chances[1] < 0.2
    assert chances[2:].min() > 0.98
    assert not could.like_none()


def test_an_amount_needs_something_left():
    made = make(9, LIGHT)
    assert amount_of(made.cell, *PLACE, tuple(range(12)), made.warps) is None
    assert amount_of(made.cell, SIDE - 0.6, 20.0, OUT, made.warps) is not None
