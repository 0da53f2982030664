"""The catalogue's file: read back as written, with units and identity, the same bytes every time."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from schemas.errors import DataError
from tests.characterize.catalogue_scenes import catalogue_scene
from workers.characterize.catalogue_columns import COLUMNS, SOURCE_CATALOGUE_DTYPE
from workers.characterize.catalogue_file import catalogue_name, catalogue_to_bytes, read_catalogue, write_catalogue


def rows_of(count):
    rng = np.random.default_rng(0)
    rows = np.zeros(count, SOURCE_CATALOGUE_DTYPE)
    for column in COLUMNS:
        values = rng.normal(100, 30, count)
        rows[column.name] = values > 100 if column.dtype == "?" else values.astype(column.dtype)
    rows["spread"][:1] = np.nan
    return rows


@pytest.fixture(scope="module")
def exposure():
    return catalogue_scene(1).exposure


@pytest.mark.parametrize("count", [0, 1, 50])
def test_read_back_as_written(exposure, tmp_path, count):
    rows, path = rows_of(count), tmp_path / "night" / catalogue_name(exposure.info)
    write_catalogue(path, rows, exposure, 5.0)
    found, header = read_catalogue(path)
    assert found.dtype == SOURCE_CATALOGUE_DTYPE
    for name in SOURCE_CATALOGUE_DTYPE.names:
        np.testing.assert_array_equal(found[name], rows[name])
    assert header["VISIT"] == exposure.info.visit
    assert header["NSOURCES"] == count
    assert header["PROV BIAS"] == "bias-1"
    assert header["CODE"].startswith("skydelta-")
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_units_are_what_astropy_reads(exposure, tmp_path):
    write_catalogue(tmp_path / "c.fits", rows_of(3), exposure, 5.0)
    table = Table.read(tmp_path / "c.fits", hdu="SOURCES", character_as_bytes=False)
    for column in COLUMNS:
        unit = table[column.name].unit
        assert ("" if unit is None else unit.to_string().replace(" ", "")) == column.unit.replace(" ", "")
    assert str(table["psfFlux"].unit) == "nJy"


def test_the_same_bytes_every_time(exposure):
    assert catalogue_to_bytes(rows_of(5), exposure, 5.0) == catalogue_to_bytes(rows_of(5), exposure, 5.0)


def test_other_files_are_refused(exposure, tmp_path):
    (tmp_path / "text").write_text("no FITS")
    with pytest.raises(DataError, match="text"):
        read_catalogue(tmp_path / "text")
    with pytest.raises(DataError, match="No such file"):
        read_catalogue(tmp_path / "none")
    fits.PrimaryHDU(np.zeros((2, 2))).writeto(tmp_path / "other.fits")
    with pytest.raises(DataError, match="is not a source catalogue"):
        read_catalogue(tmp_path / "other.fits")
    old = fits.BinTableHDU(np.zeros(2, [("x", "f8")]))
    primary = fits.PrimaryHDU()
    primary.header["FORMAT"] = "skydelta source catalogue 1"
    fits.HDUList([primary, old]).writeto(tmp_path / "old.fits")
    with pytest.raises(DataError, match="other columns"):
        read_catalogue(tmp_path / "old.fits")
