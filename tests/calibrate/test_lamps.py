"""Flats of several lamps: one master each, and the one that their weights make up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from schemas.errors import ConfigurationError
from workers.calibrate.flat import combined_lamps
from workers.calibrate.worker import make_masters
from workers.imaging.calibrations import Calibration, make_calibration
from workers.survey.config import load_survey

SIZE = 48
Y, X = np.mgrid[:SIZE, :SIZE]
LAMPS = {"red": 1 + 0.1 * np.sin(X / 9), "blue": 1 - 0.1 * np.cos(Y / 7)}

SURVEY = """name = "lamps"
[isr]
steps = ["saturation", "gain", "variance"]
[calibrate]
lamp_weights = { r = { red = 3.0, blue = 1.0 } }
[templates]
begin = 1.0
end = 2.0
pixel_scale = 1.0
"""
CAMERA = f"""name = "cam"
[header]
band = {{ value = "r" }}
begin = {{ key = "MJD", format = "mjd" }}
exposure_time = {{ value = 2.0 }}
ra = {{ value = 0.0 }}
dec = {{ value = 0.0 }}
kind = {{ value = "flat" }}
lamp = {{ key = "LED" }}
[[detectors]]
id = 0
name = "D"
width = {SIZE}
height = {SIZE}
[[detectors.amplifiers]]
name = "A"
data = "[1:{SIZE},1:{SIZE}]"
position = "[1:{SIZE},1:{SIZE}]"
gain = 1.0
read_noise = 5.0
saturation = 60000.0
"""


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "survey.toml").write_text(SURVEY)
    (tmp_path / "camera.toml").write_text(CAMERA)
    (tmp_path / "archive" / "raw").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for number in range(8):
        lamp = ("red", "blue")[number % 2]
        hdu = fits.PrimaryHDU(rng.poisson(30000.0 * LAMPS[lamp]).astype(np.uint16))
        hdu.header["MJD"], hdu.header["LED"] = 60000.0 + number / 1000, lamp
        hdu.writeto(tmp_path / "archive" / "raw" / f"flat{number}.fits")
    return tmp_path


def test_each_lamp_has_its_flat_and_the_weights_make_one_of_all(root) -> None:
    told: list[str] = []
    masters = [one.master for one in make_masters("flat", [], load_survey(root), told.append)]
    made = {one.lamp: one for one in masters}
    assert told == ["flat of detector 0 r lamp blue from 4 frames", "flat of detector 0 r lamp red from 4 frames"]
    for lamp, truth in LAMPS.items():
        pulls = (made[lamp].image - truth / np.median(truth)) / np.sqrt(made[lamp].variance + 1e-12)
        assert np.median(np.abs(pulls)) < 1.3
    normal = {lamp: truth / np.median(truth) for lamp, truth in LAMPS.items()}
    truth = 0.75 * normal["red"] + 0.25 * normal["blue"]
    truth /= np.median(truth)
    assert np.std(made[""].image / truth - 1) < 0.003
    assert np.std(made[""].image / truth - 1) == pytest.approx(np.sqrt(np.median(made[""].variance)), rel=0.3)
    assert set(made[""].inputs) == {*made["red"].inputs, *made["blue"].inputs}
    assert made[""].metadata["weight red"] == 0.75
    assert len({one.id for one in made.values()}) == 3


def flat(lamp: str) -> Calibration:
    planes = {"image": np.ones((4, 4)), "variance": np.ones((4, 4)), "mask": np.zeros((4, 4), np.int32)}
    return make_calibration("flat", instrument="cam", detector=0, band="r", lamp=lamp, **planes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("weights", "match"),
    [({"red": 1.0, "green": 1.0}, "no flats of green; the lamps seen are .'red'."), ({"red": 0.0}, "they sum to 0")],
)
def test_weights_that_can_not_be_are_refused(weights: dict[str, float], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        combined_lamps({"red": flat("red")}, weights)
