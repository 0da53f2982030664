"""Filling of masked pixels: near the truth, flags kept, good pixels untouched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.imaging.calibrations import CalibrationSet
from workers.imaging.flagged_pixels import flagged_pixels
from workers.imaging.masks import MaskPlane
from workers.isr import interpolate
from workers.isr.interpolate import fill_from_neighbours
from workers.isr.state import IsrState
from workers.survey.isr_config import IsrConfig

BAD, CR = int(MaskPlane.BAD), int(MaskPlane.CR)
FILLED = int(MaskPlane.INTERPOLATED)
SIZE = 120
Y, X = np.mgrid[:SIZE, :SIZE].astype(float)


def filled(truth: np.ndarray, bad: np.ndarray, seed: int | None = None, fwhm: float = 3.5) -> np.ndarray:
    """The picture after bad pixels were spoilt and filled."""
    noise = np.random.default_rng(seed).normal(0, 5, truth.shape) if seed is not None else 0.0
    image = (truth + noise).astype(np.float32)
    image[bad] = 1e6
    mask = np.where(bad, BAD, 0).astype(np.int32)
    assert fill_from_neighbours(image, mask, BAD, fwhm=fwhm) == bad.sum()
    return image


def star(x: float, y: float, peak: float = 10000.0, fwhm: float = 3.5) -> np.ndarray:
    return peak * np.exp(-0.5 * ((X - x) ** 2 + (Y - y) ** 2) * (2.3548 / fwhm) ** 2)


def shapes() -> dict[str, np.ndarray]:
    """Bad pixels of many kinds, away from each other."""
    bad = {name: np.zeros((SIZE, SIZE), bool) for name in ("pixels", "column", "two columns", "row", "block", "track")}
    bad["pixels"][7::11, 5::13] = True
    bad["column"][:, 60] = True
    bad["two columns"][:, 60:62] = True
    bad["row"][60, 20:] = True
    bad["block"][50:56, 50:56] = True
    for step in range(20):
        bad["track"][30 + step, 40 + step // 2] = True
    return bad


@pytest.mark.parametrize("name", shapes())
def test_a_slope_is_met_exactly(name: str) -> None:
    truth = 300 + 2.5 * X - 1.5 * Y
    bad = shapes()[name]
    image = filled(truth, bad)
    np.testing.assert_allclose(image[~bad], truth[~bad], rtol=1e-6)
    limit = 12.0 if name == "block" else 0.5  # the middle of a block of six is an average of what surrounds it
    assert np.abs(image - truth)[bad].max() < limit


@pytest.mark.parametrize(("name", "share"), [("column", 0.08), ("two columns", 0.16), ("row", 0.08), ("track", 0.08)])
def test_a_star_under_a_defect_comes_back(name: str, share: float) -> None:
    bad = shapes()[name]
    rows, columns = np.nonzero(bad)
    middle = len(rows) // 2
    truth = 300 + star(columns[middle], rows[middle])
    image = filled(truth, bad)
    assert np.abs(image - truth)[bad].max() < share * 10000


def test_the_noise_of_a_filled_pixel_is_no_larger_than_a_pixels() -> None:
    bad = shapes()["pixels"] | shapes()["column"]
    rest = [(filled(np.full((SIZE, SIZE), 300.0), bad, seed) - 300)[bad] for seed in range(5)]
    assert np.std(rest) < 5.0
    assert abs(np.mean(rest)) < 0.5


def test_the_inside_of_a_saturated_star_lies_between_its_surroundings() -> None:
    truth = 300 + star(60, 60, peak=1e6, fwhm=14)
    bad = truth > 30000
    assert bad.sum() > 100
    image = filled(truth, bad)
    assert image[bad].min() > 3000
    assert image[bad].max() <= 30001


def test_flags_stay_and_only_the_named_planes_are_filled() -> None:
    image = np.full((40, 50), 100.0, np.float32)
    mask = np.zeros((40, 50), np.int32)
    image[10, 10], mask[10, 10] = 900.0, BAD | int(MaskPlane.SUSPECT)
    image[20, 20], mask[20, 20] = 900.0, int(MaskPlane.STREAK)
    fill_from_neighbours(image, mask, BAD | CR)
    assert image[10, 10] == pytest.approx(100)
    assert mask[10, 10] == BAD | int(MaskPlane.SUSPECT) | FILLED
    assert (image[20, 20], mask[20, 20]) == (900.0, int(MaskPlane.STREAK))
    assert np.count_nonzero(mask) == 2


def test_borders_corners_and_nothing_good() -> None:
    image = np.full((30, 30), 50.0, np.float32)
    bad = np.zeros((30, 30), bool)
    bad[0, 0] = bad[29, 5] = bad[:, 29] = bad[12, 0] = True
    image[bad] = np.nan
    mask = np.where(bad, BAD, 0).astype(np.int32)
    fill_from_neighbours(image, mask, BAD)
    np.testing.assert_allclose(image, 50.0)
    image[:], mask[:] = np.nan, BAD
    assert fill_from_neighbours(image, mask, BAD) == 900
    np.testing.assert_array_equal(image, 0.0)


def test_a_hole_wider_than_the_search_takes_the_level() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(500, 10, (200, 200)).astype(np.float32)
    mask = np.zeros((200, 200), np.int32)
    mask[40:160, 40:160] = BAD
    fill_from_neighbours(image, mask, BAD)
    assert image[100, 100] == pytest.approx(500, abs=2)


def test_neighbours_that_are_no_numbers_are_left_out() -> None:
    image = np.full((20, 20), 10.0, np.float32)
    image[9, 10] = np.nan
    mask = np.zeros((20, 20), np.int32)
    mask[10, 10] = BAD
    fill_from_neighbours(image, mask, BAD)
    assert image[10, 10] == pytest.approx(10.0)


@given(st.integers(0, 2**31), st.floats(0.01, 0.9), st.floats(1.0, 8.0))
@settings(max_examples=25, deadline=None)
def test_a_constant_stays_and_good_pixels_are_never_touched(seed: int, share: float, fwhm: float) -> None:
    rng = np.random.default_rng(seed)
    bad = rng.random((23, 31)) < share
    image = np.full((23, 31), 7.0, np.float32)
    image[bad] = rng.normal(0, 1e5, int(bad.sum()))
    mask = np.where(bad, CR, 0).astype(np.int32)
    fill_from_neighbours(image, mask, CR, fwhm=fwhm)
    np.testing.assert_allclose(image, 7.0 if not bad.all() else 0.0, rtol=1e-5)
    np.testing.assert_array_equal(mask, np.where(bad, CR | FILLED, 0))


@given(st.integers(0, 2**31), st.floats(0.0, 0.3), st.integers(1, 300))
@settings(max_examples=25, deadline=None)
def test_flagged_pixels_are_those_with_the_bit(seed: int, share: float, width: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.where(rng.random((7, width)) < share, rng.integers(0, 2**17, (7, width)), 0).astype(np.int32)
    np.testing.assert_array_equal(flagged_pixels(mask, BAD | CR), np.flatnonzero(mask & (BAD | CR)))


def test_the_step_fills_what_the_configuration_names(instrument: Any) -> None:
    raw = instrument.raw(np.full((96, 128), 100.0))
    image = np.full((96, 128), 200.0, np.float32)
    mask = np.zeros((96, 128), np.int32)
    image[30, 30], mask[30, 30] = 60000.0, int(MaskPlane.SATURATED)
    image[40, 40], mask[40, 40] = 300.0, int(MaskPlane.EDGE)
    state = IsrState(
        raw, instrument.camera, instrument.camera.detectors[0], CalibrationSet(), IsrConfig(), image, mask, image.copy()
    )
    variance = state.variance.copy()
    interpolate.apply(state)
    assert state.image[30, 30] == pytest.approx(200.0)
    assert state.image[40, 40] == 300.0
    assert state.metrics["interpolatedFraction"] == 1 / (96 * 128)
    np.testing.assert_array_equal(state.variance, variance)
