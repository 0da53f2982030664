from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.simulate.camera import bias_levels, make_camera
from workers.simulate.charge import bleed, cosmic_rays, satellite_trail
from workers.simulate.detector import detector_pattern, flat_field
from workers.simulate.exposure import make_frame
from workers.simulate.readout import read_out
from workers.simulate.settings import DEMO, TINY, DetectorSettings, SkySettings
from workers.survey.camera import parse_section


def test_overscan_has_the_level_and_the_noise_of_its_amplifier(choose):
    frame = make_frame(DEMO, choose(DEMO, "bias")[0], 0)
    for amplifier, level in zip(make_camera(DEMO).detector(0).amplifiers, bias_levels(DEMO, 0), strict=True):
        overscan = frame.hdus[0].astype(float)[parse_section(amplifier.overscan)]
        noise = np.hypot(amplifier.read_noise / amplifier.gain, np.sqrt(1 / 12))
        rows = overscan - overscan.mean(axis=1, keepdims=True)
        count = overscan.shape[1]
        assert np.sqrt(np.mean(rows**2) * count / (count - 1)) == pytest.approx(noise, rel=0.03)
        assert overscan.mean() == pytest.approx(level, abs=5 * DEMO.detectors.bias_drift)
        assert np.ptp(overscan.mean(axis=1)) > 6 * noise / np.sqrt(count)


def test_gain_from_the_variance_of_flats(choose):
    one, two = (make_frame(DEMO, visit, 0).hdus[0].astype(float) for visit in choose(DEMO, "flat")[:2])
    for amplifier in make_camera(DEMO).detector(0).amplifiers:
        section, overscan = parse_section(amplifier.data), parse_section(amplifier.overscan)
        a, b = (raw[section] - raw[overscan].mean() for raw in (one, two))
        b = b * a.mean() / b.mean()
        good = a > 0.5 * np.median(a)
        noise = 2 * (amplifier.read_noise / amplifier.gain) ** 2
        gain = (a + b)[good].mean() / (np.var((a - b)[good]) - noise)
        assert gain == pytest.approx(amplifier.gain, rel=0.02)


def test_dark_shows_the_hot_pixels(choose, quiet, clean):
    visit = choose(quiet, "dark")[0]
    pattern = detector_pattern(quiet, 0)
    frame = make_frame(quiet, visit, 0)
    hot = pattern.dark > 1.5
    raw = frame.hdus[0].astype(float)
    assert (raw > np.median(raw) + 150).sum() == pytest.approx(hot.sum(), rel=0.05)
    assert np.all(pattern.defects[hot])


def test_flat_field_falls_to_the_edge_and_has_dead_columns():
    flat = flat_field(DEMO, 0, "r")
    assert np.median(flat[:100, :100]) < 0.97 < np.median(flat[300:460, 600:])
    dead = np.median(flat[400:], axis=0) < 0.1
    assert dead.sum() == DEMO.detectors.bad_columns
    assert np.all(detector_pattern(DEMO, 0).defects[500:, dead])
    # neighbouring pixels differ by the pixel response only
    assert np.std(np.diff(flat[:, 300:310])) / np.sqrt(2) == pytest.approx(DEMO.detectors.pixel_response, rel=0.15)


_LAYOUTS = [
    DetectorSettings(width=96, height=64, count=1),
    DetectorSettings(width=96, height=64, count=1, amplifiers=(4, 1), parallel_overscan=6),
    DetectorSettings(width=96, height=64, count=2, amplifiers=(2, 2), hdu_per_amplifier=True),
    DetectorSettings(width=96, height=64, count=1, amplifiers=(1, 2), prescan=0, overscan=0),
]


@pytest.mark.parametrize("design", _LAYOUTS)
def test_the_cameras_sections_bring_every_pixel_back(design):
    config = replace(TINY, detectors=replace(design, read_noise=0.001, bias_drift=0.0))
    electrons = np.random.default_rng(5).uniform(0.0, 5e4, (64, 96))
    detector = design.count - 1
    hdus = read_out(config, 1, detector, electrons)
    result = np.zeros_like(electrons)
    amplifiers = make_camera(config).detector(detector).amplifiers
    for amplifier, level in zip(amplifiers, bias_levels(config, detector), strict=True):
        place = parse_section(amplifier.position)
        raw = hdus[amplifier.hdu][parse_section(amplifier.data)].astype(float) - level
        raw = raw[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]
        result[place] = (raw - detector_pattern(config, detector).bias[place]) * amplifier.gain
    assert np.abs(result - electrons).max() < 0.52 * 1.1 * config.detectors.gain
    expected = {1, 2, 3, 4} if design.hdu_per_amplifier else {0}
    assert set(hdus) == expected


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), full_well=st.floats(50.0, 500.0))
def test_bleeding_conserves_charge_and_fills_no_pixel_above_full_well(seed, full_well):
    rng = np.random.default_rng(seed)
    image = rng.uniform(0.0, 0.5 * full_well, (400, 3))
    image[195:200, 1] += rng.uniform(0.0, 8.0 * full_well, 5)
    image[203, 1] += 3.0 * full_well
    before = image.copy()
    result = bleed(image, full_well)
    assert np.array_equal(image, before)
    assert result.max() <= full_well * (1 + 1e-12)
    np.testing.assert_allclose(result.sum(axis=0), image.sum(axis=0), rtol=1e-12)
    assert np.array_equal(result[:, [0, 2]], image[:, [0, 2]])


def test_saturated_stars_bleed_along_columns(choose):
    sky = SkySettings(stars=4.0, star_magnitudes=(8.5, 9.0), galaxies=0.0, variables=0.0, transients=0.0, asteroids=0.0)
    config = replace(TINY, sky=sky)
    frame = make_frame(config, choose(config, "live")[0], 0)
    stars = frame.scene.stars.within(320, 320, -60.0)
    assert len(stars.x) > 5
    raw = frame.hdus[0].astype(float)
    limits = [amplifier.saturation for amplifier in make_camera(config).detector(0).amplifiers]
    # cosmic rays rarely fill a pixel; the count of raw pixels above the camera's level is that of the truth
    assert (raw > max(limits)).sum() <= frame.saturated.sum() <= (raw > min(limits)).sum() + 5
    for x, y in zip(np.rint(stars.x).astype(int), np.rint(stars.y).astype(int), strict=True):
        tall = frame.saturated[y - 30 : y + 31, x].sum()
        wide = frame.saturated[y, x - 30 : x + 31].sum()
        assert tall > wide >= 3


def test_cosmic_rays_and_trails():
    rng = np.random.default_rng(3)
    image = cosmic_rays(rng, (500, 400), 200.0)
    assert image.min() == 0.0
    assert 300 < (image > 50).sum() < 4000
    args = ((300, 400), (200.0, 150.0), 100.0, 3.0)
    trail = satellite_trail(np.random.default_rng(4), *args)
    assert 60.0 <= trail.max() <= 1500.0
    # the same line continues on the detector next to it
    shifted = satellite_trail(np.random.default_rng(4), (300, 400), (150.0, 150.0), 100.0, 3.0)
    np.testing.assert_allclose(trail[:, 60:200], shifted[:, 10:150])
