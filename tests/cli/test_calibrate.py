"""`skydelta calibrate` as an astronomer uses it: nights, periods, quarantine, what an exposure gets, the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.cli.command import skydelta

SIZE, NIGHTS, FRAMES, STEP_AT, JUMP_AT = 64, 24, 6, 12, 5
SURVEY = """name = "nights"
[isr]
steps = ["overscan", "saturation", "bias", "gain", "variance"]
[templates]
begin = 1.0
end = 2.0
pixel_scale = 1.0
"""
CAMERA = f"""name = "cam"
[header]
band = {{ value = "r" }}
begin = {{ key = "MJD", format = "mjd" }}
exposure_time = {{ key = "EXPTIME" }}
ra = {{ value = 150.0 }}
dec = {{ value = 2.0 }}
kind = {{ key = "KIND" }}
[wcs]
scale = 1.0
[[detectors]]
id = 0
name = "D"
width = {SIZE}
height = {SIZE}
[[detectors.amplifiers]]
name = "A"
data = "[1:{SIZE},1:{SIZE}]"
overscan = "[{SIZE + 1}:{SIZE + 32},1:{SIZE}]"
position = "[1:{SIZE},1:{SIZE}]"
gain = 1.0
read_noise = 4.0
saturation = 60000.0
"""


def write(root: Path, name: str, mjd: float, kind: str, level: float, seed: int) -> Path:
    counts = np.random.default_rng(seed).normal(1000.0, 4.0, (SIZE, SIZE + 32))
    counts[:, :SIZE] += level
    hdu = fits.PrimaryHDU(np.round(counts).astype(np.uint16))
    hdu.header["MJD"], hdu.header["KIND"], hdu.header["EXPTIME"] = mjd, kind, 30.0 if kind == "science" else 0.0
    path = root / "archive" / "raw" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    hdu.writeto(path)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four nights of biases: one that jumps by 40 ADU, and a step of 3 ADU in the middle that stays."""
    folder = tmp_path_factory.mktemp("nights")
    (folder / "survey.toml").write_text(SURVEY, encoding="utf-8")
    (folder / "camera.toml").write_text(CAMERA, encoding="utf-8")
    for night in range(NIGHTS):
        level = 40.0 if night == JUMP_AT else 3.0 if night >= STEP_AT else 0.0
        for frame in range(FRAMES):
            mjd = 60700.1 + night + frame / 1000
            write(folder, f"bias_{night:02d}_{frame}.fits", mjd, "bias", level, 100 * night + frame)
    write(folder, "science.fits", 60703.2, "science", 500.0, 9999)
    return folder


def periods(root: Path) -> list[dict[str, object]]:
    return json.loads(skydelta("calibrate", "periods", "bias", "-s", root, "--json").out)  # type: ignore[no-any-return]


def test_the_step_is_dated_and_the_jump_is_left_out(root: Path) -> None:
    first, second = periods(root)
    assert first["begin"] == pytest.approx(60699.6, abs=0.2)
    assert first["end"] == second["begin"] == pytest.approx(60700.1 + STEP_AT - 0.5, abs=0.1)
    assert (first["nights"], second["nights"], second["end"]) == (STEP_AT - 1, NIGHTS - STEP_AT, "on")
    assert str(first["leftOut"]).startswith("20250129 (")
    assert "level" in str(second["reason"])


def test_each_period_has_its_master_and_exposures_get_theirs(root: Path) -> None:
    periods(root)
    made = skydelta("calibrate", "bias", "--periods", "-s", root, "--json")
    assert made.code == 0
    assert "6 frames of 20250129 left out" in made.err
    old, new = json.loads(made.out)
    assert (old["metadata"]["frames"], new["metadata"]["frames"]) == ((STEP_AT - 1) * FRAMES, 12 * FRAMES)
    assert old["validTo"] == new["validFrom"]
    assert old["metadata"]["median"] == pytest.approx(0.0, abs=0.3)
    assert new["metadata"]["median"] == pytest.approx(3.0, abs=0.3)
    assert new["certified"]
    assert "level" in new["reasons"][0]  # it differs, and the period says why
    shown = json.loads(skydelta("calibrate", "show", root / "archive/raw/science.fits", "-s", root, "--json").out)
    assert [(row["id"], row["chosen"]) for row in shown] == [(old["id"], True), (new["id"], False)]
    assert "instead of at 607" in shown[1]["why"]
    page = Path(skydelta("calibrate", "report", "-s", root).out.strip())
    text = page.read_text(encoding="utf-8")
    assert all(name in text for name in (old["id"], new["id"], "20250129"))


def test_a_master_that_changed_without_a_reason_goes_to_quarantine(root: Path) -> None:
    raw = root / "archive" / "raw"
    before = skydelta("calibrate", "bias", *sorted(raw.glob("bias_00_*")), *sorted(raw.glob("bias_01_*")), "-s", root)
    assert before.code == 0
    refused = skydelta("calibrate", "bias", *sorted(raw.glob(f"bias_{JUMP_AT:02d}_*")), "-s", root)
    assert (refused.code, refused.out) == (5, "\n")
    assert "put into quarantine" in refused.err
    (name,) = re.findall(r"(bias-0-all-[0-9a-f]{12}) \(before: ", refused.err)
    assert (root / "calibrations" / "quarantine" / f"{name}.fits").exists()
    science = root / "archive/raw/science.fits"
    assert name not in skydelta("calibrate", "show", science, "-s", root).out
    accepted = skydelta("calibrate", "accept", name, "-s", root)
    assert (accepted.code, Path(accepted.out.strip()).name) == (0, f"{name}.fits")
    assert not list((root / "calibrations" / "quarantine").glob("*.fits"))
    assert name in skydelta("calibrate", "show", science, "-s", root).out


def test_an_exposure_without_a_master_is_told(root: Path, tmp_path: Path) -> None:
    early = write(tmp_path, "early.fits", 60000.0, "science", 500.0, 1)
    done = skydelta("calibrate", "show", early, "-s", root)
    assert done.code == 5
    assert "instead of at 60000" in done.out
    assert "would get no bias" in done.err


def test_without_periods_looked_for_there_are_none(root: Path, tmp_path: Path) -> None:
    for name in ("survey.toml", "camera.toml"):
        (tmp_path / name).write_text((root / name).read_text(encoding="utf-8"), encoding="utf-8")
    done = skydelta("calibrate", "bias", "--periods", root / "archive/raw/bias_00_0.fits", "-s", tmp_path)
    assert done.code == 3
    assert "run `skydelta calibrate periods bias` first" in done.err
    (tmp_path / "interventions.toml").write_text("[[intervention]]\nmjd = 1.0\nraeson = 'x'\n", encoding="utf-8")
    done = skydelta("calibrate", "periods", "bias", root / "archive/raw/bias_00_0.fits", "-s", tmp_path)
    assert done.code == 3
    assert "did you mean 'reason'" in done.err
