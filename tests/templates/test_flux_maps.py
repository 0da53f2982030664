"""Flux maps of every second pixel hold what those of every pixel do."""

from __future__ import annotations

import numpy as np
import pytest

from tests.templates.epochs import SIDE, Epochs, moffat
from workers.templates import flux_maps as maps_of
from workers.templates.flux_maps import flux_maps, patterns
from workers.templates.map_patches import patch, still_patch
from workers.templates.reject import reference_image

INNER = slice(16, -16)


def made(epochs):
    """The maps of simulated epochs."""
    image, variance = epochs.frames()
    usable = np.ones(image.shape, bool)
    spare = reference_image(image, variance, usable).image
    return flux_maps(image, variance, usable, epochs.psfs, np.ones(epochs.count), spare)


@pytest.mark.parametrize(("fwhm", "step"), [(2.0, 1), (2.5, 1), (3.2, 2), (5.0, 2)])
def test_sharp_images_keep_every_pixel(fwhm, step):
    assert maps_of._step(moffat(fwhm, 3.0, 0.0, 31)[None], (SIDE, SIDE)) == step
    assert maps_of._step(moffat(fwhm, 3.0, 0.0, 31)[None], (SIDE + 1, SIDE)) == 1


def test_a_bright_star_is_as_bright_between_pixels_and_does_not_ring(monkeypatch):
    epochs = Epochs(5)
    epochs.sky[:] = 0.01  # no noise
    epochs.stars = [(144.3, 143.6, np.full(12, 1e6)), (211.0, 80.0, np.full(12, 1e4))]
    coarse = made(epochs)
    assert coarse.step == 2
    monkeypatch.setattr(maps_of, "_LOST", -1.0)
    fine = made(epochs)
    assert fine.step == 1
    for x, y, flux in ((144, 144, 1e6), (211, 80, 1e4)):
        near = patch(coarse, x, y, 2)
        assert near.flux.shape == near.weight.shape == (12, 5, 5)
        assert still_patch(coarse, x, y, 2).max() == pytest.approx(flux, rel=0.08)
        assert still_patch(fine, x, y, 2).max() == pytest.approx(flux, rel=0.08)
    for plane in (coarse.still[:, :28], coarse.still[:28], coarse.still[:, -20:], coarse.still[-20:]):
        assert np.abs(plane).max() < 1e-3 * 1e6  # 80 pixels from the star


def test_patches_hold_the_pixels_of_the_maps_and_what_is_between():
    coarse = made(Epochs(6))
    half = 3
    for x, y in ((60, 80), (61, 80), (60, 81), (61, 81)):
        whole = patch(coarse, x, y, half)
        for j, i in np.ndindex(2 * half + 1, 2 * half + 1):
            v, u = y - half + j, x - half + i
            if v % 2 == 0 and u % 2 == 0:
                np.testing.assert_allclose(whole.flux[:, j, i], coarse.flux[:, v // 2, u // 2], rtol=1e-4, atol=1e-2)
            np.testing.assert_array_equal(whole.weight[:, j, i], coarse.weight[:, v // 2, u // 2])
    pulls = np.concatenate([patch(coarse, x, 101, 0).flux[:, 0, 0] for x in range(21, 261, 8)])
    weights = np.concatenate([patch(coarse, x, 101, 0).weight[:, 0, 0] for x in range(21, 261, 8)])
    assert (pulls * np.sqrt(weights)).std() == pytest.approx(1.0, abs=0.12)  # 360 values


def test_what_lies_beside_a_blind_pixel_of_a_map_says_nothing():
    coarse = made(Epochs(7))
    coarse.weight[3, 50, 60] = 0.0  # pixel (120, 100) of the planes
    known = patch(coarse, 120, 100, 2).weight[3] > 0
    assert known.tolist() == [[not (1 <= j <= 3 and 1 <= i <= 3) for i in range(5)] for j in range(5)]


@pytest.mark.parametrize("step", [1, 2])
def test_patterns_are_central_differences_over_a_pixel_of_the_planes(step):
    y, x = np.mgrid[:64, :96] * float(step)
    height, width = 64.0 * step, 96.0 * step

    def wave(y, x):
        return 3.0 + np.sin(2 * np.pi * (5 * y / height + 7 * x / width) + 0.4) + np.cos(2 * np.pi * 9 * y / height)

    made_of = patterns(np.asarray(wave(y, x), np.float32), step)
    expected = [
        np.ones_like(y),
        wave(y, x),
        (wave(y + 1, x) - wave(y - 1, x)) / 2,
        (wave(y, x + 1) - wave(y, x - 1)) / 2,
        (wave(y + 2, x) + wave(y - 2, x) - 2 * wave(y, x)) / 4,
        (wave(y, x + 2) + wave(y, x - 2) - 2 * wave(y, x)) / 4,
        (wave(y + 1, x + 1) - wave(y + 1, x - 1) - wave(y - 1, x + 1) + wave(y - 1, x - 1)) / 4,
    ]
    np.testing.assert_allclose(made_of, expected, atol=2e-6)
