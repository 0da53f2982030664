"""Rows of an exposure's sources: the columns of their own light, and nothing read where none can be."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import schemas
from schemas import RowGroups
from schemas.errors import DataError
from tests.templates.kept_cells import CELL, GRID, make
from workers.database import OBJECT_DTYPE
from workers.templates.own_light import OWN_LIGHT_COLUMNS, forgiving, with_own_light

PLACE = (31.3, 32.4)


def exposure(first, flux=4000.0, count=2):
    """Sources at the transient's place: of the band of the template, and their objects."""
    ra, dec = (float(place) for place in GRID.cell_wcs(CELL).pixel_to_sky(*PLACE))
    rows, objects = np.zeros(count, schemas.table_dtype("alert", "diaSource")), np.zeros(count, OBJECT_DTYPE)
    rows["ra"], rows["dec"], rows["band"], rows["midpointMjdTai"] = ra, dec, "r", 60410.0
    rows["psfFlux"], rows["psfFluxErr"], rows["ixxPSF"], rows["iyyPSF"] = flux, 50.0, 0.08, 0.08
    rows["psfFlux"][1:] = np.nan
    objects["firstDiaSourceMjdTai"] = first
    return rows, objects, RowGroups(rows[:0], np.zeros(count, np.int64))


class Store:
    """One cell, read or not."""

    def __init__(self, made):
        self.made, self.reads = made, 0
        record = SimpleNamespace(lastEpochMjdTai=made.cell.plan.epochs[1])
        self.manifest = SimpleNamespace(
            grid=GRID, record=lambda band, cell: record if (band, cell) == ("r", CELL) else None
        )

    def read(self, record):
        self.reads += 1
        return self.made.cell


def no_limits(place):
    return np.zeros(0, schemas.table_dtype("alert", "diaNondetectionLimit"))


@pytest.fixture(scope="module")
def made():
    return make(9, np.where(np.arange(12) >= 10, 3000.0, 0.0), mjd=60050.0 + 30.0 * np.arange(12))


def test_columns_are_filled(made):
    rows, objects, previous = exposure(60400.0)
    store = Store(made)
    got = with_own_light(rows, objects, previous, no_limits, (store, store.manifest, made.warps))
    assert got["templateContaminated"].tolist() == [True, False]
    assert got["psfFluxCorrected"][0] == pytest.approx(4000.0 + got["templateFluxInWindow"][0])
    assert 300.0 < got["templateFluxInWindow"][0] < 900.0
    assert all(np.isnan(got[name][1]) for name in OWN_LIGHT_COLUMNS)
    assert store.reads == 1
    assert not rows["templateContaminated"].any()  # the input stays


def test_nothing_is_read_where_no_input_is_near(made):
    rows, objects, previous = exposure(61500.0)
    store = Store(made)
    got = with_own_light(rows, objects, previous, no_limits, (store, store.manifest, made.warps))
    assert store.reads == 0
    assert not got["templateContaminated"].any()
    rows["band"] = "g"
    objects["firstDiaSourceMjdTai"] = 60400.0
    with_own_light(rows, objects, previous, no_limits, (store, store.manifest, made.warps))
    none = RowGroups(rows[:0], np.zeros(0, np.int64))
    assert len(with_own_light(rows[:0], objects[:0], none, no_limits, (store, store.manifest, made.warps))) == 0
    rows["band"] = "r"
    with_own_light(rows, objects, previous, no_limits, (store, store.manifest, made.warps), 60000.0)
    assert store.reads == 0


def test_damaged_warps_leave_the_flag(made):
    def damaged(item, cell):
        raise DataError("damaged")

    assert forgiving(damaged)(made.cell.plan.inputs[0], CELL) is None
    rows, objects, previous = exposure(60350.0)
    history = rows[:1].copy()
    history["midpointMjdTai"] = 60350.0
    store = Store(made)
    previous = RowGroups(history, np.array([1, 0]))
    got = with_own_light(rows, objects, previous, no_limits, (store, store.manifest, damaged))
    assert got["templateContaminated"].tolist() == [True, False]
    assert np.isnan(got["psfFluxCorrected"]).all()
