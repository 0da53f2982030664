"""Signature removal as a whole: the true electrons come back, with the right errors, or a clear refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from schemas.errors import ConfigurationError, DataError
from workers.imaging.calibrations import CalibrationSet
from workers.imaging.exposure import RawExposure
from workers.imaging.masks import MaskPlane
from workers.isr.pipeline import STEPS, apply_steps, needed_kinds, remove_signature
from workers.survey.camera import camera_from_dict
from workers.survey.config import IsrConfig

SHAPE = (96, 128)
BARE = IsrConfig(steps=("overscan", "saturation", "gain", "variance"))


def sky_of(level: float = 2000.0) -> np.ndarray:
    """A flat sky with one bright round source."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return level + 30000.0 * np.exp(-((x - 32) ** 2 + (y - 22) ** 2) / 8.0)


def test_true_electrons_come_back_with_unit_pulls(instrument) -> None:
    sky, pulls = sky_of(), []
    for seed in range(60):
        exposure = remove_signature(
            instrument.raw(sky, seed), instrument.camera, instrument.calibrations(), IsrConfig()
        )
        pulls.append((exposure.image - sky) / np.sqrt(exposure.variance))
    assert exposure.unit == "electron"
    # a pixel's own charge as its variance would pull the mean down by half a sigma over sqrt(N): 0.011
    assert np.mean(pulls) == pytest.approx(0.0, abs=0.005)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.01)
    assert not (exposure.mask & int(MaskPlane.CR))[18:26, 28:36].any()


def test_noise_of_the_masters_is_in_the_variance(instrument) -> None:
    rng = np.random.default_rng(3)
    noisy, sky, pulls = {}, np.full(SHAPE, 20000.0), []
    for kind, sigma in (("bias", 40.0), ("dark", 2.0), ("flat", 0.02)):
        exact = instrument.calibrations().by_kind[kind]
        image = exact.image + rng.normal(0, sigma, SHAPE)
        noisy[kind] = instrument.calibration(kind, image, variance=np.full(SHAPE, sigma**2))
    for seed in range(2):
        steps = tuple(name for name in IsrConfig().steps if name not in ("defects", "cosmic_rays"))
        exposure = apply_steps(instrument.raw(sky, seed), instrument.camera, CalibrationSet(noisy), IsrConfig(), steps)
        pulls.append((exposure.image - sky) / np.sqrt(exposure.variance))
    assert np.mean(pulls) == pytest.approx(0.0, abs=0.05)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.03)


def test_wcs_metrics_and_provenance(instrument) -> None:
    masters = instrument.calibrations()
    exposure = remove_signature(instrument.raw(sky_of()), instrument.camera, masters, IsrConfig())
    ra, dec = exposure.need_wcs().pixel_to_sky(63.5, 47.5)
    assert (float(ra), float(dec)) == pytest.approx((150.0, 2.0), abs=1e-9)
    assert exposure.provenance == masters.ids()
    metrics = exposure.metrics
    assert metrics["skyMedian"] == pytest.approx(2000.0, abs=5)
    assert metrics["overscanLevel_B"] == pytest.approx(1050 + 8 * np.mean(np.sin(np.linspace(0, 3, 48))), abs=0.3)
    assert metrics["overscanNoise_C"] == pytest.approx(7.0 / 1.4, abs=0.55)  # MAD of whole counts: steps of 0.74
    assert metrics["saturatedFraction"] == 0.0
    assert metrics["cosmicRayCount"] <= 1.0


def test_input_is_not_changed(instrument) -> None:
    raw = instrument.raw(sky_of())
    before = {index: array.copy() for index, array in raw.hdus.items()}
    first = remove_signature(raw, instrument.camera, instrument.calibrations(), IsrConfig())
    second = remove_signature(raw, instrument.camera, instrument.calibrations(), IsrConfig())
    np.testing.assert_array_equal(first.image, second.image)
    for index, array in before.items():
        np.testing.assert_array_equal(raw.hdus[index], array)


def test_pointing_replaces_a_missing_wcs(instrument, make_tree) -> None:
    camera = camera_from_dict(make_tree(wcs={"scale": 0.36}))
    raw = replace(instrument.raw(sky_of()), header={})
    wcs = remove_signature(raw, camera, CalibrationSet(), BARE).need_wcs()
    ra, dec = wcs.pixel_to_sky(0.0, 0.0)
    assert (float(ra), float(dec)) == pytest.approx((150.0, 2.0), abs=1e-9)
    assert wcs.pixel_scale(0, 0) == pytest.approx(0.36, rel=1e-6)


def without_gain(tree: dict[str, Any]) -> dict[str, Any]:
    for amplifier in tree["detectors"][0]["amplifiers"]:
        del amplifier["gain"]
    return tree


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda raw: replace(raw, header={}), DataError, r"skydelta check.*skydelta reference from-frame"),
        (lambda raw: replace(raw, header={**raw.header, "CRVAL1": float("nan")}), DataError, "CRVAL1 is nan"),
        (lambda raw: replace(raw, header={**raw.header, "CD1_1": float("nan")}), DataError, "CD1_1 is nan"),
        (lambda raw: replace(raw, header={**raw.header, "CRPIX1": "left"}), DataError, "'left'"),
        (lambda raw: replace(raw, info=replace(raw.info, kind="bias")), DataError, "skydelta calibrate bias"),
        (lambda raw: replace(raw, hdus={k: np.full_like(v, 7) for k, v in raw.hdus.items()}), DataError, "empty"),
        (
            lambda raw: replace(raw, hdus={k: np.full(v.shape, np.nan) for k, v in raw.hdus.items()}),
            DataError,
            "no pixel holds a number",
        ),
    ],
)
def test_unusable_exposures_are_refused(instrument, change, error, match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        remove_signature(change(instrument.raw(sky_of())), instrument.camera, CalibrationSet(), BARE)
    assert "raw.fits" in str(caught.value)


def test_gain_comes_from_the_header_or_is_an_error(instrument, make_tree) -> None:
    raw = instrument.raw(sky_of())
    tree = without_gain(make_tree())
    with pytest.raises(DataError, match=r"raw\.fits: no gain for amplifier A .*names no header key"):
        remove_signature(raw, camera_from_dict(tree), CalibrationSet(), BARE)
    tree["header"]["gain"] = {"key": "EGAIN"}
    for cards, match in (({}, "has no EGAIN"), ({"EGAIN": "x"}, "EGAIN = 'x'"), ({"EGAIN": -1.0}, "EGAIN = -1")):
        with pytest.raises(DataError, match=match):
            remove_signature(
                replace(raw, header={**raw.header, **cards}), camera_from_dict(tree), CalibrationSet(), BARE
            )
    twice = replace(raw, header={**raw.header, "EGAIN": 3.0})
    exposure = remove_signature(twice, camera_from_dict(tree), CalibrationSet(), BARE)
    exact = remove_signature(raw, instrument.camera, CalibrationSet(), BARE)
    np.testing.assert_allclose(exposure.image[:48, :64], 2.0 * exact.image[:48, :64], rtol=1e-5)


@pytest.mark.parametrize(
    ("steps", "match"),
    [
        (("overscan", "gain", "variance", "starlight"), "'starlight'; the known steps are overscan, saturation"),
        (("overscan", "variance"), "lacks gain"),
        (("overscan", "gain"), "lacks variance"),
        (("gain", "overscan", "variance"), "'overscan' works in adu"),
        (("overscan", "variance", "gain"), "'variance' works in electron"),
        (("overscan", "gain", "gain", "variance"), "gain more than once"),
        (("overscan", "bias", "gain", "variance"), "needs a bias"),
    ],
)
def test_steps_that_cannot_work_are_configuration_errors(instrument, steps: tuple[str, ...], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        remove_signature(instrument.raw(sky_of()), instrument.camera, CalibrationSet(), IsrConfig(steps=steps))


def test_overscan_step_without_a_section_is_named(instrument, make_tree) -> None:
    tree = make_tree()
    del tree["detectors"][0]["amplifiers"][2]["overscan"]
    with pytest.raises(ConfigurationError, match="amplifier C of camera cam has no overscan"):
        remove_signature(instrument.raw(sky_of()), camera_from_dict(tree), CalibrationSet(), BARE)


def test_needed_kinds_follow_from_the_steps() -> None:
    assert needed_kinds(IsrConfig()) == ("bias", "dark", "flat", "defects")
    assert needed_kinds(BARE) == ()
    assert set(IsrConfig().steps) <= set(STEPS)


def test_wrong_shape_or_detector_of_a_master_is_an_error(instrument) -> None:
    small = instrument.calibration("bias", np.zeros((10, 10)))
    other = instrument.calibration("bias", np.zeros(SHAPE), detector=1)
    steps = IsrConfig(steps=("overscan", "bias", "gain", "variance"))
    for master, match in ((small, "shape"), (other, "detector 1 instead of 0")):
        with pytest.raises(ConfigurationError, match=match):
            remove_signature(instrument.raw(sky_of()), instrument.camera, CalibrationSet({"bias": master}), steps)


def test_nan_pixels_are_flagged_and_finite(instrument) -> None:
    raw = instrument.raw(sky_of())
    hdus = {index: array.astype(np.float32) for index, array in raw.hdus.items()}
    hdus[1][5, 7] = np.nan  # flipped in x: column 127 - 7
    exposure = remove_signature(RawExposure(raw.info, hdus, raw.header), instrument.camera, CalibrationSet(), BARE)
    assert exposure.mask[5, 127 - 7] & int(MaskPlane.NO_DATA)
    assert (exposure.mask != 0).sum() == 1
    assert np.isfinite(exposure.image).all()
