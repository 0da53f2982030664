"""Overscan: what each method follows, what it leaves out, and where it looks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigurationError
from workers.imaging.calibrations import CalibrationSet
from workers.isr.overscan import overscan_levels
from workers.isr.pipeline import apply_steps
from workers.survey.camera import camera_from_dict
from workers.survey.isr_config import IsrConfig, OverscanConfig

ROWS = np.arange(1200)
DRIFT = 1000 + 6 * np.sin(ROWS / 300) + 2e-3 * ROWS


def counts(truth: np.ndarray, columns: int, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 4, (len(truth), columns))
    return np.round(truth[:, None] + noise).astype(np.uint16)


@pytest.mark.parametrize(
    ("method", "scatter"), [("smooth", 0.45), ("per_row", 0.75), ("spline", 0.15), ("median", np.std(DRIFT) * 1.01)]
)
def test_each_method_follows_the_drift_as_well_as_it_can(method: str, scatter: float) -> None:
    levels, noise = overscan_levels(counts(DRIFT, 32), method)
    assert np.std(levels - DRIFT) < scatter
    assert abs(np.mean(levels - DRIFT)) < 4 * 4 / np.sqrt(1200 * 32)
    assert noise == pytest.approx(4.0, abs=0.5)


@pytest.mark.parametrize("method", ["smooth", "per_row", "spline", "median"])
def test_bright_pixels_in_the_overscan_are_left_out(method: str) -> None:
    clean, dirty = counts(DRIFT, 32), counts(DRIFT, 32)
    dirty[::9, 5] = 60000
    dirty[600, :12] = 9000
    assert np.max(np.abs(overscan_levels(dirty, method)[0] - overscan_levels(clean, method)[0])) < 1.6
    assert np.std(overscan_levels(dirty, method)[0] - overscan_levels(clean, method)[0]) < 0.2


@given(st.sampled_from(["smooth", "per_row", "spline", "median"]), st.integers(1, 90), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_a_level_lies_between_the_pixels_it_comes_from(method: str, rows: int, columns: int) -> None:
    values = np.random.default_rng(rows * 100 + columns).integers(0, 3000, (rows, columns))
    levels, noise = overscan_levels(values, method)
    assert levels.shape == (rows,)
    assert np.isfinite(levels).all()
    assert noise >= 0
    if method != "spline":
        assert values.min() <= levels.min() + 1e-9
        assert levels.max() <= values.max() + 1e-9


def striped(make_tree, pattern: Any, skip: int = 0, **options: Any) -> tuple[np.ndarray, dict[str, float]]:
    """Reduce one amplifier of 60 x 40 with a serial drift, a parallel pattern, and charge left behind in both."""
    tree = make_tree()
    amplifier = {**tree["detectors"][0]["amplifiers"][0], "data": "[3:62,1:40]", "position": "[1:60,1:40]"}
    amplifier |= {"overscan": "[63:94,1:60]", "parallel_overscan": "[3:62,41:60]"}
    tree["detectors"][0] |= {"width": 60, "height": 40, "amplifiers": [amplifier]}
    camera = camera_from_dict(tree)
    rng = np.random.default_rng(3)
    block = rng.normal(1000, 3, (60, 94)) + np.linspace(0, 9, 60)[:, None]
    block[:, 2:62] += np.asarray(pattern)[None, :]
    block[:40, 2:62] += 500
    block[:40, 62:64] += 60
    block[40:42, 2:62] += 40
    raw = options.pop("raw")
    frame = replace(raw, hdus={0: block})
    config = IsrConfig(overscan=OverscanConfig(skip=skip, **options))
    exposure = apply_steps(frame, camera, CalibrationSet(), config, ("overscan",))
    return exposure.image, dict(exposure.metrics)


def test_serial_and_parallel_patterns_go_and_trailed_charge_is_skipped(instrument, make_tree) -> None:
    raw = instrument.raw(np.zeros((96, 128)))
    pattern = 5 * np.sin(np.arange(60) / 4)
    image, metrics = striped(make_tree, pattern, skip=2, raw=raw, parallel="per_row")
    assert abs(np.mean(image) - 500) < 0.5  # the strip above has 18 rows: 0.16 is one sigma
    assert np.std(image.mean(axis=0)) < 1.2
    assert np.std(image.mean(axis=1)) < 1.2
    assert metrics["overscanNoise_A"] == pytest.approx(3.0, abs=0.3)
    without, _ = striped(make_tree, pattern, skip=2, raw=raw, parallel="none")
    assert np.std(without.mean(axis=0)) > 3
    assert abs(np.mean(striped(make_tree, pattern, raw=raw, clip=100.0)[0]) - 500) > 2


def test_no_section_to_look_at_is_an_error(instrument, make_tree) -> None:
    raw = instrument.raw(np.zeros((96, 128)))
    with pytest.raises(ConfigurationError, match="has no overscan section that"):
        striped(make_tree, np.zeros(60), raw=raw, serial="none", parallel="none")


@pytest.mark.parametrize("method", ["smooth", "per_row", "spline"])
def test_the_levels_noise_is_in_the_variance(instrument, make_tree, method: str) -> None:
    tree = make_tree()
    amplifier = {**tree["detectors"][0]["amplifiers"][0], "data": "[1:200,1:300]", "position": "[1:200,1:300]"}
    tree["detectors"][0] |= {"width": 200, "height": 300, "amplifiers": [amplifier | {"overscan": "[201:224,1:300]"}]}
    camera, raw = camera_from_dict(tree), instrument.raw(np.zeros((96, 128)))
    rng, errors = np.random.default_rng(5), []
    for _ in range(20):
        block = rng.normal(1000, 4, (300, 224))
        block[:, :200] = 1000
        block[0, 0] = 1001  # a frame of one value would be refused
        config = IsrConfig(overscan=OverscanConfig(serial=method))
        exposure = apply_steps(replace(raw, hdus={0: block}), camera, CalibrationSet(), config, ("overscan",))
        errors.append(exposure.image[:, 100])
    assert np.std(errors) == pytest.approx(np.sqrt(exposure.variance[0, 0]), rel=0.15)


def test_a_drift_is_not_taken_for_a_level_where_the_serial_overscan_ends(instrument, make_tree) -> None:
    tree = make_tree()
    amplifier = {**tree["detectors"][0]["amplifiers"][0], "data": "[1:100,1:300]", "position": "[1:100,1:300]"}
    tree["detectors"][0] |= {"width": 100, "height": 300}
    rng, raw = np.random.default_rng(6), instrument.raw(np.zeros((96, 128)))
    block = rng.normal(1000, 3, (330, 140)) + 5 * np.sin(np.arange(330) / 40)[:, None]
    for rows in (300, 330):
        amplifier |= {"overscan": f"[101:140,1:{rows}]", "parallel_overscan": "[1:100,301:330]"}
        tree["detectors"][0]["amplifiers"] = [amplifier]
        frame = replace(raw, hdus={0: block})
        exposure = apply_steps(frame, camera_from_dict(tree), CalibrationSet(), IsrConfig(), ("overscan",))
        assert abs(np.mean(exposure.image)) < 0.25
