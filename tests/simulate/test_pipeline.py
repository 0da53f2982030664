from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time

from schemas.errors import ConfigurationError
from workers.imaging.wcs import SkyWcs
from workers.simulate import TINY, SimulatedSurvey, SurveyFiles, write_survey
from workers.simulate.cadence import plan_visits
from workers.simulate.camera import make_camera
from workers.survey import load_survey

SMALL = replace(
    TINY,
    bands=("g", "r"),
    detectors=replace(TINY.detectors, width=96, height=96, count=2),
    cadence=replace(TINY.cadence, archive=2, recent=1, live=2, biases=1, darks=1, flats=1),
)


def _digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[SurveyFiles, list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    root = tmp_path_factory.mktemp("survey")
    return write_survey(root, SMALL, progress=lambda done, total: seen.append((done, total))), seen


def test_same_settings_same_bytes_with_any_number_of_workers(written, tmp_path):
    files, _ = written
    write_survey(tmp_path, SMALL, workers=2)
    assert _digests(tmp_path) == _digests(files.root)


def test_another_seed_gives_other_pixels(written, tmp_path):
    files, _ = written
    other = write_survey(tmp_path, replace(SMALL, seed=SMALL.seed + 1))
    assert {p.name for p in other.live} == {p.name for p in files.live}
    for one, two in zip(files.live, other.live, strict=True):
        assert one.read_bytes() != two.read_bytes()


def test_files_by_role(written):
    files, seen = written
    frames = [*files.archive, *files.recent, *files.live, *(p for kind in files.calibration.values() for p in kind)]
    assert len(frames) == len(set(frames)) == len(plan_visits(SMALL)) * 2 == len(seen)
    assert seen[-1] == (len(frames), len(frames))
    assert all(path.is_file() for path in [*frames, *files.truth, files.reference, files.objects])
    assert {kind: len(paths) for kind, paths in files.calibration.items()} == {"bias": 2, "dark": 2, "flat": 4}
    assert (len(files.archive), len(files.recent), len(files.live)) == (8, 4, 8)
    assert len(files.truth) == 20
    assert len(list((files.root / "archive" / "raw").rglob("*.fits"))) == len(frames)


def test_survey_and_camera_load(written):
    files, _ = written
    survey = load_survey(files.root)
    assert survey.camera == make_camera(SMALL)
    window = survey.config.templates
    epochs = {
        role: [v.midpoint for v in plan_visits(SMALL) if v.role == role] for role in ("archive", "recent", "live")
    }
    assert window.begin < min(epochs["archive"]) < max(epochs["archive"]) < window.end
    assert window.end < min(epochs["recent"] + epochs["live"])
    assert window.pixel_scale == SMALL.optics.pixel_scale


def test_headers_carry_what_the_header_map_names(written):
    files, _ = written
    camera = load_survey(files.root).camera
    visits = {visit.number: visit for visit in plan_visits(SMALL)}
    for path in (*files.live, *files.calibration["bias"]):
        header = fits.getheader(path)
        names = set(type(camera.header).model_fields) - {"gain", "lamp"}
        keys = [getattr(camera.header, name).key for name in names]
        assert all(key in header for key in keys)
        visit = visits[header["EXPID"]]
        assert Time(header["DATE-OBS"], format="isot", scale="utc").tai.mjd == pytest.approx(visit.begin, abs=1e-10)
        assert path.parent.name == str(visit.night)
    header = fits.getheader(files.live[0])
    centre = SkyWcs(header).pixel_to_sky(header["CRPIX1"] - 1, header["CRPIX2"] - 1)
    np.testing.assert_allclose(centre, (header["RA"], header["DEC"]), atol=1e-9)
    assert camera.header.kind.map[header["IMAGETYP"]] == "science"
    assert fits.getdata(files.live[0]).dtype == np.uint16


def test_truth_tables_name_their_exposure(written):
    files, _ = written
    table = Table.read(files.truth[0])
    assert files.truth[0].name == f"{table.meta['VISIT']}_{table.meta['DETECTOR']}.fits"
    assert {"id", "kind", "x", "y", "fluxChange", "fluxErr", "snr", "nearSaturated", "onDefect"} <= set(table.colnames)


def test_reference_catalogue_has_every_band(written):
    files, _ = written
    table = Table.read(files.reference)
    assert {"ra", "dec", "flux_g", "flux_g_err", "flux_r", "flux_r_err"} <= set(table.colnames)


def test_impossible_settings_are_named():
    with pytest.raises(ConfigurationError, match="knows"):
        SimulatedSurvey(bands=("x",))
    with pytest.raises(ConfigurationError, match="split"):
        replace(TINY, detectors=replace(TINY.detectors, width=321))
