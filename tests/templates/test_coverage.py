"""The coverage of a version: numbers that add up, pictures of any piece of sky, a page, changes between versions."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict, replace
from xml.etree import ElementTree

import numpy as np
import pytest
from astropy.io import fits

from workers.imaging.tracts import CellId, Tessellation
from workers.imaging.wcs import SkyWcs
from workers.templates.cell import CellRecord
from workers.templates.coverage import (
    Spread,
    ab_magnitude,
    cell_places,
    changes_between,
    coverage_of,
    worst_cells,
)
from workers.templates.coverage_picture import coverage_svg
from workers.templates.coverage_report import coverage_files, coverage_tree
from workers.templates.coverage_views import fields_of, grid_lines, views_of
from workers.templates.moc import moc_of_cells
from workers.templates.store import Manifest

GRID = Tessellation(pixel_scale=1.0, cell_size=256)
COARSE = Tessellation(pixel_scale=4.0, cell_size=256)
AT = 59_500.0
SVG = "{http://www.w3.org/2000/svg}"


def record(cell, number=0, band="r", **changes):
    epochs = 4 + number % 12
    one = CellRecord(
        templateId=f"t{band}{cell.label}",
        band=band,
        tract=cell.tract,
        cellX=cell.cellX,
        cellY=cell.cellY,
        firstEpochMjdTai=59_000.0 + number % 7,
        lastEpochMjdTai=59_300.0 + number % 5,
        nEpochs=epochs,
        depth=300.0 / math.sqrt(epochs),
        fwhm=0.8 + 0.02 * (number % 9),
        sha256="0" * 64,
        path=f"{band}/{cell.label}.fits",
    )
    return replace(one, **changes)


def field(ra, dec, columns, rows, band="r", grid=GRID):
    wcs = SkyWcs.tangent(ra, dec, (columns / 2 - 0.5, rows / 2 - 0.5), grid.pixel_scale * grid.cell_size)
    return [record(cell, i, band) for i, cell in enumerate(grid.cells_over(wcs, (rows, columns)))]


def manifest(records, version="0002-bbbbbbbb", grid=GRID):
    return Manifest(version, "d", 58_990.0, 59_400.0, grid, tuple(records))


SCENES = {
    "one cell": field(150.0, 2.2, 7, 5)[:1],
    "across RA 0": field(0.0, -30.0, 12, 7),
    "a pole": field(40.0, 89.9, 12, 12),
    "the other pole": field(0.0, -90.0, 9, 9),
    "a strip": field(10.0, 0.0, 60, 1),
    "fields": [*field(150.0, 2.0, 6, 5), *field(170.0, 12.0, 4, 4), *field(160.0, -8.0, 2, 3)],
    "the whole sky": [*field(10.0, -60.0, 5, 5), *field(120.0, 10.0, 4, 3), *field(250.0, 40.0, 2, 2)],
}


@pytest.fixture(params=SCENES.values(), ids=SCENES.keys())
def scene(request):
    return request.param


def test_magnitudes_are_ab():
    assert ab_magnitude([3631e9, 1.0]).tolist() == pytest.approx([0.0, 31.4], abs=1e-3)
    assert np.isnan(ab_magnitude([0.0, -1.0, math.nan, math.inf])).all()


def test_places_agree_with_the_wcs_of_each_cell(scene):
    places = cell_places(GRID, scene)
    for i, one in enumerate(scene[:12]):
        assert (places.ra[i], places.dec[i]) == pytest.approx(GRID.centre(one.cell), abs=1e-9)
        x, y = GRID.cell_wcs(one.cell).sky_to_pixel(places.corners[i, :, 0], places.corners[i, :, 1])
        assert x.tolist() == pytest.approx([-0.5, 255.5, 255.5, -0.5], abs=1e-4)
        assert y.tolist() == pytest.approx([-0.5, -0.5, 255.5, 255.5], abs=1e-4)
        assert places.owned[i] == (GRID.owner(one.cell) == one.tract)


def test_the_area_of_a_cell_is_its_solid_angle():
    tract, middle = 5000, GRID.tract_wcs(5000).sky_to_pixel(*tract_centre(5000))[0]
    columns = [round(float(middle) / 256), round(float(middle) / 256) + 28]
    places = cell_places(GRID, [record(CellId(tract, x, columns[0])) for x in columns])
    flat = (256 / 3600) ** 2
    angle = math.radians(28.5 * 256 / 3600)  # cos^3 of the distance from the tangent point
    assert places.area[0] == pytest.approx(flat, rel=1e-5)
    assert places.area[1] == pytest.approx(flat * math.cos(math.atan(angle)) ** 3, rel=2e-4)


def tract_centre(tract):
    header = GRID.tract_wcs(tract).header()
    return float(header["CRVAL1"]), float(header["CRVAL2"])


def test_overlaps_of_tracts_count_once_in_the_area():
    records = field(45.0, 41.81, 40, 40)
    assert len({one.tract for one in records}) > 1
    (band,) = coverage_of(manifest(records), AT).bands
    area = moc_of_cells(GRID, [one.cell for one in records]).area
    assert band.owned < band.cells == len(records)
    assert band.area == pytest.approx(area, rel=0.02)
    assert cell_places(GRID, records).area.sum() > 1.02 * area


def test_the_numbers_are_those_of_the_cells():
    records = [*field(150.0, 2.0, 6, 5), *field(150.0, 2.0, 4, 4, "i")]
    records[3] = replace(records[3], depth=math.nan)
    coverage = coverage_of(manifest(records), AT, few_epochs=6)
    assert [band.band for band in coverage.bands] == ["i", "r"]
    mine = [one for one in records if one.band == "r"]
    band = coverage.bands[1]
    assert band.cells == len(mine)
    assert band.few == sum(one.nEpochs < 6 for one in mine)
    assert band.nEpochs == Spread.of([one.nEpochs for one in mine])
    depths = [31.4 - 2.5 * math.log10(one.depth) for one in mine if math.isfinite(one.depth)]
    assert band.depth.median == pytest.approx(float(np.median(depths)))
    assert (band.depth.minimum, band.depth.maximum) == pytest.approx((min(depths), max(depths)))
    assert band.firstAge == AT - min(one.firstEpochMjdTai for one in mine)
    assert band.lastAge == AT - max(one.lastEpochMjdTai for one in mine)
    assert all(len(row) == len(coverage.columns) for row in coverage.rows())
    assert coverage.rows()[1][:2] == ("r", str(len(mine)))
    assert all(isinstance(text, str) for row in coverage.rows() for text in row)


def test_a_spread_of_nothing_is_nothing():
    assert all(math.isnan(value) for value in asdict(Spread.of([math.nan])).values())


def test_changes_are_counted_by_band():
    cells = field(150.0, 2.0, 6, 5)
    old = manifest(cells[:-4], "0001-aaaaaaaa")
    rebuilt = [replace(one, templateId="other", depth=one.depth / 10**0.04) for one in cells[:7]]
    new = manifest([*rebuilt, *cells[9:], *field(150.0, 2.0, 2, 2, "g")])
    blue, red = changes_between(old, new)
    assert (red.band, red.rebuilt, red.gone, red.new, red.kept) == ("r", 7, 2, 4, len(cells) - 13)
    assert red.deeper == pytest.approx(0.1)
    assert (blue.band, blue.rebuilt, blue.gone, blue.kept) == ("g", 0, 0, 0)
    assert blue.new == len(field(150.0, 2.0, 2, 2, "g"))
    assert math.isnan(blue.deeper)
    assert changes_between(new, new)[1].kept == len(cells) - 2


def test_cells_of_another_grid_are_other_cells():
    cells = field(150.0, 2.0, 3, 3)
    (change,) = changes_between(manifest(cells, grid=COARSE), manifest(cells))
    assert (change.new, change.gone, change.kept, change.rebuilt) == (len(cells), len(cells), 0, 0)


def test_the_worst_cells_are_the_shallowest_of_their_band():
    deep = [replace(one, depth=10.0) for one in field(150.0, 2.0, 4, 4, "g")]
    shallow = [replace(one, depth=1000.0) for one in field(150.0, 2.0, 4, 4)]
    deep[5] = replace(deep[5], depth=20.0)
    shallow[2] = replace(shallow[2], depth=1500.0)
    shallow[7] = replace(shallow[7], depth=math.inf)
    found = worst_cells(manifest([*deep, *shallow]), count=3)
    assert [one.record for one in found] == [shallow[7], deep[5], shallow[2]]
    assert math.isnan(found[0].below)
    assert [one.below for one in found[1:]] == pytest.approx([0.7526, 0.4402], abs=1e-4)
    assert (found[1].ra, found[1].dec) == pytest.approx(GRID.centre(deep[5].cell))


def test_every_cell_is_on_a_map_that_shows_it(scene):
    places = cell_places(GRID, scene)
    views = views_of(places, 400.0)
    assert views[0].members.tolist() == list(range(len(scene)))
    for view in views:
        x, y = view.project(places.corners[view.members, :, 0], places.corners[view.members, :, 1])
        assert view.low[0] <= x.min() <= x.max() <= view.high[0]
        assert view.low[1] <= y.min() <= y.max() <= view.high[1]
        assert grid_lines(view)
        if len(view.members) == len(scene):
            continue
        side = 256 / 3600 * 400 / max(view.high[0] - view.low[0], view.high[1] - view.low[1])
        assert side > 2.0


def test_fields_far_apart_have_maps_of_their_own():
    assert [view.whole_sky for view in views_of(cell_places(GRID, SCENES["fields"]), 400.0)] == [False] * 4
    assert [view.whole_sky for view in views_of(cell_places(GRID, SCENES["the whole sky"]), 400.0)] == [True] + [
        False
    ] * 3
    assert len(views_of(cell_places(GRID, SCENES["across RA 0"]), 400.0)) == 1
    assert [len(group) for group in fields_of(cell_places(GRID, SCENES["fields"]))] == [
        len(field(*where)) for where in ((150.0, 2.0, 6, 5), (170.0, 12.0, 4, 4), (160.0, -8.0, 2, 3))
    ]


def test_a_ring_round_the_sky_is_one_field_on_one_map():
    grid = Tessellation(pixel_scale=16.0, cell_size=256)
    places = cell_places(grid, [record(grid.cell_at(ra, 0.5)) for ra in range(360)])
    (view,) = views_of(places, 400.0)
    assert view.whole_sky
    assert view.marks == ()


def test_maps_keep_areas_and_have_east_on_the_left(scene):
    places = cell_places(GRID, scene)
    for view in views_of(places, 400.0):
        chosen = view.members[:20]
        x, y = view.project(places.corners[chosen, :, 0], places.corners[chosen, :, 1])
        across = (x[:, 2] - x[:, 0]) * (y[:, 3] - y[:, 1]) - (y[:, 2] - y[:, 0]) * (x[:, 3] - x[:, 1])
        # corners go round from the lower left, x of a tract being westward: positive is a sky seen from inside
        assert (0.5 * across).tolist() == pytest.approx(places.area[chosen].tolist(), rel=2e-3)
        ra, dec = view.centre
        east = view.project(ra + 0.01, dec)[0] - view.project(ra, dec)[0]
        north = view.project(ra, dec + (-0.01 if dec > 89.9 else 0.01))[1] - view.project(ra, dec)[1]
        assert east < 0 or abs(dec) > 89.99
        assert (north > 0) == (dec <= 89.9)


def parsed(svg):
    tree = ElementTree.fromstring(svg)  # noqa: S314 (our own text)
    assert "nan" not in svg.lower()
    assert "inf" not in svg.lower()
    return tree


def test_the_picture_shows_every_cell_twice_with_its_numbers(scene):
    tree = parsed(coverage_svg(GRID, scene, "version <1> & band r"))
    assert "version <1> & band r" in [text.text for text in tree.iter(f"{SVG}text")]
    titles = [title.text for title in tree.iter(f"{SVG}title")]
    for one in scene:
        depth = 31.4 - 2.5 * math.log10(one.depth)
        assert titles.count(f"{one.cell.label}: {depth:.2f} AB mag, {one.nEpochs} epochs") == 2
    labels = [text.text for text in tree.iter(f"{SVG}text") if text.text.endswith("°")]
    assert len(labels) >= 4


def test_deeper_cells_are_brighter_and_cells_without_a_depth_grey():
    cells = [
        replace(one, depth=depth) for one, depth in zip(field(150.0, 2.0, 3, 1), (50.0, 100.0, math.nan), strict=False)
    ]
    tree = parsed(coverage_svg(GRID, cells, "three"))
    first = {}
    for path in tree.iter(f"{SVG}path"):
        title = path.find(f"{SVG}title")
        if title is not None:
            first.setdefault(title.text.split(":")[0], path.get("fill"))
    colours = [first[one.cell.label] for one in cells]
    light = [sum(int(colour[k : k + 2], 16) for k in (1, 3, 5)) for colour in colours]
    assert light[0] > light[1]
    assert colours[2] == "#b0b0b0"


def test_ten_thousand_cells_make_a_picture_of_a_megabyte():
    middle = GRID.cell_at(0.0, -30.0)
    steps = [(x, y) for x in range(-50, 50) for y in range(-50, 50)]
    cells = [CellId(middle.tract, middle.cellX + x, middle.cellY + y) for x, y in steps]
    records = [record(cell, i) for i, cell in enumerate(cells)]
    svg = coverage_svg(GRID, records, "many")
    tree = parsed(svg)
    assert sum(path.get("d").count("Z") for path in tree.iter(f"{SVG}path")) == 2 * len(records)
    assert len(svg) < 1_500_000


def test_more_cells_than_fit_share_marks():
    grid = Tessellation(GRID.pixel_scale / 64, GRID.cell_size)
    cells = [record(CellId(tract, x, x), x) for tract in (5000, 5001, 9000) for x in range(2000, 9000, 5)]
    svg = coverage_svg(grid, cells, "many")
    marks = sum(path.get("d").count("z") for path in parsed(svg).iter(f"{SVG}path"))
    assert 100 < marks < len(cells)
    assert len(svg) < 300_000


def test_the_files_of_a_version():
    cells = [*field(150.0, 2.0, 6, 5), *field(150.0, 2.0, 4, 4, "H/a")]
    new, old = manifest(cells), manifest(cells[5:-3], "0001-aaaaaaaa")
    coverage = coverage_of(new, AT)
    files = coverage_files(new, coverage, old, "survey <x>")
    assert files == coverage_files(new, coverage, old, "survey <x>")
    names = [f"coverage-{band}{end}" for band in ("H%2Fa", "r") for end in (".moc.fits", ".moc.json", ".svg")]
    assert sorted(files) == sorted([*names, "report.html"])
    page = files["report.html"].decode()
    assert "survey &lt;x&gt;" in page
    assert "survey <x>" not in page
    assert "Changes since version 0001-aaaaaaaa" in page
    assert page.count("<svg") - page.count("</svg>") == 0
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    for one in worst_cells(new):
        assert one.record.templateId in page
    with fits.open(io.BytesIO(files["coverage-r.moc.fits"])) as hdus:
        found = hdus[1].data["UNIQ"].tolist()
        assert hdus[1].header["MOCID"] == "0002-bbbbbbbb/r"
    assert found == moc_of_cells(GRID, [one.cell for one in cells if one.band == "r"]).uniq.tolist()
    tree = coverage_tree(coverage, new, old)
    assert json.loads(json.dumps(tree))["changes"][1]["new"] == 5
    assert len(tree["worstCells"]) == 20


def test_a_version_without_cells_has_a_page():
    empty = manifest([])
    assert list(coverage_files(empty, coverage_of(empty, AT))) == ["report.html"]


def test_a_version_that_was_built(built):
    store, made = built
    coverage = coverage_of(made, made.end + 60.0)
    files = coverage_files(made, coverage)
    assert sum(band.cells for band in coverage.bands) == len(made.cells)
    assert {f"coverage-{band.band}.svg" for band in coverage.bands} <= set(files)
    assert made.version in files["report.html"].decode()
    assert store.current() == made.version
