"""Nightly statistics: right and with honest errors against frames whose truth is known; the record survives JSON."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from schemas.errors import DataError
from workers.calibrate.frames import Frames
from workers.calibrate.night_families import clipped_mean
from workers.calibrate.nightly import measure_nights, night_statistics, nights_from_json, nights_to_json
from workers.imaging.calibrations import CalibrationSet
from workers.imaging.exposure import ExposureInfo
from workers.isr.pipeline import apply_steps
from workers.simulate.calibration_year import CalibrationYear, bias_frames, flat_frames, survey_of
from workers.simulate.camera import make_camera
from workers.simulate.settings import DetectorSettings
from workers.survey.isr_config import IsrConfig

SMALL = CalibrationYear(detector=DetectorSettings(width=128, height=128, count=1, overscan=32, bad_columns=0))
CAMERA = make_camera(survey_of(SMALL))
DETECTOR = CAMERA.detector(0)


def infos(count: int, kind: str = "bias", night: int = 20260101, time: float = 0.0) -> list[ExposureInfo]:
    fields = {"instrument": "x", "detector": 0, "band": "r", "ra": 0.0, "dec": 0.0, "kind": kind, "night": night}
    return [
        ExposureInfo(
            visit=n,
            midpointMjdTai=61000.5 + n / 1e3,
            exposureTime=time,
            sha256=f"{night}{n:04d}",
            fileName=f"{kind}{n}.fits",
            **fields,
        )
        for n in range(count)
    ]


def noise_frames(seed: int, count: int, noise: float = 4.0) -> np.ndarray:
    """Bias frames (n, 128, 128): pixel noise, and a level of each amplifier that scatters by 0.1 ADU per frame."""
    rng = np.random.default_rng(seed)
    frames = rng.normal(0, noise, (count, 128, 128)).astype(np.float32)
    frames += np.kron(rng.normal(0, 0.1, (count, 2, 2)), np.ones((64, 64))).astype(np.float32)
    return frames


def test_levels_have_honest_errors() -> None:
    pulls, whole = [], []
    for seed in range(60):
        level = night_statistics(noise_frames(seed, 8), infos(8), DETECTOR).families["level"]
        assert level.names == ("A0", "A1", "A2", "A3", "detector")
        pulls += list(level.values[:4] / level.errors[:4])
        whole.append(level.values[4])
    assert np.mean(pulls) == pytest.approx(0.0, abs=0.2)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.12)
    assert np.std(whole) == pytest.approx(np.hypot(4 / 128, 0.05) / np.sqrt(8), rel=0.3)


def test_noise_blocks_gradient_and_profiles() -> None:
    x = np.linspace(-1, 1, 128, dtype=np.float32)[None, None, :]
    frames = noise_frames(1, 12) + 2.0 * x
    frames[:, 20:60, 30] += 3.0
    frames[:, 100, 64:] += 2.0
    families = night_statistics(frames, infos(12), DETECTOR).families
    noise = families["noise"]
    assert np.all(np.abs(noise.values - 4.0) < 5 * noise.errors)
    assert families["gradient"].names == ("x", "y")
    assert abs(families["gradient"].values[1]) < 5 * families["gradient"].errors[1]
    column, row = families["column"], families["row"]
    assert column.names[int(np.argmax(column.values))] == "A0/30"
    assert column.values.max() == pytest.approx(3.0 * 40 / 64, abs=5 * column.errors.max())
    assert row.names[int(np.argmax(row.values))] == "A3/100"
    block = families["block"]
    assert len(block.names) == 64
    assert block.names[0] == "A0/8,8"
    assert np.ptp(block.values) == pytest.approx(2.0 * 48 / 64, abs=0.3)  # within an amplifier


def test_cosmic_rays_and_bad_pixels_do_not_matter() -> None:
    clean = noise_frames(2, 10)
    dirty = clean.copy()
    rng = np.random.default_rng(3)
    dirty[rng.random(dirty.shape) < 0.002] += 5000.0
    dirty[:, 5, 5], dirty[0, 9:12] = np.nan, np.nan
    one = night_statistics(clean, infos(10), DETECTOR).families
    two = night_statistics(dirty, infos(10), DETECTOR).families
    for name in one:
        assert np.all(np.isfinite(two[name].values))
        assert np.abs(two[name].values - one[name].values).max() < 5 * np.nanmax(one[name].errors), name


def test_a_flat_is_relative_and_the_lamp_apart() -> None:
    rng = np.random.default_rng(4)
    response = np.ones((128, 128))
    response[64:, :64] = 1.01
    lamp = 20000 * (1 + 0.02 * rng.standard_normal((6, 1, 1)))
    frames = (response * lamp + 100 * rng.standard_normal((6, 128, 128))).astype(np.float32)
    families = night_statistics(frames, infos(6, "flat", time=5.0), DETECTOR, lamp="led1").families
    level = families["level"]
    assert level.names == ("A0", "A1", "A2", "A3")
    truth = np.array([1, 1, 1.01, 1]) / 1.0025
    assert np.all(np.abs(level.values - truth) < 6 * level.errors)
    assert level.errors.max() < 1e-4
    assert families["lamp"].values[0] == pytest.approx(4000, rel=0.03)
    assert "noise" not in families


def test_a_dark_is_a_rate_with_hot_pixels() -> None:
    rng = np.random.default_rng(5)
    frames = (30.0 + rng.normal(0, 4, (5, 128, 128))).astype(np.float32)
    frames[:, 10:13, 70] += 3000.0
    families = night_statistics(frames, infos(5, "dark", time=300.0), DETECTOR).families
    assert families["level"].values[4] == pytest.approx(0.1, abs=1e-3)
    assert list(families["hot"].values) == [0, 3, 0, 0]


def test_nights_of_frames_through_the_steps() -> None:
    """Frames of two nights as the command reads them: grouped by night, overscan off, in order."""
    raws = [raw for day in (4, 3) for raw in bias_frames(SMALL, day, 4)]

    def reduce(raw, steps):
        return apply_steps(raw, CAMERA, CalibrationSet(), IsrConfig(), steps)

    frames = Frames("bias", CAMERA, raws, reduce, accepted=("bias",))
    first, second = measure_nights(frames)
    assert (first.night, second.night) == (20260104, 20260105)
    assert first.frames == second.frames == 4
    assert first.begin < first.end < second.begin
    assert np.abs(first.families["level"].values).max() < 2.0  # 1000 ADU without the overscan step
    plain = measure_nights(frames, survey_steps=("bias",))
    assert plain[0].families["level"].values.min() > 900
    assert nights_to_json([second, first]) == nights_to_json([first, second])
    [flat] = measure_nights(Frames("flat", CAMERA, flat_frames(SMALL, 1, 3), reduce_without, accepted=("flat",)))
    assert flat.band == "r"
    assert flat.families["level"].values == pytest.approx(1.0, abs=0.05)


def reduce_without(raw, steps):
    wanted = tuple(name for name in steps if name not in ("bias", "dark"))
    return apply_steps(raw, CAMERA, CalibrationSet(), IsrConfig(), wanted)


def test_one_frame_is_enough_but_has_no_error() -> None:
    families = night_statistics(noise_frames(6, 1), infos(1), DETECTOR).families
    assert np.isnan(families["level"].errors).all()
    assert "noise" not in families


def test_the_record_survives_json() -> None:
    night = night_statistics(noise_frames(7, 3), infos(3), DETECTOR)
    text = nights_to_json([night])
    [back] = nights_from_json(text, "file")
    assert nights_to_json([back]) == text
    assert back.group == night.group
    assert back.inputs == night.inputs
    for name, family in night.families.items():
        np.testing.assert_allclose(back.families[name].values, family.values, rtol=1e-6)
    assert nights_from_json(nights_to_json([]), "file") == []
    for broken in ("{}", "[1]", "{", text.replace('"night"', '"day"'), text.replace('"errors":[', '"errors":[1,')):
        with pytest.raises(DataError, match="file.*: no nightly statistics"):
            nights_from_json(broken, "file")


def test_what_is_refused() -> None:
    frames = noise_frames(8, 2)
    with pytest.raises(DataError, match="one night, kind, detector and band"):
        night_statistics(frames, [infos(1)[0], infos(1, night=20260102)[0]], DETECTOR)
    with pytest.raises(DataError, match="science frame"):
        night_statistics(frames, [replace(info, kind="science") for info in infos(2)], DETECTOR)
    with pytest.raises(DataError, match="exposed 0.0 s"):
        night_statistics(frames, infos(2, "dark"), DETECTOR)
    with pytest.raises(DataError, match="level is not above 0"):
        night_statistics(frames - 50, infos(2, "flat", time=5.0), DETECTOR)


def test_clipped_mean() -> None:
    values = np.random.default_rng(9).normal(7.0, 2.0, 20000)
    values[:100] = 1e6
    values[100] = np.nan
    mean, scatter, kept = clipped_mean(values)
    assert mean == pytest.approx(7.0, abs=0.05)
    assert scatter == pytest.approx(2.0, rel=0.02)
    assert kept == pytest.approx(19899, abs=2)
    assert clipped_mean(np.full(5, 3.0)) == (3.0, 0.0, 5)
    assert np.isnan(clipped_mean(np.full(3, np.nan))[0])
