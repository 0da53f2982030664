"""The steps at array level: overscan, assembly, saturation, flat and defects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from workers.imaging.calibrations import CalibrationSet
from workers.imaging.masks import MaskPlane
from workers.isr.assembly import assemble_image
from workers.isr.overscan import overscan_levels
from workers.isr.pipeline import apply_steps
from workers.isr.saturation import grown
from workers.survey.camera import camera_from_dict
from workers.survey.isr_config import IsrConfig

SHAPE = (96, 128)


@pytest.mark.parametrize("columns", [4, 16, 64])
def test_levels_follow_the_drift_with_a_tenth_of_the_noise(columns: int) -> None:
    rng = np.random.default_rng(1)
    truth = 1000 + 10 * np.sin(np.arange(1000) / 1000 * 4)
    counts = np.round(truth[:, None] + rng.normal(0, 4, (1000, columns)))
    levels, noise = overscan_levels(counts.astype(np.uint16))
    assert np.std(levels - truth) < 0.45
    assert abs(np.mean(levels - truth)) < 4 * 4 / np.sqrt(1000 * columns)
    assert noise == pytest.approx(4.0, abs=0.5)


def test_cosmic_rays_and_bleeding_in_the_overscan_are_clipped() -> None:
    rng = np.random.default_rng(2)
    clean = np.round(500 + rng.normal(0, 3, (400, 20)))
    dirty = clean.copy()
    dirty[::7, 3] = 60000
    dirty[100, :8] = 5000
    assert np.max(np.abs(overscan_levels(dirty)[0] - overscan_levels(clean)[0])) < 0.6


@given(st.integers(1, 50), st.integers(1, 40), st.floats(0, 60000))
@settings(max_examples=40, deadline=None)
def test_a_constant_overscan_is_its_own_level(rows: int, columns: int, value: float) -> None:
    levels, noise = overscan_levels(np.full((rows, columns), value))
    np.testing.assert_allclose(levels, value, atol=1e-9 * max(value, 1))
    assert noise == 0.0


def test_assembly_undoes_the_flips(instrument) -> None:
    detector = instrument.camera.detectors[0]
    truth = np.arange(SHAPE[0] * SHAPE[1], dtype=float).reshape(SHAPE) % 977
    raw = instrument.raw(np.zeros(SHAPE))
    hdus = {}
    for number, part in enumerate((truth[:48, :64], truth[:48, :63:-1], truth[:47:-1, :64], truth[:47:-1, :63:-1])):
        hdus[number] = np.pad(part, ((0, 0), (0, 16)), constant_values=-1)
    np.testing.assert_array_equal(assemble_image(replace(raw, hdus=hdus), detector), truth)


def test_parallel_overscan_takes_out_what_varies_along_the_row(make_tree) -> None:
    tree = make_tree()
    amplifier = tree["detectors"][0]["amplifiers"][0]
    amplifier |= {"parallel_overscan": "[1:64,49:70]", "overscan": "[65:80,1:70]", "position": "[1:64,1:48]", "hdu": 0}
    tree["detectors"][0] |= {"width": 64, "height": 48, "amplifiers": [amplifier]}
    rng = np.random.default_rng(4)
    slope = np.linspace(0, 12, 64)
    block = 1000 + rng.normal(0, 2, (70, 80))
    block[:, :64] += slope
    block[:48, :64] += 300
    from workers.imaging.exposure import ExposureInfo, RawExposure

    info = ExposureInfo("cam", 1, 0, "r", 6e4, 1.0, 0.0, 0.0, 20230101, "science", "0", "f")
    camera = camera_from_dict(tree)
    exposure = apply_steps(RawExposure(info, {0: block}, {}), camera, CalibrationSet(), IsrConfig(), ("overscan",))
    np.testing.assert_allclose(exposure.image.mean(axis=0), 300, atol=1.5)
    assert abs(exposure.image.mean() - 300) < 0.3


def test_saturation_is_judged_on_raw_counts_and_grown(instrument) -> None:
    raw = instrument.raw(np.full(SHAPE, 100.0))
    hdus = {index: array.copy() for index, array in raw.hdus.items()}
    hdus[3][10, 20] = 60000  # flipped both ways: row 95 - 10, column 127 - 20
    hdus[0][5, 6] = 55000
    exposure = apply_steps(
        replace(raw, hdus=hdus), instrument.camera, CalibrationSet(), IsrConfig(), ("overscan", "saturation")
    )
    saturated = (exposure.mask & int(MaskPlane.SATURATED)) != 0
    rows, columns = np.nonzero(saturated)
    assert (rows.min(), rows.max(), columns.min(), columns.max(), saturated.sum()) == (84, 86, 106, 108, 9)
    suspect = np.argwhere(exposure.mask & int(MaskPlane.SUSPECT))
    assert suspect.tolist() == [[5, 6], [85, 107]]
    assert exposure.metrics["saturatedFraction"] == pytest.approx(1 / raw.hdus[0][:, :64].size / 4)


def test_growth_is_that_of_a_dilation() -> None:
    rng = np.random.default_rng(4)
    for share in (0.0, 0.02, 0.3):
        before = rng.random((30, 40)) < share
        after = np.zeros_like(before)
        after[grown(np.nonzero(before), before.shape)] = True
        np.testing.assert_array_equal(after, binary_dilation(before, np.ones((3, 3), bool)))


def test_dead_flat_pixels_and_defects_are_flagged(instrument) -> None:
    flat = instrument.flat.copy()
    flat[3, 4], flat[5, 6] = 0.0, np.nan
    defects = np.zeros(SHAPE, np.int32)
    defects[:, 50] = int(MaskPlane.BAD)
    masters = CalibrationSet(
        {
            "flat": instrument.calibration("flat", flat),
            "defects": instrument.calibration("defects", np.zeros(SHAPE), mask=defects),
        }
    )
    steps = ("overscan", "gain", "variance", "flat", "defects")
    exposure = apply_steps(instrument.raw(np.full(SHAPE, 500.0)), instrument.camera, masters, IsrConfig(), steps)
    bad = (exposure.mask & int(MaskPlane.BAD)) != 0
    assert bad[3, 4]
    assert bad[5, 6]
    assert bad[:, 50].all()
    assert bad.sum() == 2 + SHAPE[0]
    assert np.isfinite(exposure.image).all()
    assert np.isfinite(exposure.variance).all()
