"""Brighter-fatter correction: stars keep their size at any flux, flats their independence, and no charge is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import fftconvolve

from schemas.errors import ConfigurationError
from workers.calibrate.brighter_fatter import kernel_from_area
from workers.imaging.calibrations import CalibrationSet, make_calibration
from workers.imaging.masks import MaskPlane
from workers.isr import brighter_fatter
from workers.isr.brighter_fatter import potential, restore
from workers.isr.state import IsrState
from workers.simulate.brighter_fatter import accumulate, area_coefficients, border_shifts
from workers.survey.isr_config import IsrConfig

SHIFTS = border_shifts(-2.5e-6)
AREA = area_coefficients(SHIFTS)[12:21, 12:21]
KERNEL = kernel_from_area(AREA, np.full((9, 9), 1e-9))
FULL_WELL, SKY = 85000.0, 500.0
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)


def moffat(fwhm: float, place: tuple[float, float], size: int = 45) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A star of unit flux at (x, y): its integral over pixels, and over right and top borders, by quadrature.

    The light at the borders is the star's own, not what the correction would interpolate.
    """
    width = 0.5 * fwhm / np.sqrt(2.0 ** (1.0 / 3.0) - 1.0)
    y, x = np.mgrid[:size, :size].astype(float)

    def light(dx: float, dy: float) -> np.ndarray:
        radius2 = (x + dx - place[0]) ** 2 + (y + dy - place[1]) ** 2
        return 2.0 / (np.pi * width**2) * (1.0 + radius2 / width**2) ** -3.0

    points = list(zip(0.5 * NODES, 0.5 * WEIGHTS, strict=True))
    pixels = sum(u * v * light(a, b) for a, u in points for b, v in points)
    right = sum(w * light(0.5, a) for a, w in points)[:, :-1]
    top = sum(w * light(a, 0.5) for a, w in points)[:-1]
    return np.asarray(pixels), right, top


def moments(image: np.ndarray, place: tuple[float, float], fwhm: float) -> np.ndarray:
    """Second moments along x and y under a Gaussian weight as wide as the star."""
    y, x = np.indices(image.shape)
    dx, dy = x - place[0], y - place[1]
    weight = image * np.exp(-0.5 * (dx**2 + dy**2) / (fwhm / 2.355) ** 2)
    return np.array([(weight * dx**2).sum(), (weight * dy**2).sum()]) / weight.sum()


def growth(fwhm: float, peak: float, place: tuple[float, float] = (22.2, 21.9)) -> tuple[np.ndarray, np.ndarray, float]:
    """Relative growth of the second moments before and after the correction; relative change of the flux."""
    pixels, right, top = moffat(fwhm, place)
    flux = peak / pixels.max()
    borders = (flux * right + SKY, flux * top + SKY)
    charge = accumulate(flux * pixels + SKY, SHIFTS, FULL_WELL, borders=borders, steps=24)
    image = charge.astype(np.float32)
    nothing = np.zeros(image.shape, bool)
    restore(image, nothing, nothing, KERNEL.kernel, anisotropy=KERNEL.anisotropy, threshold=10.0)
    truth = moments(flux * pixels, place, fwhm)
    before, after = (moments(plane - SKY, place, fwhm) / truth - 1.0 for plane in (charge, image.astype(float)))
    return before, after, float((image.sum(dtype=float) - charge.sum()) / (flux * pixels).sum())


@pytest.mark.parametrize("fwhm", [2.5, 3.0, 4.0])
def test_stars_keep_their_size_up_to_80_percent_of_full_well(fwhm: float) -> None:
    faint, bright = growth(fwhm, 500.0), growth(fwhm, 0.8 * FULL_WELL)
    assert (bright[0] - faint[0]).min() > 0.01
    assert np.abs(bright[1] - faint[1]).max() < 0.0006
    assert abs(bright[2]) < 1e-6


@given(st.floats(21.5, 22.5), st.floats(21.5, 22.5), st.floats(2000.0, 68000.0))
@settings(max_examples=8, deadline=None)
def test_wherever_in_the_pixel(x: float, y: float, peak: float) -> None:
    before, after, lost = growth(3.2, peak, (x, y))
    assert np.abs(after).max() < 0.0006
    assert np.abs(after).max() < 0.1 * np.abs(before).min() + 1e-5
    assert abs(lost) < 1e-6


def test_flats_become_poissonian_again() -> None:
    """The scatter and the covariances that the effect took out of a flat come back: pulls of width 1."""
    rng, level = np.random.default_rng(1), 40000.0
    flats = []
    for _ in range(4):
        image = accumulate(np.full((384, 384), level), SHIFTS, FULL_WELL, rng=rng).astype(np.float32)
        nothing = np.zeros(image.shape, bool)
        raw = image.copy()
        restore(image, nothing, nothing, KERNEL.kernel, anisotropy=KERNEL.anisotropy)
        flats.append((raw, image))
    spread = [np.mean([((one[n] - level) ** 2).mean() for one in flats]) / level for n in (0, 1)]
    assert spread[0] < 0.92
    assert spread[1] == pytest.approx(1.0, abs=0.012)
    for n, limit in ((0, 0.008), (1, 0.004)):
        near = [((one[n][1:] - level) * (one[n][:-1] - level)).mean() / level for one in flats]
        assert (abs(np.mean(near)) > limit) == (n == 0)


@given(st.integers(0, 2**31), st.floats(0.0, 0.1))
@settings(max_examples=20, deadline=None)
def test_charge_is_conserved_and_masked_pixels_are_left_alone(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    image = (200.0 + 60000.0 * rng.random((30, 40)) ** 6).astype(np.float32)
    closed = rng.random(image.shape) < share
    before = image.copy()
    restore(image, closed, np.zeros_like(closed), KERNEL.kernel, anisotropy=0.8)
    np.testing.assert_array_equal(image[closed], before[closed])
    assert image.sum(dtype=float) == pytest.approx(before.sum(dtype=float), rel=1e-6)


def test_what_a_bad_pixel_reads_does_not_spread() -> None:
    rng = np.random.default_rng(2)
    clean = rng.poisson(1000.0, (40, 40)).astype(np.float32)
    bad = np.zeros(clean.shape, bool)
    bad[20, 20:23] = True
    results = []
    for value in (0.0, 5.0e7, np.nan):
        image = clean.copy()
        image[bad] = value
        restore(image, bad, bad, KERNEL.kernel, anisotropy=KERNEL.anisotropy)
        results.append(image[~bad])
        np.testing.assert_array_equal(image[bad], np.float32(value))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    assert np.isfinite(results[0]).all()


def test_a_saturated_star_still_pushes_its_surroundings() -> None:
    """Beside a full column is light that its charge pushed there: it goes back, and the column is left alone."""
    light = np.full((60, 60), 2000.0)
    light[:, 30] = 80000.0
    charge = accumulate(light, SHIFTS, FULL_WELL, borders=(np.full((60, 59), 2000.0), np.full((59, 60), 2000.0)))
    image = charge.astype(np.float32)
    full = light > 50000.0
    restore(image, full, np.zeros_like(full), KERNEL.kernel, anisotropy=KERNEL.anisotropy)
    np.testing.assert_array_equal(image[full], charge[full].astype(np.float32))
    far = np.abs(np.arange(60) - 30) > 1
    pushed = np.abs(charge[:, far] - 2000.0).max()
    assert pushed > 8.0
    assert np.abs(image[:, far] - 2000.0).max() < 0.4 * pushed


def test_an_even_image_is_left_as_it_is() -> None:
    image = np.full((50, 30), 43210.0, np.float32)
    nothing = np.zeros(image.shape, bool)
    rounds, moved = restore(image, nothing, nothing, KERNEL.kernel)
    np.testing.assert_array_equal(image, np.float32(43210.0))
    assert (rounds, moved) == (1, 0.0)


def test_iteration_stops_at_the_threshold_or_the_count() -> None:
    pixels, *_ = moffat(3.0, (22.0, 22.0))
    star = (60000.0 / pixels.max() * pixels).astype(np.float32)
    nothing = np.zeros(star.shape, bool)
    rounds = [restore(star.copy(), nothing, nothing, KERNEL.kernel, threshold=limit)[0] for limit in (1e3, 1.0)]
    assert 1 < rounds[0] < rounds[1] <= 10
    assert restore(star.copy(), nothing, nothing, KERNEL.kernel, threshold=1e-9, iterations=3)[0] == 3


def test_the_potential_is_a_convolution_with_mirrored_edges() -> None:
    charge = np.random.default_rng(3).normal(0.0, 100.0, (33, 1100)).astype(np.float32)
    quadrant = np.ascontiguousarray(KERNEL.kernel[8:, 8:], np.float32)
    expected = fftconvolve(np.pad(charge.astype(float), 8, mode="symmetric"), KERNEL.kernel, mode="valid")
    np.testing.assert_allclose(potential(charge, quadrant), expected, atol=1e-5 * np.abs(expected).max())


def state_of(instrument: Any, image: np.ndarray, unit: str) -> IsrState:
    tables = {"kernel": KERNEL.kernel, "anisotropy": np.array([KERNEL.anisotropy])}
    layout = instrument.camera.detectors[0].layout
    master = make_calibration("brighter_fatter", instrument="cam", detector=0, layout=layout, tables=tables)
    planes = {"mask": np.zeros(image.shape, np.int32), "variance": np.ones_like(image)}
    return IsrState(
        raw=instrument.raw(np.zeros(image.shape)),
        camera=instrument.camera,
        detector=instrument.camera.detectors[0],
        calibrations=CalibrationSet({"brighter_fatter": master}),
        config=IsrConfig(),
        image=image,
        unit=unit,
        **planes,
    )


def test_the_step_works_in_electrons_in_place_and_says_what_it_moved(instrument) -> None:
    image = np.full((96, 128), 300.0, np.float32)
    pixels, *_ = moffat(3.0, (22.0, 22.0))
    image[20:65, 40:85] += (50000.0 / pixels.max() * pixels).astype(np.float32)
    state = state_of(instrument, image, "electron")
    state.mask[42, 62] = int(MaskPlane.SATURATED)
    before = image.copy()
    brighter_fatter.apply(state)
    assert state.image is image
    assert image[41, 62] > before[41, 62]
    assert image[42, 62] == before[42, 62]
    assert state.metrics["brighterFatterRounds"] >= 2.0
    assert state.metrics["brighterFatterMoved"] == pytest.approx(0.5 * np.abs(image - before).sum(), rel=1e-3)
    np.testing.assert_array_equal(state.variance, 1.0)


def test_the_step_refuses_counts(instrument) -> None:
    state = state_of(instrument, np.ones((96, 128), np.float32), "adu")
    with pytest.raises(ConfigurationError, match="works in electron"):
        brighter_fatter.apply(state)
