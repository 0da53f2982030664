"""Masters from frames: they match what the frames were made with, and foreign frames are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.errors import ConfigurationError, DataError
from workers.calibrate.frames import Frames, LazyRaw, RawSource
from workers.calibrate.pipeline import RECIPES, make_master
from workers.imaging.calibration_store import CalibrationStore
from workers.imaging.calibrations import Calibration, CalibrationSet
from workers.imaging.exposure import ExposureInfo, RawExposure
from workers.isr.masters import masters_for
from workers.isr.pipeline import apply_steps
from workers.survey.camera import camera_from_dict
from workers.survey.isr_config import IsrConfig

SHAPE, GAIN, READ_NOISE = (60, 80), 1.5, 6.0
X = np.arange(80)[None, :]
BIAS = 4.0 * np.sin(X / 5.0) + np.zeros(SHAPE)
DARK = 2.0 + 0.5 * np.cos(X / 7.0) + np.zeros(SHAPE)  # electrons per second
FLAT = (1 - ((X - 40) / 120.0) ** 2) * np.random.default_rng(0).normal(1, 0.01, SHAPE)
FLAT /= np.median(FLAT)
CAMERA = camera_from_dict(
    {
        "name": "cam",
        "header": {k: {"value": 1} for k in ("exposure_time", "begin", "ra", "dec")} | {"band": {"value": "r"}},
        "detectors": [
            {
                "id": 0,
                "name": "D",
                "width": 80,
                "height": 60,
                "amplifiers": [
                    {
                        "name": "A",
                        "data": "[1:80,1:60]",
                        "overscan": "[81:100,1:60]",
                        "position": "[1:80,1:60]",
                        "gain": GAIN,
                        "read_noise": READ_NOISE,
                        "saturation": 60000.0,
                    }
                ],
            }
        ],
    }
)


def raw(kind: str, number: int, seconds: float = 0.0, light: float = 0.0, **changes: Any) -> RawExposure:
    rng = np.random.default_rng(1000 + number)
    electrons = rng.poisson(light * FLAT + DARK * seconds)
    counts = np.concatenate([electrons / GAIN + BIAS, np.zeros((60, 20))], axis=1) + 1000
    counts = np.round(counts + rng.normal(0, READ_NOISE / GAIN, counts.shape))
    fields = {
        "instrument": "cam",
        "visit": number,
        "detector": 0,
        "band": "r" if kind in ("flat", "science") else "",
        "midpointMjdTai": 60000.0 + number / 1000,
        "exposureTime": seconds,
        "ra": 0.0,
        "dec": 0.0,
        "night": 20230225,
        "kind": kind,
        "sha256": f"{number:064d}",
        "fileName": f"{kind}{number}.fits",
    }
    info = ExposureInfo(**(fields | changes))  # type: ignore[arg-type]
    return RawExposure(info, {0: np.clip(counts, 0, 65535).astype(np.uint16)}, {})


def later(kind: str, number: int, *args: float) -> LazyRaw:
    return LazyRaw(raw(kind, number, *args).info, lambda: raw(kind, number, *args))


def made(
    kind: str,
    sources: Sequence[RawSource],
    store: CalibrationStore,
    steps: tuple[str, ...] = IsrConfig().steps,
    **changes: float,
) -> Calibration:
    config = IsrConfig()
    recipe = RECIPES.get(kind)
    frames = Frames(
        kind,
        CAMERA,
        sources,
        lambda one, wanted: apply_steps(
            one, CAMERA, masters_for(one.info, CAMERA, store, config, wanted), config, wanted
        ),
        accepted=recipe.accepted if recipe else ("bias",),
        least=recipe.least if recipe else 1,
    )
    master = make_master(frames, steps, **changes)
    store.save(master)
    return master


@pytest.fixture
def store(tmp_path) -> CalibrationStore:
    store = CalibrationStore(tmp_path / "calibrations")
    made("bias", [later("bias", n) for n in range(12)], store)
    made("dark", [later("dark", 20 + n, 100.0) for n in range(10)], store)
    made("flat", [later("flat", 40 + n, 2.0, 30000.0 * (1 + 0.1 * n)) for n in range(8)], store)
    return store


def pulls(image: NDArray[Any], variance: NDArray[Any], truth: NDArray[Any]) -> NDArray[Any]:
    return (image - truth) / np.sqrt(variance)


def test_masters_are_what_the_frames_were_made_with(store) -> None:
    science = raw("science", 90, 30.0, 500.0).info
    masters = store.select(science, ("bias", "dark", "flat"), CAMERA.detectors[0].layout).by_kind
    noise = READ_NOISE / GAIN
    assert np.std(masters["bias"].image - BIAS) == pytest.approx(noise / np.sqrt(12), rel=0.05)
    assert abs(np.mean(masters["bias"].image - BIAS)) < 0.06
    rate = np.sqrt(DARK.mean() * 100 + READ_NOISE**2) / 100 / GAIN
    assert np.std(masters["dark"].image - DARK / GAIN) < 1.1 * np.hypot(rate / np.sqrt(10), noise / 100 / np.sqrt(12))
    assert np.std(masters["flat"].image / FLAT - 1) < 1.1 / np.sqrt(8 * 40500)
    assert np.median(masters["flat"].image) == pytest.approx(1.0, abs=1e-6)
    assert masters["flat"].band == "r"
    assert masters["bias"].inputs == tuple(f"{n:064d}" for n in range(12))
    assert masters["bias"].validFrom == pytest.approx(59999.5)
    assert masters["bias"].metadata["clippedFraction"] < 0.002
    assert masters["bias"].metadata["frames"] == 12


def test_masters_turn_raw_frames_into_true_electrons(store) -> None:
    sky, all_pulls = 1500.0, []
    steps = ("overscan", "saturation", "bias", "dark", "gain", "variance", "flat")
    for number in range(100, 106):
        frame = raw("science", number, 30.0, sky)
        masters = store.select(frame.info, ("bias", "dark", "flat"), CAMERA.detectors[0].layout)
        exposure = apply_steps(frame, CAMERA, masters, IsrConfig(), steps)
        all_pulls.append(pulls(exposure.image, exposure.variance, np.full(SHAPE, sky)))
    assert np.mean(all_pulls) == pytest.approx(0.0, abs=0.05)
    assert np.std(all_pulls) == pytest.approx(1.0, abs=0.03)


def test_same_frames_same_master(store, tmp_path) -> None:
    frames = [raw("bias", n) for n in range(12)]
    again = made("bias", frames, CalibrationStore(tmp_path / "other"))
    assert (store.root / f"{again.id}.fits").exists()


def test_validity_can_be_given(store) -> None:
    frames = [later("bias", n) for n in range(3)]
    master = made("bias", frames, store, valid_from=1.0, valid_to=2.0)
    assert (master.validFrom, master.validTo) == (1.0, 2.0)


def test_steps_of_the_survey_decide_which_masters_are_needed(tmp_path) -> None:
    store = CalibrationStore(tmp_path)
    flats = [later("flat", n, 2.0, 30000.0) for n in range(3)]
    with pytest.raises(ConfigurationError, match="skydelta calibrate bias"):
        made("flat", flats, store)
    master = made("flat", flats, store, steps=("overscan", "gain", "variance"))
    assert np.std(master.image / FLAT - 1) < 0.02


def test_saturated_pixels_do_not_enter(tmp_path) -> None:
    frames = [raw("bias", n) for n in range(4)]
    for frame in frames:
        frame.hdus[0][10, 10] = 65000
    frames[0].hdus[0][30, 30] = 65000
    master = made("bias", frames, CalibrationStore(tmp_path))
    assert master.mask[9:12, 9:12].all()
    assert (master.mask != 0).sum() == 9
    assert np.isfinite(master.image).all()
    assert abs(master.image[30, 30]) < 15


def renamed(frame: RawExposure, **changes: Any) -> RawExposure:
    return replace(frame, info=replace(frame.info, **changes))


def overexposed(number: int) -> RawExposure:
    frame = raw("flat", number, 1.0, 3e5)
    frame.hdus[0][::2] = 64000
    return frame


@pytest.mark.parametrize(
    ("kind", "frames", "match"),
    [
        ("bias", [raw("bias", 0), raw("bias", 1)], "at least 3 frames, 2 were given"),
        ("bias", [raw("bias", 0), raw("bias", 0)], "are the same frame"),
        ("bias", [raw("dark", 0)], "dark0.fits is a dark frame, not a bias"),
        ("bias", [raw("bias", 0), renamed(raw("bias", 1), detector=1)], "has detector 1 and bias0.fits has 0"),
        ("bias", [raw("bias", 0), renamed(raw("bias", 1), instrument="b")], "has instrument 'b'"),
        ("dark", [raw("dark", 0), raw("dark", 1), raw("dark", 2)], "a dark of 0.0 s"),
        ("flat", [raw("flat", n, 1.0, 100.0) for n in range(3)], "too faint"),
        ("flat", [overexposed(n) for n in range(3)], "every pixel of this flat is flagged"),
        ("flat", [raw("flat", 0, 1.0, 3e4), renamed(raw("flat", 1, 1.0, 3e4), band="g")], "has band 'g'"),
    ],
)
def test_frames_that_do_not_belong_are_refused(tmp_path, kind: str, frames: list[RawExposure], match: str) -> None:
    with pytest.raises(DataError, match=match):
        made(kind, frames, CalibrationStore(tmp_path), ("overscan", "saturation", "gain"))
    assert not list(tmp_path.iterdir())


def test_unknown_kind_is_a_configuration_error(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="can't make a 'starlight' from frames; there are bias, dark, "):
        made("starlight", [raw("bias", 0)], CalibrationStore(tmp_path))
    assert CalibrationSet().ids() == {}


def test_what_was_clipped_is_counted_by_frame(tmp_path) -> None:
    frames = [raw("bias", n) for n in range(8)]
    frames[3].hdus[0][5:7, 5:20] = 1500
    master = made("bias", frames, CalibrationStore(tmp_path))
    rejected = dict(zip(master.inputs, master.tables["rejectedPixels"], strict=True))
    assert rejected[f"{3:064d}"] >= 30
    assert all(count < 20 for name, count in rejected.items() if name != f"{3:064d}")
    assert master.metadata["clippedFraction"] == pytest.approx(sum(rejected.values()) / (8 * 60 * 80))
