"""`skydelta check`: every finding is good on a prepared survey, and each failure names what mends it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.command import skydelta
from tests.system.nights import Prepared

EVERYTHING = (
    "configuration", "raw file", "astrometry", "calibrations", "reference", "bus", "database", "blob store",
    "templates", "classifier",
)  # fmt: skip


@pytest.fixture
def survey(tiny_survey: Prepared, tmp_path: Path) -> Path:
    return tiny_survey.copy(tmp_path / "survey")


def test_a_prepared_survey_is_good(survey: Path, tiny_survey: Prepared) -> None:
    done = skydelta("check", "-s", survey, "--raw", survey / tiny_survey.live[0])
    assert (done.code, done.err) == (0, "")
    assert [line[:4] for line in done.out.splitlines()] == ["ok  "] * len(EVERYTHING)
    assert "visit 202602280001:0, band r" in done.out
    assert "WCS from the header: detector centre at 150.1" in done.out


def test_json_says_the_same(survey: Path, tiny_survey: Prepared) -> None:
    findings = skydelta("check", "-s", survey, "--raw", survey / tiny_survey.live[0], "--json").json
    assert [finding["what"] for finding in findings] == list(EVERYTHING)
    assert all(finding["good"] for finding in findings)


@pytest.mark.parametrize(
    ("place", "finding", "fix"),
    [
        ("calibrations", "calibrations", "skydelta calibrate bias"),
        ("reference.fits", "reference", "skydelta reference from-frame"),
        ("templates", "templates", "skydelta templates build"),
        ("calibrations/classifier", "classifier", "skydelta calibrate classifier"),
    ],
)
def test_what_is_missing_names_its_fix(place: str, finding: str, fix: str, survey: Path, tiny_survey: Prepared) -> None:
    path = survey / place
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = skydelta("check", "-s", survey, "--raw", survey / tiny_survey.live[0])
    assert done.code == 3
    failures = [line for line in done.out.splitlines() if line.startswith("FAIL")]
    assert any(line.startswith(f"FAIL  {finding}: ") and fix in line for line in failures)
    assert len(failures) == (2 if place == "calibrations" else 1)  # the classifier lies there as well


def test_a_frame_of_another_camera(survey: Path, tiny_survey: Prepared) -> None:
    camera = survey / "camera.toml"
    camera.write_text(camera.read_text(encoding="utf-8").replace('key = "FILTER"', 'key = "FILTNAM"'), encoding="utf-8")
    done = skydelta("check", "-s", survey, "--raw", survey / tiny_survey.live[0])
    assert done.code == 5
    assert "no card FILTNAM" in done.out
    assert "[header.band]" in done.out


def test_a_frame_without_a_wcs(tiny_survey: Prepared, survey: Path, tmp_path: Path) -> None:
    frame = tmp_path / "no_wcs.fits"
    data = (survey / tiny_survey.live[0]).read_bytes()
    frame.write_bytes(data.replace(b"CTYPE1  = ", b"XTYPE1  = ").replace(b"CTYPE2  = ", b"XTYPE2  = "))
    done = skydelta("check", "-s", survey, "--raw", frame)
    assert done.code == 3
    assert "has no WCS (no CTYPE1)" in done.out
    assert "skydelta reference from-frame" in done.out
