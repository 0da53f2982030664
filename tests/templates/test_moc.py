"""Coverage maps: the pixels that brute force finds, normalised, and files that any MOC reader understands."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy_healpix import HEALPix, level_ipix_to_uniq, uniq_to_level_ipix
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.imaging.tracts import CellId, Tessellation, tract_of
from workers.imaging.wcs import SkyWcs
from workers.templates.moc import MAX_ORDER, Moc, moc_of_cells, moc_order

GRID = Tessellation(pixel_scale=1.0, cell_size=256)
PLACES = {
    "across RA 0": (0.01, -10.0),
    "equator": (150.1, 0.0),
    "pole": (33.0, 89.95),
    "south pole": (200.0, -89.99),
    "polar cap border": (45.0, 41.81),
    "three pixels meet": (90.0, 41.8103),
}


def cells_over(ra, dec, columns=7, rows=5, grid=GRID):
    """The cells that a square image touches, in every tract."""
    scale = grid.pixel_scale * grid.cell_size
    wcs = SkyWcs.tangent(ra, dec, (columns / 2 - 0.5, rows / 2 - 0.5), scale)
    return list(grid.cells_over(wcs, (rows, columns)))


def on_a_cell(grid, cells, ra, dec, border=0.0):
    """Whether positions are on any of the cells, shrunk by `border` pixels; one cell after the other."""
    covered = np.zeros(np.shape(ra), bool)
    for cell in cells:
        x, y = grid.cell_wcs(cell).sky_to_pixel(ra, dec)
        low, high = -0.5 + border, grid.cell_size - 0.5 - border
        covered |= (x >= low) & (x < high) & (y >= low) & (y < high)
    return covered


def expanded(moc):
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(first, last) for first, last in moc.ranges())])


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_a_pixel_is_in_where_its_centre_is_on_a_cell(place):
    cells = cells_over(*place)
    moc = moc_of_cells(GRID, cells)
    sky = HEALPix(nside=2**moc.order, order="nested")
    every = sky.cone_search_lonlat(place[0] * units.deg, place[1] * units.deg, 0.7 * units.deg)
    lon, lat = sky.healpix_to_lonlat(every)
    expected = np.sort(every[on_a_cell(GRID, cells, lon.deg, lat.deg)])
    assert len(expected) > 16 * 35
    assert expanded(moc).tolist() == expected.tolist()


def test_positions_are_in_the_map_where_they_are_on_a_cell_but_for_the_border():
    cells = cells_over(*PLACES["across RA 0"])
    moc = moc_of_cells(GRID, cells)
    rng = np.random.default_rng(3)
    ra, dec = rng.uniform(-0.4, 0.42, 6000) % 360.0, rng.uniform(-10.3, -9.7, 6000)
    pixel = math.degrees(math.sqrt(math.pi / 3)) * 3600 / 2**moc.order
    inside = moc.contains(ra, dec)
    surely = on_a_cell(GRID, cells, ra, dec, border=1.2 * pixel)
    never = ~on_a_cell(GRID, cells, ra, dec, border=-1.2 * pixel)
    assert surely.sum() > 500
    assert never.sum() > 500
    assert inside[surely].all()
    assert not inside[never].any()


@pytest.mark.parametrize("place", [PLACES[name] for name in ("pole", "polar cap border", "three pixels meet")])
def test_the_area_is_that_of_the_sky_covered(place):
    cells = cells_over(*place, columns=12, rows=9)
    rng = np.random.default_rng(4)
    z = 1.0 - rng.uniform(0, 1 - math.cos(math.radians(1.0)), 12_000)
    turn = rng.uniform(0, 2 * np.pi, z.size)  # evenly over a cap of 1 degree
    offset = np.degrees(np.tan(np.arccos(z)))
    wcs = SkyWcs.tangent(*place, (0.0, 0.0), 3600.0)
    ra, dec = wcs.pixel_to_sky(offset * np.cos(turn), offset * np.sin(turn))
    cap = 2 * np.pi * (1 - math.cos(math.radians(1.0))) * math.degrees(1) ** 2
    share = on_a_cell(GRID, cells, ra, dec).mean()
    error = cap * math.sqrt(share * (1 - share) / z.size)
    assert moc_of_cells(GRID, cells).area == pytest.approx(cap * share, abs=4 * error)


def test_overlaps_of_tracts_count_once_and_the_order_of_cells_is_nothing():
    cells = cells_over(*PLACES["polar cap border"], 30, 30)
    assert len({cell.tract for cell in cells}) > 1
    moc = moc_of_cells(GRID, cells)
    assert moc_of_cells(GRID, [*reversed(cells), *cells]).uniq.tolist() == moc.uniq.tolist()
    assert moc.area < 0.99 * len(cells) * (256 / 3600) ** 2


@given(st.integers(0, 6).flatmap(lambda k: st.tuples(st.just(k), st.sets(st.integers(0, 12 * 4**k - 1), max_size=300))))
@settings(max_examples=120, deadline=None)
def test_the_normalised_map_holds_the_same_pixels(case):
    order, pixels = case
    moc = Moc.of_pixels(order, list(pixels))
    assert expanded(moc).tolist() == sorted(pixels)
    assert (np.diff(moc.uniq) > 0).all()
    levels, numbers = uniq_to_level_ipix(moc.uniq)
    assert level_ipix_to_uniq(levels, numbers).tolist() == moc.uniq.tolist()
    groups = [(int(level), int(number) >> 2) for level, number in zip(levels, numbers, strict=True) if level]
    assert all(groups.count(group) < 4 for group in set(groups))
    spans = moc.ranges()
    assert (spans[1:, 0] >= spans[:-1, 1]).all()
    assert moc.area == pytest.approx(len(pixels) / (12 * 4**order) * 41252.96125, rel=1e-9, abs=1e-12)


def test_the_whole_sky_is_twelve_pixels():
    moc = Moc.of_pixels(4, np.arange(12 * 4**4))
    assert moc.uniq.tolist() == list(range(4, 16))
    assert moc.contains([0.0, 123.0], [90.0, -45.0]).all()
    assert json.loads(moc.to_json()) == {"0": list(range(12)), "4": []}
    assert moc.to_ascii() == "0/0-11 4/\n"


def test_nothing_is_an_empty_map():
    moc = moc_of_cells(GRID, [])
    assert len(moc.uniq) == 0
    assert moc.area == 0.0
    assert not moc.contains([10.0], [20.0]).any()
    assert json.loads(moc.to_json()) == {str(moc.order): []}
    with fits.open(io.BytesIO(moc.to_fits())) as hdus:
        assert len(hdus[1].data) == 0


@pytest.mark.parametrize("scale", [0.01, 0.2, 0.263, 1.0, 20.0])
def test_the_order_is_the_coarsest_with_four_pixels_on_a_side(scale):
    grid = Tessellation(pixel_scale=scale, cell_size=256)
    sides = [HEALPix(nside=2 ** (moc_order(grid) - k)).pixel_resolution.to_value(units.arcsec) for k in (0, 1)]
    assert sides[0] <= scale * 256 / 4 < sides[1]


def test_the_order_has_an_end():
    assert moc_order(Tessellation(pixel_scale=1e-9, cell_size=256)) == MAX_ORDER
    assert Moc.of_pixels(MAX_ORDER, [12 * 4**MAX_ORDER - 1]).to_ascii() == f"29/{12 * 4**29 - 1}\n"


def test_the_fits_file_says_what_the_standard_asks_for():
    moc = moc_of_cells(GRID, cells_over(*PLACES["equator"]))
    data = moc.to_fits([("BAND", "r", "of the cells")])
    assert data == moc.to_fits([("BAND", "r", "of the cells")])
    with fits.open(io.BytesIO(data)) as hdus:
        hdus.verify("exception")
        table = hdus[1]
        said = {"MOCVERS": "2.0", "MOCDIM": "SPACE", "ORDERING": "NUNIQ", "COORDSYS": "C", "PIXTYPE": "HEALPIX"}
        assert {key: table.header[key] for key in said} == said
        assert table.header["MOCORD_S"] == table.header["MOCORDER"] == moc.order
        assert table.header["BAND"] == "r"
        assert table.columns.names == ["UNIQ"]
        assert table.columns.formats[0] in ("K", "1K")
        assert table.data["UNIQ"].tolist() == moc.uniq.tolist()


def test_json_and_ascii_hold_the_same_pixels():
    moc = moc_of_cells(GRID, cells_over(*PLACES["pole"]))
    from_json = [4 * 4 ** int(order) + pixel for order, pixels in json.loads(moc.to_json()).items() for pixel in pixels]
    assert sorted(from_json) == moc.uniq.tolist()
    from_ascii, order = [], 0
    for word in moc.to_ascii().split():
        if "/" in word:
            order, word = int(word.split("/")[0]), word.split("/")[1]
        first, _, last = word.partition("-")
        from_ascii += [4 * 4**order + pixel for pixel in range(int(first), int(last or first) + 1)]
    assert from_ascii == moc.uniq.tolist()


def test_a_cell_where_its_tract_has_none_of_the_sky_is_still_a_cell():
    cell = CellId(int(tract_of(10.0, 10.0)), 0, 0)
    moc = moc_of_cells(GRID, [cell])
    assert moc.contains(*(np.atleast_1d(value) for value in GRID.centre(cell))).all()
