"""survey.toml and camera.toml: what is wrong is told all at once, with place and guess."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigurationError
from workers.imaging.refraction import Band
from workers.survey.camera import Camera, load_camera, parse_section
from workers.survey.config import SurveyConfig, load_survey
from workers.survey.initial import initial_survey_toml

CAMERA = """
name = "cam"
[header]
band = { value = "r" }
begin = { key = "DATE-OBS", format = "isot" }
exposure_time = { key = "EXPTIME" }
ra = { key = "RA" }
dec = { key = "DEC" }
[[detectors]]
id = 0
name = "A"
width = 20
height = 10
[[detectors.amplifiers]]
name = "one"
data = "[1:20,1:10]"
position = "[1:20,1:10]"
gain = 1.5
read_noise = 5
saturation = 60000
"""


@given(st.integers(1, 500), st.integers(0, 500), st.integers(1, 500), st.integers(0, 500))
def test_a_section_is_one_based_and_inclusive(x0, dx, y0, dy):
    rows, columns = parse_section(f"[{x0}:{x0 + dx},{y0}:{y0 + dy}]")
    assert (rows.start, rows.stop) == (y0 - 1, y0 + dy)
    assert (columns.start, columns.stop) == (x0 - 1, x0 + dx)


@pytest.mark.parametrize("text", ["", "[1:2]", "[0:5,1:2]", "[5:1,1:2]", "1:2,3:4", "[a:b,c:d]"])
def test_a_bad_section_is_refused(text):
    with pytest.raises(ValueError, match="section"):
        parse_section(text)


def write(tmp_path, text, name="camera.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_camera_loads(tmp_path):
    camera = load_camera(write(tmp_path, CAMERA))
    assert camera.detector(0).amplifiers[0].gain == 1.5
    with pytest.raises(KeyError, match="no detector 3"):
        camera.detector(3)


def test_every_wrong_key_is_told_at_once_with_a_guess(tmp_path):
    text = CAMERA.replace("gain = 1.5", "gain = -1").replace("[1:20,1:10]", "[20:1,1:10]", 1) + "overscn = 1\n"
    with pytest.raises(ConfigurationError) as caught:
        load_camera(write(tmp_path, text))
    message = str(caught.value)
    assert "camera.toml has 3 wrong entries" in message
    assert "detectors.0.amplifiers.0.gain" in message
    assert "greater than 0" in message
    assert "did you mean 'overscan'?" in message
    assert "[20:1,1:10]" in message


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('position = "[1:20,1:10]"', 'position = "[1:20,2:11]"', "leaves 20x10"),
        ('data = "[1:20,1:10]"', 'data = "[1:19,1:10]"', "differ in shape"),
        ('band = { value = "r" }', 'band = { value = "r", key = "F" }', "exactly one of key and value"),
        ('band = { value = "r" }', "band = {}", "exactly one of key and value"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, old, new, text):
    with pytest.raises(ConfigurationError, match=text):
        load_camera(write(tmp_path, CAMERA.replace(old, new)))


def test_a_camera_may_tell_the_wavelengths_of_its_bands(tmp_path):
    camera = load_camera(write(tmp_path, CAMERA + "[bands.N501]\nwavelength_nm = [498, 504.5]\n"))
    assert camera.passbands == {"N501": Band(498.0, 504.5)}
    assert load_camera(write(tmp_path, CAMERA)).passbands == {}


@pytest.mark.parametrize("given", ["[552, 402]", "[402, 402]", "[0.40, 0.55]", "[402, 5520]"])
def test_wavelengths_in_another_order_or_unit_are_refused(tmp_path, given):
    with pytest.raises(ConfigurationError, match=r"bands\.g.*nanometres between 200 and 2500"):
        load_camera(write(tmp_path, CAMERA + f"[bands.g]\nwavelength_nm = {given}\n"))


def test_detector_ids_must_differ(tmp_path):
    twice = CAMERA + CAMERA[CAMERA.index("[[detectors]]") :]
    with pytest.raises(ConfigurationError, match="ids must differ"):
        load_camera(write(tmp_path, twice))


def test_missing_and_broken_files_name_the_fix(tmp_path):
    with pytest.raises(ConfigurationError, match="skydelta init"):
        load_survey(tmp_path)
    write(tmp_path, "name = ", "survey.toml")
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        load_survey(tmp_path)


def test_the_first_survey_file_loads_with_and_without_its_comments(tmp_path):
    text = initial_survey_toml(name="mine")
    write(tmp_path, text, "survey.toml")
    write(tmp_path, CAMERA)
    survey = load_survey(tmp_path)
    assert survey.config.name == "mine"
    assert survey.archive == tmp_path / "archive"
    lines = [
        line.removeprefix("# ") if " = " in line and "# survey" not in line else line for line in text.splitlines()
    ]
    everything = SurveyConfig.model_validate(tomllib.loads("\n".join(lines)))
    assert everything == survey.config


def test_the_template_window_must_be_ordered():
    with pytest.raises(ValueError, match="before"):
        SurveyConfig.model_validate({"name": "x", "templates": {"begin": 2.0, "end": 1.0, "pixel_scale": 1.0}})


def test_unknown_camera_keys_at_the_top_are_refused():
    with pytest.raises(ValueError, match="Extra inputs"):
        Camera.model_validate({**tomllib.loads(CAMERA), "colour": "red"})
