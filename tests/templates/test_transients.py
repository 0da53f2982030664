"""Transients are found in many epochs of a cell, stars that vary are not taken for them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.templates.epochs import BORDER, SIDE, Epochs, supernova
from workers.templates.flux_maps import REACH, flux_maps, matched_filters
from workers.templates.reject import reference_image
from workers.templates.transients import Verdict, find_events, masked_by

INNER = slice(BORDER, -BORDER)


def looked_at(epochs):
    """Maps, events and masked pixels of simulated epochs."""
    image, variance = epochs.frames()
    usable = np.ones(image.shape, bool)
    maps = flux_maps(
        image, variance, usable, epochs.psfs, np.ones(epochs.count), reference_image(image, variance, usable).image
    )
    events = find_events(maps)
    return maps, events, masked_by(events, variance, epochs.psfs, usable, 3)


def test_filters_give_all_epochs_one_response():
    epochs = Epochs(1)
    filters, response = matched_filters(epochs.psfs)
    assert response.max() == response[REACH, REACH] == pytest.approx(1.0)
    for kernel, psf in zip(filters, epochs.psfs, strict=True):
        wide = np.zeros((96, 96))
        wide[48 - 15 : 48 + 16, 48 - 15 : 48 + 16] = psf
        placed = np.zeros_like(wide)
        placed[: 2 * REACH + 1, : 2 * REACH + 1] = kernel
        placed = np.roll(placed, (-REACH, -REACH), (0, 1))
        seen = np.fft.irfft2(np.fft.rfft2(wide) * np.fft.rfft2(placed), wide.shape)
        cut = slice(48 - REACH // 2, 48 + REACH // 2 + 1)
        inner = slice(REACH - REACH // 2, REACH + REACH // 2 + 1)
        np.testing.assert_allclose(seen[cut, cut], response[inner, inner], atol=3e-3)


def test_maps_of_an_empty_sky_have_the_noise_they_say():
    maps, events, _ = looked_at(Epochs(2))
    inner = slice(BORDER // maps.step, -(BORDER // maps.step))
    pulls = (maps.flux * np.sqrt(maps.weight))[:, inner, inner]
    assert abs(pulls.mean()) < 0.03
    assert pulls.std() == pytest.approx(1.0, abs=0.02)
    assert len(events) < 12


@pytest.mark.parametrize(("shift", "error", "most"), [(0.0, 0.0, 5.0), (0.2, 0.01, 12.0)])
def test_stars_and_galaxies_stand_still_though_seeing_and_registration_differ(shift, error, most):
    found, left_out = [], []
    for seed in range(3, 8):
        epochs = Epochs(seed, shift=shift, error=error)
        epochs.populate()
        _, events, masked = looked_at(epochs)
        found.append(sum(event.verdict is Verdict.TRANSIENT for event in events))
        left_out.append(masked[:, INNER, INNER].mean())
    assert np.mean(found) < most
    assert np.mean(left_out) < 0.01


@pytest.mark.parametrize(("significance", "left"), [(10, 0.025), (30, 0.005), (200, 0.005)])
def test_supernovae_in_two_to_eight_of_twelve_epochs_are_left_out(significance, left):
    shares, plain = [], []
    for seed in range(3):
        epochs = Epochs(10 + seed)
        epochs.populate(stars=12, galaxies=12)
        places = [epochs.add_host(60.0 + 84 * i, 60.0 + 84 * j) for i in range(3) for j in range(3)]
        peaks = [epochs.add_transient(*place, epochs.draw_supernova(), significance) for place in places]
        _, _, masked = looked_at(epochs)
        nothing = np.zeros_like(masked)
        for point, peak in zip(epochs.transients, peaks, strict=True):
            shares.append(epochs.template_flux(point, masked) / peak)
            plain.append(epochs.template_flux(point, nothing) / peak)
    assert np.mean(plain) > 0.15  # what a template without the rejection would hold
    assert np.mean(shares) < left
    assert np.median(shares) < 0.005


def test_variable_stars_keep_their_mean():
    off, kept = [], 0
    for seed in range(2):
        epochs = Epochs(20 + seed)
        epochs.populate(stars=10, galaxies=5)
        for place in np.ndindex(3, 4):
            epochs.add_variable(60.0 + 84 * place[0] + epochs.rng.uniform(-0.5, 0.5), 40.0 + 68 * place[1])
        _, events, masked = looked_at(epochs)
        kept += sum(event.verdict is Verdict.VARIABLE for event in events)
        nothing = np.zeros_like(masked)
        fluxes = [[epochs.template_flux(star, mask) for mask in (masked, nothing)] for star in epochs.stars[-12:]]
        off += [with_mask / without - 1.0 for with_mask, without in fluxes]
    assert kept > 12
    assert np.count_nonzero(np.abs(off) > 0.005) <= 1
    assert abs(np.mean(off)) < 0.005


def test_an_outburst_of_a_faint_star_is_left_out_and_names_its_epochs():
    epochs = Epochs(30)
    epochs.stars.append((144.2, 143.7, np.full(12, 150.0)))
    curve = supernova(epochs.times, float(epochs.times[5]), 0.4)
    peak = epochs.add_transient(144.2, 143.7, curve, 80.0)
    _, events, masked = looked_at(epochs)
    found = max(events, key=lambda event: event.significance)
    assert found.verdict is Verdict.TRANSIENT
    assert (abs(found.x - 144), abs(found.y - 144)) <= (1, 1)
    inside = np.flatnonzero(curve * peak > 60.0)
    assert found.first <= inside[0]
    assert inside[-1] <= found.last
    assert masked[inside, 144, 144].all()
    assert not masked[:, 144, 144].all()


def test_enough_epochs_are_spared_everywhere():
    epochs = Epochs(31)
    for shift in range(3):  # three transients on one spot, in other epochs each
        curve = np.zeros(12)
        curve[4 * shift : 4 * shift + 4] = 1.0
        epochs.add_transient(144.0 + 3 * shift, 144.0, curve, 60.0)
    image, variance = epochs.frames()
    usable = np.ones(image.shape, bool)
    usable[:2, :, :144] = False
    maps = flux_maps(image, variance, usable, epochs.psfs, np.ones(12), reference_image(image, variance, usable).image)
    masked = masked_by(find_events(maps), variance, epochs.psfs, usable, 3)
    assert (usable & ~masked).sum(axis=0).min() >= 3


def test_what_no_epoch_sees_says_nothing():
    epochs = Epochs(32)
    image, variance = epochs.frames()
    usable = np.ones(image.shape, bool)
    usable[:, :100], usable[3:6] = False, False
    variance[:, :100], image[:, :100] = 0.0, 0.0
    maps = flux_maps(image, variance, usable, epochs.psfs, np.ones(12), reference_image(image, variance, usable).image)
    assert np.isfinite(maps.flux).all()
    assert np.isfinite(maps.weight).all()
    assert not maps.weight[:, : 100 // maps.step].any()
    assert not maps.weight[3:6].any()
    assert all(event.y >= 98 for event in find_events(maps))
    assert maps.flux.shape == (12, SIDE // maps.step, SIDE // maps.step)
