"""The stage: what refraction makes of its sources, with a site and without; what its messages say of the template."""

from __future__ import annotations

import io
from dataclasses import replace

import fastavro
import numpy as np
import pytest
from astropy.table import Table

import schemas
from schemas import rows_to_records
from schemas.errors import ConfigurationError
from stream.blobs import BlobStore
from tests.subtract.dcr_pictures import SITE, picture
from workers.items import CalexpItem, decode, encode, sources_record
from workers.subtract import worker
from workers.subtract.dcr import dcr_of
from workers.subtract.pipeline import subtract
from workers.subtract.worker import SubtractStage
from workers.survey.camera import camera_from_dict
from workers.survey.config import SubtractConfig, Survey, SurveyConfig
from workers.templates.match import TemplateMatch
from workers.templates.store import TemplateStore

AMPLIFIER = {"name": "A", "data": "[1:640,1:640]", "position": "[1:640,1:640]", "read_noise": 5, "saturation": 6e4}
CAMERA = {
    "name": "sim",
    "header": {name: {"key": name.upper()} for name in ("band", "begin", "exposure_time", "ra", "dec")},
    "detectors": [{"id": 0, "name": "A", "width": 640, "height": 640, "amplifiers": [AMPLIFIER]}],
}


def survey(root, site=SITE, bands=None, **dcr):
    camera = CAMERA | ({} if site is None else {"site": site.model_dump()}) | {"bands": bands or {}}
    tables = {"name": "s", "templates": {"begin": 6e4, "end": 6.03e4, "pixel_scale": 1.0}, "subtract": {"dcr": dcr}}
    return Survey(root=root, config=SurveyConfig.model_validate(tables), camera=camera_from_dict(camera))


@pytest.fixture(scope="module")
def made():
    return picture("g", 3)


@pytest.fixture(scope="module")
def bare(made):
    """The subtraction, which knows nothing of refraction."""
    return subtract(
        made.science,
        made.template,
        SubtractConfig(),
    )


@pytest.fixture
def run(made, bare, monkeypatch, tmp_path):
    """Run the stage of a survey on the picture; it finds `made.template`."""
    first, last = made.inputs[0][0], made.inputs[-1][0]
    match = TemplateMatch(made.template, "T1", "20240101-1", ("C1",), first, last, 3, 50.0, 1.0, made.inputs)
    monkeypatch.setattr(worker, "template_for", lambda *_: match)
    monkeypatch.setattr(worker, "subtract", lambda *_: bare)

    def go(settings, reference=None, science=made.science):
        stage = SubtractStage(settings, TemplateStore(tmp_path / "templates"), reference)
        return stage.process(CalexpItem(science, 7))

    return go


def test_a_site_gives_shifts_and_flags_with_a_catalogue_and_without(run, made, bare, tmp_path):
    for reference in (made.reference, None):
        item = run(survey(tmp_path), reference)
        told = dcr_of(bare.sources, bare.difference, made.inputs, SITE, {}, reference)
        np.testing.assert_array_equal(item.sources["dcrShift"], told["dcrShift"].astype("f4"))
        np.testing.assert_array_equal(item.sources["dcrDipole"], told["dcrDipole"])
        assert item.metrics["nDcrDipoles"] == item.sources["dcrDipole"].sum() >= 4
        for name in bare.sources.dtype.names:
            if not name.startswith("dcr"):
                np.testing.assert_array_equal(item.sources[name], bare.sources[name])
    assert not bare.sources["dcrDipole"].any()  # what was given stays as it was


def test_without_a_site_the_shift_is_null_and_no_flag_is_set(run, made, tmp_path):
    item = run(survey(tmp_path, site=None), made.reference)
    assert len(item.sources) > 10
    records = rows_to_records(item.sources)
    assert {(record["dcrShift"], record["dcrDipole"]) for record in records} == {(None, False)}
    assert "nDcrDipoles" not in item.metrics
    names = ("templateFluxInWindow", "templateFluxInWindowErr", "psfFluxCorrected", "psfFluxCorrectedErr")
    assert {record[name] for record in records for name in names} == {None}  # of those association knows
    assert not item.sources["templateContaminated"].any()


def test_the_cameras_own_wavelengths_are_taken(run, made, tmp_path):
    narrow = run(survey(tmp_path, bands={"g": {"wavelength_nm": [498.0, 504.0]}}), made.reference)
    assert not narrow.sources["dcrDipole"].any()
    assert np.nanmax(narrow.sources["dcrShift"]) < 0.005
    assert run(survey(tmp_path), made.reference).metrics["nDcrDipoles"] > 0


def test_the_limits_are_those_of_the_survey(run, made, tmp_path):
    strict = run(survey(tmp_path, min_snr=1e6), made.reference)
    assert np.isfinite(strict.sources["dcrShift"]).any()
    assert strict.metrics["nDcrDipoles"] == 0.0
    mild = run(survey(tmp_path, coolest=5190.0, hottest=5210.0))
    assert np.nanmax(mild.sources["dcrShift"]) < 0.01 < np.nanmax(run(survey(tmp_path)).sources["dcrShift"])
    with pytest.raises(ValueError, match=r"coolest \(6000 K\) must be below hottest \(5000 K\)"):
        survey(tmp_path, coolest=6000.0, hottest=5000.0)


def test_the_message_tells_it_all_again(run, made, tmp_path):
    blobs = BlobStore(tmp_path / "blobs")
    item = run(survey(tmp_path), made.reference)
    assert item.template.version == "20240101-1"
    for family in ("diasources", "scored"):
        back = decode(encode(item, family, blobs), blobs)
        assert back.template == item.template
        assert back.sources.tobytes() == item.sources.tobytes()


def test_a_message_of_an_earlier_version_has_no_template_version(run, tmp_path):
    blobs = BlobStore(tmp_path / "blobs")
    item = run(survey(tmp_path))
    record = sources_record(replace(item, stamps=None), lambda _: {})
    old = schemas.get("diasources", "1.1")
    body = io.BytesIO()
    fastavro.schemaless_writer(body, old.parsed, record)
    back = decode(b"\x00" + old.id.to_bytes(4, "big") + body.getvalue(), blobs)
    assert back.template == replace(item.template, version=None)
    assert np.isnan(back.sources["dcrShift"]).all()
    assert not back.sources["dcrDipole"].any()


def test_the_catalogue_is_opened_where_there_is_a_use_for_it(tmp_path):
    assert SubtractStage.open(survey(tmp_path)).reference is None  # none there: stars of unknown colour
    path = tmp_path / "reference.fits"
    Table({"ra": [10.0], "dec": [-20.0], "flux_g": [1e3], "flux_g_err": [1.0]}).write(path)
    assert len(SubtractStage.open(survey(tmp_path)).reference) == 1
    path.write_bytes(b"no table")
    with pytest.raises(ConfigurationError, match="reference.fits"):
        SubtractStage.open(survey(tmp_path))
    assert SubtractStage.open(survey(tmp_path, site=None)).reference is None
