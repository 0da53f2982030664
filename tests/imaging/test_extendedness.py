"""Star or galaxy: the spread's pulls and whether the probability is one."""

import numpy as np
import pytest

from tests.characterize.conftest import moffat
from workers.imaging.extendedness import extendedness_of, spread_model
from workers.imaging.psf import PsfModel

PITCH, SIDE, SKY, FWHM = 41, 20, 425.0, 3.6


def scene(seed, flux, galaxies):
    """A grid of stars and of a share of exponential discs of many sizes: image, variance, PSF, places, which."""
    rng = np.random.default_rng(seed)
    count = SIDE * SIDE
    at = np.arange(SIDE) * PITCH + PITCH // 2
    x = (at[None] + rng.uniform(-0.5, 0.5, (SIDE, SIDE))).ravel()
    y = (at[:, None] + rng.uniform(-0.5, 0.5, (SIDE, SIDE))).ravel()
    stars = moffat(x - np.round(x), y - np.round(y), np.full(count, FWHM), 3.5, PITCH)
    which = rng.random(count) < galaxies
    half_light = 0.4 * FWHM * np.exp(0.5 * rng.normal(size=count))
    turn, ratio = rng.uniform(0, np.pi, (count, 1, 1)), rng.uniform(0.3, 1.0, (count, 1, 1))
    kx, ky = np.fft.rfftfreq(2 * PITCH)[None, None, :], np.fft.fftfreq(2 * PITCH)[None, :, None]
    along, across = np.cos(turn) * kx + np.sin(turn) * ky, ratio * (np.cos(turn) * ky - np.sin(turn) * kx)
    scale = (np.where(which, half_light, 0.0) / 1.678)[:, None, None]
    disc = (1.0 + (2 * np.pi * scale) ** 2 * (along**2 + across**2)) ** -1.5
    light = np.fft.irfft2(np.fft.rfft2(stars, (2 * PITCH, 2 * PITCH)) * disc, (2 * PITCH, 2 * PITCH))
    light = flux * light[:, :PITCH, :PITCH].reshape(SIDE, SIDE, PITCH, PITCH).transpose(0, 2, 1, 3)
    light = light.reshape(SIDE * PITCH, SIDE * PITCH)
    variance = light + SKY
    image = light + rng.normal(0, 1, light.shape) * np.sqrt(variance)
    psf = moffat(np.zeros(1), np.zeros(1), np.array([FWHM]), 3.5, 25)
    psf = PsfModel((psf / psf.sum()).astype(np.float32), 0, *light.shape)
    return image, variance, psf, x, y, which


@pytest.mark.parametrize("flux", [3000.0, 20_000.0])
def test_stars_have_no_spread(flux):
    image, variance, psf, x, y, _ = scene(1, flux, 0.0)
    spread, error = spread_model(image, variance, np.ones(image.shape, bool), psf, x, y)
    pulls = spread / error
    assert abs(pulls.mean()) < 0.2
    assert pulls.std() == pytest.approx(1.0, abs=0.1)


def test_bright_galaxies_and_stars_are_told_apart():
    image, variance, psf, x, y, which = scene(2, 1e5, 0.5)
    spread, error = spread_model(image, variance, np.ones(image.shape, bool), psf, x, y)
    assert ((extendedness_of(spread, error) > 0.5) == which).mean() > 0.98


def test_extendedness_is_a_probability():
    chance, truth = [], []
    for seed, flux in enumerate((1500.0, 2500.0, 4000.0, 8000.0)):
        image, variance, psf, x, y, which = scene(10 + seed, flux, 0.5)
        spread, error = spread_model(image, variance, np.ones(image.shape, bool), psf, x, y)
        chance.append(extendedness_of(spread, error))
        truth.append(which)
    chance, truth = np.concatenate(chance), np.concatenate(truth)
    for low, high in ((0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.01)):
        within = (chance >= low) & (chance < high)
        assert abs(truth[within].mean() - chance[within].mean()) < 0.2


def test_what_is_narrower_than_the_psf_is_no_galaxy_and_holes_give_no_number():
    sure = extendedness_of(np.array([-3.0, 0.0, 30.0, np.nan]), np.array([0.1, 0.05, 0.1, 1.0]))
    assert sure[0] < 0.01
    assert sure[1] < 0.1
    assert sure[2] > 0.99
    assert np.isnan(sure[3])
    image, variance, psf, x, y, _ = scene(3, 3000.0, 0.0)
    usable = np.ones(image.shape, bool)
    usable[round(y[0]), round(x[0]) + 2] = False
    spread, _ = spread_model(image, variance, usable, psf, x[:2], y[:2])
    np.testing.assert_array_equal(np.isnan(spread), [True, False])
