"""`skydelta catalogue`: calibrated exposures in, FITS tables out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.characterize.catalogue_scenes import catalogue_scene
from tests.cli.command import skydelta
from workers.characterize.catalogue_file import read_catalogue
from workers.imaging.fits import write_exposure


@pytest.fixture(scope="module")
def calexp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calexps") / "calexp.fits"
    write_exposure(path, catalogue_scene(3).exposure)
    return path


def test_a_table_beside_the_file_and_a_line_about_it(calexp: Path) -> None:
    done = skydelta("catalogue", calexp)
    assert done.code == 0, done.err
    path = calexp.parent / "sim-2023022500007-003.catalogue.fits"
    rows, header = read_catalogue(path)
    assert len(rows) > 200
    assert done.out.startswith(f"{path} {len(rows)} sources, ")
    assert header["THRESH"] == 5.0


def test_json_folder_and_threshold(calexp: Path, tmp_path: Path) -> None:
    done = skydelta("catalogue", calexp, "-o", tmp_path / "out", "--threshold", 50, "--json")
    assert done.code == 0, done.err
    (told,) = done.json
    rows, header = read_catalogue(Path(told["catalogue"]))
    assert Path(told["catalogue"]).parent == tmp_path / "out"
    assert told["sources"] == len(rows)
    assert rows["detectionSnr"].min() > 50.0
    assert header["THRESH"] == 50.0


def test_a_bad_file_is_named_and_the_others_are_done(calexp: Path, tmp_path: Path) -> None:
    bad, raw = tmp_path / "bad.fits", tmp_path / "electrons.fits"
    bad.write_bytes(b"SIMPLE")
    write_exposure(raw, catalogue_scene(3).exposure.replaced(unit="electron"))
    done = skydelta("catalogue", bad, raw, calexp, "-o", tmp_path / "out")
    assert done.code == 5
    assert "bad.fits" in done.err
    assert "not nJy" in done.err
    assert "2 of 3 exposures" in done.err
    assert len(list((tmp_path / "out").iterdir())) == 1
