"""The store of template versions: files that read back, damage that is named, a pointer that never dangles."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from schemas.errors import DataError
from tests.templates.synthetic import CONFIG
from workers.templates.cell_file import cell_from_bytes, cell_to_bytes, inputs_table
from workers.templates.prune import prune
from workers.templates.store import Manifest, TemplateStore, named_inputs


def test_a_cell_reads_back_as_it_was(built):
    store, manifest = built
    record = manifest.cells[0]
    data = (store.root / record.path).read_bytes()
    cell = cell_from_bytes(data, "cell")
    assert cell_to_bytes(cell) == data
    assert cell.plan.templateId == record.templateId
    with pytest.raises(ValueError, match="read-only"):
        cell.image[0, 0] = 1.0


def test_any_fits_reader_finds_pixels_inputs_and_wcs(built):
    store, manifest = built
    record = manifest.cells[0]
    with fits.open(store.root / record.path) as hdus:
        names = ["PRIMARY", "IMAGE", "MASK", "VARIANCE", "NEPOCHS", "GIVEN", "PSF", "INPUTPSF", "INPUTS"]
        assert [hdu.name for hdu in hdus] == names
        assert hdus[0].header["TEMPLID"] == record.templateId
        assert hdus[0].header["FIRSTMJD"] == record.firstEpochMjdTai
        assert hdus["IMAGE"].header["CTYPE1"] == "RA---TAN"
        table = np.array(hdus["INPUTS"].data)
        expected = inputs_table(store.read(record))
        assert table["visit"].tolist() == expected["visit"].tolist()
        assert table["weight"].tolist() == expected["weight"].tolist()
        assert all(len(text) == 64 for text in table["sha256"])


def test_a_cell_of_an_older_version_reads_but_does_not_tell_what_made_a_pixel(built):
    store, manifest = built
    old = replace(store.read(manifest.cells[0]), given=None)
    data = cell_to_bytes(old)
    again = cell_from_bytes(data, "cell")
    assert cell_to_bytes(again) == data
    assert np.array_equal(again.image, old.image)
    with pytest.raises(DataError, match="templates build"):
        again.given_at(0, 0)


def test_the_manifest_reads_back(built):
    store, manifest = built
    assert Manifest.from_json(manifest.to_json(), "manifest") == manifest
    assert (manifest.begin, manifest.end) == (CONFIG.begin, CONFIG.end)
    assert TemplateStore(store.root).manifest() == manifest


def test_a_manifest_of_before_there_were_days_reads(built):
    tree = json.loads(built[1].to_json())
    del tree["day"]
    assert Manifest.from_json(json.dumps(tree).encode(), "manifest").day is None


def published(store, manifest, name, day):
    """Publish a version with the day of its job and nothing else of its own."""
    store.publish(replace(manifest, version=name, digest=name, day=day))


def test_an_old_night_gets_the_version_of_its_time_and_a_new_one_the_current(built, tmp_path):
    store, manifest = TemplateStore(tmp_path), built[1]
    for name, day in (("0001-a", None), ("0002-b", 60100.0), ("0003-c", 60101.0), ("0004-d", 60101.0)):
        published(store, manifest, name, day)
    published(store, manifest, "0005-e", 60105.0)
    again = TemplateStore(tmp_path)
    served = {mjd: again.manifest_for(mjd).version for mjd in (60099.9, 60100.0, 60101.3, 60104.99, 60105.0, 60200.0)}
    assert list(served.values()) == ["0005-e", "0002-b", "0004-d", "0004-d", "0005-e", "0005-e"]
    published(store, manifest, "0006-f", None)  # a window that stands still serves every night
    assert store.manifest_for(60101.0).version == "0006-f"


def test_without_a_version_no_night_is_served(tmp_path):
    assert TemplateStore(tmp_path).manifest_for(60000.0) is None


def test_inputs_of_all_versions_are_named(copy):
    manifest = copy.manifest()
    inputs = {item.calexp for record in manifest.cells for item in copy.read(record).plan.inputs}
    assert named_inputs(copy.root) == inputs
    copy.publish(replace(manifest, version="0002-x"), ["f" * 64])
    assert named_inputs(copy.root) == inputs | {"f" * 64}
    prune(copy, [manifest.version], 400.0)
    assert named_inputs(copy.root) == {"f" * 64}


def test_records_are_found_by_band_and_cell(built):
    manifest = built[1]
    for record in manifest.cells:
        assert manifest.record(record.band, record.cell) is manifest.of_band(record.band)[record.cell]
    assert manifest.record("q", manifest.cells[0].cell) is None
    assert manifest.of_band("q") == {}


def test_an_empty_store_has_no_version(tmp_path):
    store = TemplateStore(tmp_path)
    assert store.current() is None
    assert store.manifest() is None
    assert store.versions() == []


def test_a_damaged_cell_is_named(copy):
    record = copy.manifest().cells[0]
    path = copy.root / record.path
    data = bytearray(path.read_bytes())
    data[data.index(b"\x1f\x8b\x08") + 40] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="checksum"):
        copy.read(record)
    path.unlink()
    with pytest.raises(DataError, match="can't be read"):
        copy.read(record)


def test_a_missing_version_is_named(copy):
    with pytest.raises(DataError, match=r"0009-none.*there are \['0001-"):
        copy.manifest("0009-none")
    (copy.root / "versions" / copy.current() / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        TemplateStore(copy.root).manifest()
