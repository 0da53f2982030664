"""Cells made again from their own tables of inputs: the same bytes, or the name of what is not; and the command."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.cli.command import skydelta
from tests.cli.test_calibrate import CAMERA
from tests.templates.synthetic import SURVEY
from workers.imaging.fits import read_exposure, write_exposure
from workers.templates.calexps import index_calexps
from workers.templates.cell_file import cell_to_bytes
from workers.templates.job import kept_blocks
from workers.templates.leave_out import given_in, whole
from workers.templates.rebuild import rebuild, spread_sample
from workers.templates.store import TemplateStore
from workers.templates.warps import BORDER, WarpStore


@pytest.fixture
def survey(archive, built, tmp_path):
    """A survey folder with the archive and the templates made of it."""
    (tmp_path / "survey.toml").write_text(SURVEY, encoding="utf-8")
    (tmp_path / "camera.toml").write_text(CAMERA, encoding="utf-8")
    shutil.copytree(archive, tmp_path / "archive" / "calexps")
    shutil.copytree(built[0].root, tmp_path / "templates")
    return tmp_path


def rebuilt(root, calexps=None):
    store = TemplateStore(root / "templates")
    entries = index_calexps(root / "archive" / "calexps") if calexps is None else calexps
    return list(rebuild(store, store.manifest(), store.manifest().cells, entries))


def test_every_cell_is_the_same_to_the_byte(survey):
    done = rebuilt(survey, calexps=())
    assert [one.fault for one in done] == [None] * len(done)
    assert {(one.kept, one.warped) for one in done} == {(7, 0)}


def test_without_kept_warps_too(survey):
    shutil.rmtree(survey / "templates" / "warps")
    done = rebuilt(survey)
    assert [one.fault for one in done] == [None] * len(done)
    assert {(one.kept, one.warped) for one in done} == {(0, 7)}


def test_a_lacking_input_is_named(survey):
    shutil.rmtree(survey / "templates" / "warps")
    path = survey / "archive" / "calexps" / "1003.fits"
    exposure = read_exposure(path)
    write_exposure(path, exposure.replaced(image=exposure.image + np.float32(1.0)))
    (survey / "archive" / "calexps" / "1005.fits").unlink()
    assert "exposure 1003:0 is gone" in rebuilt(survey)[0].fault
    assert "calibrated anew" in rebuilt(survey)[0].fault
    path.unlink()
    assert "and so is the calibrated exposure" in rebuilt(survey)[0].fault


def test_another_pixel_another_method_and_a_missing_file_are_named(survey):
    store = TemplateStore(survey / "templates")
    first, second, third, *_ = store.manifest().cells
    cell = store.read(first)
    image = cell.image.copy()
    image[5, 5] += np.float32(1.0)
    (store.root / first.path).write_bytes(cell_to_bytes(replace(cell, image=image)))
    other = store.read(second)
    old = replace(other, plan=replace(other.plan, templateId="T" + 20 * "0"))
    (store.root / second.path).write_bytes(cell_to_bytes(old))
    (store.root / third.path).unlink()
    faults = [one.fault for one in rebuilt(survey)]
    assert faults[0] == f"image differs in 1 of {image.size} values"
    assert "another version of this software" in faults[1]
    assert "can't be read" in faults[2]
    assert faults[3:] == [None] * len(faults[3:])


def test_a_sample_is_spread_over_the_cells(built):
    cells = built[1].cells
    assert spread_sample(cells, len(cells) + 5) == cells
    assert spread_sample(cells, 2) == (cells[0], cells[-1])
    assert spread_sample(cells, 1) == (cells[0],)


def test_the_command_says_how_many_are_the_same(survey):
    done = skydelta("templates", "rebuild", "-s", survey, "--json")
    assert done.code == 0, done.err
    assert done.json["identical"] == done.json["cells"] > 4
    cell = TemplateStore(survey / "templates").manifest().cells[1]
    one = skydelta("templates", "rebuild", "-s", survey, "--cell", cell.cell.label, "--band", "r")
    assert (one.code, "1 of 1 cells" in one.out) == (0, True)
    assert "2 of 2 cells" in skydelta("templates", "rebuild", "-s", survey, "--sample", 2).out
    (survey / "templates" / cell.path).unlink()
    fault = skydelta("templates", "rebuild", "-s", survey, "--json")
    assert fault.code == 5
    assert fault.json["faults"][0]["cell"] == cell.cell.label
    assert cell.cell.label in fault.err
    assert skydelta("templates", "rebuild", "-s", survey, "--cell", "here").code == 3
    assert skydelta("templates", "rebuild", "-s", survey, "--band", "q").code == 5


def test_the_command_that_builds_says_what_it_did(survey):
    done = skydelta("templates", "build", "-s", survey)
    assert done.code == 0, done.err
    assert "0 cells built" in done.err
    shutil.rmtree(survey / "templates")
    again = skydelta("templates", "build", "-s", survey, "--json")
    job = again.json["job"]
    assert (job["warped"], job["built"], job["kept"]) == (7, len(again.json["cells"]), 0)
    assert "7/7 warps" in again.err
    assert "cells built" in again.err


def test_the_coverage_command_writes_pictures_mocs_and_a_report(survey):
    done = skydelta("templates", "coverage", "-s", survey, "--json")
    assert done.code == 0, done.err
    names = [path.rsplit("/", 1)[1] for path in done.json["files"]]
    assert "report.html" in names
    assert {name.rsplit(".", 1)[1] for name in names} >= {"html", "fits", "json"}
    folder = survey / "templates" / "coverage" / TemplateStore(survey / "templates").current()
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    plain = skydelta("templates", "coverage", "-s", survey, "--out", survey / "here", "--few", 9)
    assert plain.code == 0
    assert str(survey / "here" / "report.html") in plain.out


def test_the_sums_of_a_cell_are_those_of_its_kept_warps(built):
    store, manifest = built
    warps = WarpStore(store.warps, manifest.grid)
    for record in manifest.cells[:3]:
        cell = store.read(record)
        given = given_in(cell, whole(cell))
        inner = slice(BORDER, -BORDER)
        blocks = kept_blocks(cell.plan, warps)
        image = np.array([block.image[inner, inner] for block in blocks], float)
        variance = np.array([block.variance[inner, inner] for block in blocks], float)
        weight = np.array([item.weight for item in cell.plan.inputs])[:, None, None] * given
        total, noise = weight.sum(axis=0), np.sqrt((weight**2 * variance).sum(axis=0))
        there = total > 0
        assert np.abs(total * cell.image - (weight * image).sum(axis=0))[there].max() <= 0.04 * noise[there].max()
        assert np.allclose((total**2 * cell.variance)[there], noise[there] ** 2, rtol=0.01)
