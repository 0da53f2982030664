"""`skydelta init` writes what `load_survey` reads, and never over what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from tests.cli.command import skydelta
from workers.cli.init import example_cameras
from workers.survey.config import SurveyConfig, load_survey

CAMERAS = sorted(example_cameras())


def keys(config: BaseModel) -> list[str]:
    """Every key of a configuration, those of the tables inside it among them."""
    found = []
    for name, value in config:
        found += keys(value) if isinstance(value, BaseModel) else [name]
    return found


def test_the_first_survey_has_the_defaults(tmp_path: Path) -> None:
    done = skydelta("init", tmp_path / "night-sky")
    assert done.code == 0
    assert done.out.split() == [str(tmp_path / "night-sky" / name) for name in ("survey.toml", "camera.toml")]
    assert "skydelta check" in done.err
    survey = load_survey(tmp_path / "night-sky")
    templates = {"pixel_scale": 1.0}  # with a window that moves
    assert survey.config == SurveyConfig.model_validate({"name": "night-sky", "templates": templates})
    assert survey.archive.is_dir()


def test_every_commented_default_may_be_uncommented(tmp_path: Path) -> None:
    skydelta("init", tmp_path)
    path = tmp_path / "survey.toml"
    before = load_survey(tmp_path).config
    text = path.read_text(encoding="utf-8")
    uncommented, count = re.subn(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    absent = text.count(" is not set")
    assert count == len(keys(before)) - 2 - absent  # name and pixel_scale are no comments
    path.write_text(uncommented, encoding="utf-8")
    assert load_survey(tmp_path).config == before


def test_every_key_stands_in_the_first_file(tmp_path: Path) -> None:
    skydelta("init", tmp_path)
    text = (tmp_path / "survey.toml").read_text(encoding="utf-8")
    for key in keys(load_survey(tmp_path).config):
        assert re.search(rf"^(# )?{key} (=|is not set)", text, re.MULTILINE)


@pytest.mark.parametrize("camera", CAMERAS)
def test_every_example_camera_loads(camera: str, tmp_path: Path) -> None:
    assert skydelta("init", tmp_path, "--camera", camera).code == 0
    loaded = load_survey(tmp_path).camera
    assert loaded.detectors
    assert all(amplifier.read_noise > 0 for detector in loaded.detectors for amplifier in detector.amplifiers)


def test_the_examples_are_listed() -> None:
    done = skydelta("init", "--list", "anywhere")
    assert (done.code, done.out.split()) == (0, CAMERAS)
    assert {"generic-ccd", "starcluster-orion", "eso085-apogee"} <= set(CAMERAS)


@pytest.mark.parametrize("name", ["survey.toml", "camera.toml"])
def test_nothing_is_overwritten(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    done = skydelta("init", tmp_path)
    assert (done.code, done.out) == (3, "")
    assert name in done.err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"
