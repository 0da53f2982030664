"""Tracts and cells: every sky position has its cell, footprints find all of theirs, borders leave no gap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.imaging.tracts import CellId, Tessellation, cell_fractions, cells_touching, tract_of
from workers.imaging.wcs import SkyWcs

GRID = Tessellation(pixel_scale=1.0, cell_size=256)
positions = st.tuples(st.floats(0.0, 359.999), st.floats(-90.0, 90.0))


@given(positions)
@settings(max_examples=60, deadline=None)
def test_the_cell_of_a_position_holds_it(position):
    ra, dec = position
    cell = GRID.cell_at(ra, dec)
    x, y = GRID.cell_wcs(cell).sky_to_pixel(ra, dec)
    assert cell.tract == tract_of(ra, dec)
    assert -0.5 - 1e-6 <= x <= 255.5 + 1e-6
    assert -0.5 - 1e-6 <= y <= 255.5 + 1e-6
    assert min(cell.cellX, cell.cellY) >= 0


def test_the_cell_wcs_is_the_tract_wcs_shifted():
    cell = GRID.cell_at(150.0, 2.2)
    x0, y0 = GRID.origin(cell)
    ra, dec = GRID.cell_wcs(cell, border=4).pixel_to_sky([4.0, 104.0], [4.0, 54.0])
    x, y = GRID.tract_wcs(cell.tract).sky_to_pixel(ra, dec)
    np.testing.assert_allclose(x, [x0, x0 + 100], atol=1e-6)
    np.testing.assert_allclose(y, [y0, y0 + 50], atol=1e-6)
    assert GRID.cell_wcs(cell).pixel_scale(128, 128) == pytest.approx(1.0, rel=2e-3)


@given(positions, st.floats(0.0, 360.0))
@settings(max_examples=25, deadline=None)
def test_every_pixel_of_a_footprint_lies_in_a_listed_cell(position, rotation):
    wcs = SkyWcs.tangent(*position, (500.0, 400.0), 1.0, rotation=rotation)
    cells = GRID.cells_over(wcs, (800, 1000))
    rng = np.random.default_rng(1)
    ra, dec = wcs.pixel_to_sky(rng.uniform(-0.4, 999.4, 40), rng.uniform(-0.4, 799.4, 40))
    assert {GRID.cell_at(*place) for place in zip(ra, dec, strict=True)} <= set(cells)


@given(positions, st.floats(0.0, 360.0))
@settings(max_examples=25, deadline=None)
def test_the_covered_fractions_add_up_to_the_footprint(position, rotation):
    wcs = SkyWcs.tangent(*position, (500.0, 400.0), 1.0, rotation=rotation)
    by_tract: dict[int, float] = {}
    for tract, corners in GRID.polygons(wcs, (800, 1000)).items():
        columns, rows = cells_touching(corners, 256)
        by_tract[tract] = cell_fractions(corners, columns, rows, 256).sum() * 256.0**2
    for tract, area in by_tract.items():  # each tract's plane holds the whole polygon
        assert area == pytest.approx(800.0 * 1000.0, rel=0.02), tract


def test_touching_cells_are_exactly_those_with_a_common_pixel():
    rng = np.random.default_rng(2)
    for _ in range(30):
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1.0]]) * rng.uniform(20, 120, 2)
        corners = square @ turn.T + rng.uniform(300, 500, 2)
        found = set(zip(*(axis.tolist() for axis in cells_touching(corners, 64)), strict=True))
        u, v = np.meshgrid(np.linspace(0, 1, 200), np.linspace(0, 1, 200))
        points = corners[0] + u[..., None] * (corners[1] - corners[0]) + v[..., None] * (corners[3] - corners[0])
        held = {tuple(pair) for pair in np.floor((points.reshape(-1, 2) + 0.5) / 64).astype(int).tolist()}
        assert held <= found
        for column, row in found - held:  # only corners finer than the sampling may differ
            fraction = cell_fractions(corners, np.array([column]), np.array([row]), 64)
            assert fraction[0] < 0.02


def test_a_footprint_on_a_border_has_cells_of_both_tracts_with_one_owner_each():
    ra, dec = 45.0, 0.0
    step = np.linspace(0, 4, 4001)
    border = ra + step[np.flatnonzero(np.diff(tract_of(ra + step, np.full_like(step, dec))))[0]]
    wcs = SkyWcs.tangent(border, dec, (400.0, 400.0), 1.0)
    cells = GRID.cells_over(wcs, (800, 800))
    assert len({cell.tract for cell in cells}) >= 2
    owners = {cell: GRID.owner(cell) for cell in cells}
    assert any(owner == cell.tract for cell, owner in owners.items())
    for cell, owner in owners.items():
        assert owner == tract_of(*GRID.centre(cell))


def test_ids_sort_by_tract_column_row():
    assert sorted([CellId(2, 0, 0), CellId(1, 5, 1), CellId(1, 4, 9)])[0] == CellId(1, 4, 9)
    assert CellId(7, 3, 4).label == "7/3_4"
