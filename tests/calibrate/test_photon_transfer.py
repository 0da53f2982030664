"""Photon transfer: gain, noise and area coefficients against simulated truth, pulls and all; what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from tests.calibrate.lamp_flats import A00, ISR_STEPS, measured, small
from workers.calibrate.covariances import charge_covariances, growth, growth_slope, lag_covariances, mirrored
from workers.calibrate.flat_pairs import clipped_share, pair_statistics, read_noise, tile_edges
from workers.calibrate.photon_transfer import solve
from workers.calibrate.transfer_fit import fit_transfer_curve, turnoff_level
from workers.simulate.brighter_fatter import area_coefficients, border_shifts

TRUE_AREA = area_coefficients(border_shifts(A00))[12:21, 12:21]
LEVELS = np.geomspace(200.0, 40000.0, 20)


def exact_curve(gain: float = 1.5, noise: float = 16.0) -> np.ndarray:
    """Covariances, ADU², of pairs at `LEVELS` without scatter."""
    covariances = charge_covariances(LEVELS * gain, TRUE_AREA) / gain**2
    covariances[:, 0, 0] += noise
    return covariances


def fitted(covariances: np.ndarray, pixels: float = 1.0e6):
    products = np.full(covariances.shape, pixels)
    return fit_transfer_curve(LEVELS, covariances, covariances[:, 0, 0] * np.sqrt(2.0 / pixels), products)


def flat_pair(seed: int, level: float = 20000.0, drift: float = 0.01, shape: tuple[int, int] = (256, 256)):
    """Two flats in ADU at 1.5 electrons per ADU, 1 % of pixel response, the lamp drifting more on the right."""
    rng = np.random.default_rng(seed)
    response = 1.0 + 0.01 * rng.standard_normal(shape)
    tilt = 1.0 + drift * np.linspace(0.5, 1.5, shape[1])
    flats = [rng.poisson(level * response * lamp) / 1.5 for lamp in (1.0, tilt)]
    return [np.rint(flat + rng.normal(0.0, 4.0, shape)).astype(np.float32) for flat in flats]


def test_gains_are_true_and_their_errors_too() -> None:
    lamp, _, solution = measured()
    gain, error = solution.tables["gain"], solution.tables["gainErr"]
    pulls = (gain - lamp.truth("gain")) / error
    assert abs(np.mean(gain / lamp.truth("gain")) - 1.0) < 0.003
    assert abs(pulls.mean()) < 3.0 / np.sqrt(len(pulls))
    assert 0.65 < pulls.std() < 1.45
    assert np.abs(pulls).max() < 3.5


def test_read_noise_is_true_from_overscan_and_from_the_curve() -> None:
    lamp, _, solution = measured()
    truth = lamp.truth("read_noise")
    for name in ("readNoise", "readNoiseFit"):
        pulls = (solution.tables[name] - truth) / solution.tables[name + "Err"]
        assert abs(pulls.mean()) < 3.0 / np.sqrt(len(pulls))
        assert 0.6 < pulls.std() < 1.45
    assert np.sqrt(np.mean((solution.tables["readNoise"] / truth - 1.0) ** 2)) < 0.01
    assert abs(np.mean(solution.tables["readNoise"] / truth) - 1.0) < 0.005
    assert solution.metadata["readNoiseFromOverscan"] == 1.0


def test_area_coefficients_are_the_simulated_ones() -> None:
    lamp, _, solution = measured()
    truth = TRUE_AREA * (1.0 - lamp.steps**-2.0)
    pulls = (solution.tables["aMatrix"] - truth) / solution.tables["aMatrixErr"]
    assert abs(pulls[:, 0, 0].mean()) < 0.75
    assert abs(pulls.mean()) < 4.0 / np.sqrt(pulls.size)
    assert 0.93 < pulls.std() < 1.07
    assert 0.9 < solution.metadata["covarianceChi2"] < 1.1
    assert 0.5 < solution.metadata["chi2"] < 1.6


def test_all_pairs_below_full_well_are_used_and_the_highest_is_the_turnoff() -> None:
    _, _, solution = measured()
    assert solution.tables["used"].mean() > 0.98
    np.testing.assert_array_equal(solution.tables["turnoff"], solution.tables["level"].max(axis=1))
    assert np.all(np.diff(solution.tables["level"], axis=1) > 0.0)


def test_the_textbook_recipe_fails_on_the_same_pair() -> None:
    first, second = flat_pair(seed=3)
    naive = (first.mean() + second.mean()) / np.var(first - second)
    statistics = pair_statistics(first, second, np.ones(first.shape, bool))
    assert statistics is not None
    assert naive / 1.5 - 1.0 < -0.07
    corrected = statistics.level / (statistics.variance - 16.0)
    assert corrected == pytest.approx(1.5, rel=4.0 * np.sqrt(2.0 / first.size))
    assert statistics.drift == pytest.approx(0.01, abs=2e-4)


def test_variance_errors_are_the_scatter() -> None:
    pulls = []
    for seed in range(60):
        first, second = flat_pair(seed, level=3000.0, shape=(96, 96))
        found = pair_statistics(first, second, np.ones(first.shape, bool))
        assert found is not None
        truth = 3000.0 * np.sqrt(1.01) / 2.25 + 16.0 + 1.0 / 12.0
        pulls.append((found.variance - truth) / found.varianceErr)
    assert abs(np.mean(pulls)) < 3.0 / np.sqrt(60.0)
    assert 0.78 < np.std(pulls) < 1.22


def test_cosmic_rays_dead_columns_and_hot_pixels_leave_no_trace() -> None:
    first, second = flat_pair(seed=5, level=2000.0)
    good = np.ones(first.shape, bool)
    clean = pair_statistics(first, second, good)
    rng = np.random.default_rng(1)
    for _ in range(30):
        y, x = rng.integers(0, 240, 2)
        first[y, x : x + 10] += 900.0
    for flat in (first, second):
        flat[:, 77] = 5.0
        flat[100:105, 200] = 9000.0
    dirty = pair_statistics(first, second, good)
    assert clean is not None
    assert dirty is not None
    assert dirty.variance == pytest.approx(clean.variance, rel=2e-3)
    assert dirty.level == pytest.approx(clean.level, rel=3e-4)
    assert dirty.covariances[0, 1] == pytest.approx(clean.covariances[0, 1], abs=3e-3 * clean.variance)


def test_a_flagged_or_unlit_amplifier_tells_nothing() -> None:
    first, second = flat_pair(seed=6, shape=(64, 64))
    nowhere = np.zeros(first.shape, bool)
    assert pair_statistics(first, second, nowhere) is None
    assert pair_statistics(0 * first, second, ~nowhere) is None


def test_lag_covariances_are_those_by_fourier_transform() -> None:
    rng = np.random.default_rng(7)
    field = rng.standard_normal((60, 50)).astype(np.float32)
    field[:, 1:] += 0.4 * field[:, :-1]
    good = rng.random(field.shape) > 0.1
    found, products = lag_covariances(field, good, 5)

    def correlation(plane: np.ndarray) -> np.ndarray:
        power = np.abs(np.fft.fft2(plane, (128, 128))) ** 2
        both = np.fft.ifft2(power).real
        return np.where(np.indices((6, 6)).min(axis=0) > 0, both[:6, :6] + both[:6, -np.arange(6)], both[:6, :6])

    np.testing.assert_allclose(products, correlation(good.astype(float)), atol=1e-6)
    np.testing.assert_allclose(found, correlation(field * good) / correlation(good.astype(float)), atol=2e-6)


def test_the_model_begins_like_the_published_series() -> None:
    charge, gain = np.array([4000.0]), 1.0
    plane = mirrored(TRUE_AREA)
    size = plane.shape[0]
    transform = np.fft.fft2(np.roll(np.pad(plane, ((0, 47), (0, 47))), (-(size // 2), -(size // 2)), (0, 1)))
    second, third = (np.fft.ifft2(transform**n).real[:9, :9] for n in (2, 3))
    delta = np.zeros((9, 9))
    delta[0, 0] = 1.0
    x = charge[0]
    series = x / gain * (delta + TRUE_AREA * x + 2.0 / 3.0 * second * x**2 + 1.0 / 3.0 * third * x**3)
    np.testing.assert_allclose(charge_covariances(charge, TRUE_AREA)[0], series, atol=2e-9 * x)


@given(st.floats(-0.4, 0.4))
@settings(max_examples=50, deadline=None)
def test_growth_is_the_integral_of_its_equation(exponent: float) -> None:
    steps = np.linspace(0.0, 1.0, 2001)
    power = np.exp(2.0 * exponent * steps)
    assert growth(np.array(exponent)) == pytest.approx(np.trapezoid(power, steps), rel=1e-6)
    assert growth_slope(np.array(exponent)) == pytest.approx(np.trapezoid(2.0 * steps * power, steps), rel=1e-6)


def test_the_fit_returns_what_an_exact_curve_was_made_with() -> None:
    curve = fitted(exact_curve())
    assert curve.gain == pytest.approx(1.5, rel=1e-5)
    assert curve.noise[0, 0] == pytest.approx(36.0, rel=2e-3)
    np.testing.assert_allclose(curve.area, TRUE_AREA, atol=1e-5 * abs(A00))
    assert curve.used.all()


def test_an_outlier_is_left_out() -> None:
    covariances = exact_curve()
    covariances[9] *= 1.05
    curve = fitted(covariances)
    assert not curve.used[9]
    assert curve.used.sum() == 19
    assert curve.gain == pytest.approx(1.5, rel=1e-4)


def test_pairs_beyond_the_turnoff_are_left_out() -> None:
    covariances = exact_curve()
    covariances[17] *= 0.55
    covariances[18:] *= 0.15
    curve = fitted(covariances)
    assert curve.turnoff == LEVELS[16]
    assert curve.gain == pytest.approx(1.5, rel=1e-4)


@given(st.integers(3, 30), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_a_rising_curve_has_no_turnoff_and_order_does_not_matter(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    level = np.cumsum(rng.uniform(1.0, 100.0, count))
    order = rng.permutation(count)
    variance = np.append(level[:-1], 0.0)
    assert turnoff_level(level[order], level[order], np.ones(count)) == np.inf
    expected = level[-2] if level[-2] > 5.0 * np.sqrt(2.0) else np.inf
    assert turnoff_level(level[order], variance[order], np.ones(count)) == expected


@given(st.integers(5, 900), st.integers(5, 900))
@settings(max_examples=60, deadline=None)
def test_tiles_cover_the_amplifier_and_are_enough(height: int, width: int) -> None:
    rows, columns = tile_edges((height, width))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (0, height, 0, width)
    assert np.diff(rows).min() >= 1
    assert np.diff(columns).min() >= 1
    if height * width >= 600:
        assert (len(rows) - 1) * (len(columns) - 1) >= 600


@pytest.mark.parametrize("sigma", [2.0, 3.0, 5.5])
def test_what_clipping_takes_of_a_variance_is_known(sigma: float) -> None:
    x = np.linspace(-sigma, sigma, 200_001)
    density = np.exp(-0.5 * x**2)
    assert clipped_share(sigma) == pytest.approx(np.average(x**2, weights=density), rel=1e-4)


def test_overscan_noise_is_free_of_rounding_drift_and_hits() -> None:
    pulls = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        values = np.rint(1000.3 + np.linspace(0, 30, 300)[:, None] + rng.normal(0.0, 2.0, (300, 24)))
        values[::50, 3] = 40000.0
        variance, freedom = read_noise(values.astype(np.uint16))
        pulls.append((variance - 4.0) / (4.0 * np.sqrt(2.0 / freedom)))
    assert abs(np.mean(pulls)) < 3.0 / np.sqrt(40.0)
    assert 0.7 < np.std(pulls) < 1.3


def test_too_few_pairs_are_refused_with_reasons() -> None:
    lamp, raws = small()
    with pytest.raises(DataError, match=r"amplifier \S+ .*5 usable pairs.*needs 6; take two flats"):
        solve(lamp.frames(raws[:10]), ISR_STEPS)


def test_frames_of_unequal_exposure_time_make_no_pair() -> None:
    lamp, raws = small()
    with pytest.raises(DataError, match="0 usable pairs"):
        solve(lamp.frames(raws[:12:2]), ISR_STEPS)


def test_levels_that_are_all_alike_are_refused() -> None:
    lamp, _ = small()
    with pytest.raises(DataError, match=r"run from \d+ to \d+ ADU only"):
        solve(lamp.frames(lamp.pairs(np.full(6, 9000.0), seed=2)), ISR_STEPS)


def test_a_curve_that_falls_early_is_refused() -> None:
    lamp, raws = small()
    rng = np.random.default_rng(3)
    design = lamp.camera.detectors[0].amplifiers[0]
    offset = float(np.median(raws[0].hdus[0][:, -16:]))
    wild = []
    for raw in raws[:4]:
        counts = raw.hdus[design.hdu].astype(float) + rng.normal(0.0, 300.0, raw.hdus[design.hdu].shape)
        counts[:, -24:] = offset
        wild.append(replace(raw, hdus={design.hdu: np.clip(np.rint(counts), 0, 65535).astype(np.uint16)}))
    with pytest.raises(DataError, match=r"falls above \d+ ADU and only [12] of 8 pairs"):
        solve(lamp.frames([*wild, *raws[4:]]), ISR_STEPS)


def test_without_the_effect_the_line_is_straight() -> None:
    covariances = np.zeros((20, 9, 9))
    covariances[:, 0, 0] = LEVELS / 1.5 + 16.0
    curve = fitted(covariances)
    assert curve.gain == pytest.approx(1.5, rel=1e-6)
    np.testing.assert_allclose(curve.area, 0.0, atol=1e-12)


def test_drifting_and_saturated_pairs_are_left_out_and_counted() -> None:
    lamp, raws = small()
    rng = np.random.default_rng(9)
    high = [lamp.raw(lamp.light(83000.0, 0.0), 990 + n, 99.0, rng) for n in range(2)]
    moved = lamp.raw(lamp.light(1000.0, 0.0) * 1.2, raws[3].info.visit, raws[2].info.exposureTime, rng)
    solution = solve(lamp.frames([*raws[:3], moved, *raws[4:], *high]), ISR_STEPS)
    assert solution.metadata["pairsDrifted"] == 1.0
    assert solution.metadata["pairs"] == 8.0
    assert solution.tables["level"].shape == (1, 7)
    assert solution.tables["turnoffElectron"][0] < 60000.0


def test_an_odd_flat_out_loses_its_turn_and_the_others_still_pair() -> None:
    lamp, raws = small()
    info = raws[4].info
    time = {"exposureTime": info.exposureTime, "midpointMjdTai": info.midpointMjdTai - 1e-6}
    odd = replace(raws[0], info=replace(raws[0].info, visit=9, sha256="9" * 64, **time))
    found, solution = (solve(lamp.frames(some), ISR_STEPS) for some in ([*raws[:4], odd, *raws[4:]], raws))
    assert found.metadata["pairs"] == 8.0
    np.testing.assert_array_equal(found.tables["level"], solution.tables["level"])


def test_without_overscan_the_read_noise_is_the_curve_s() -> None:
    lamp, raws = small()
    detector = lamp.camera.detectors[0]
    bare = [amplifier.model_copy(update={"overscan": None}) for amplifier in detector.amplifiers]
    frames = lamp.frames(raws)
    frames.detector = detector.model_copy(update={"amplifiers": tuple(bare)})
    found, usual = solve(frames, ISR_STEPS), solve(lamp.frames(raws), ISR_STEPS)
    assert (found.metadata["readNoiseFromOverscan"], usual.metadata["readNoiseFromOverscan"]) == (0.0, 1.0)
    np.testing.assert_array_equal(found.tables["readNoise"], found.tables["readNoiseFit"])
    assert usual.tables["readNoise"][0] != found.tables["readNoise"][0]
    np.testing.assert_array_equal(usual.tables["readNoiseFit"], found.tables["readNoiseFit"])
