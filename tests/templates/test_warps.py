"""The kept warps: made once, the same from memory and from the file, found by content, removed when not needed."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from schemas.errors import DataError
from tests.templates.synthetic import CONFIG, nights
from workers.imaging.fits import read_exposure, write_exposure
from workers.imaging.masks import MaskPlane
from workers.imaging.tracts import Tessellation
from workers.templates.calexps import index_calexps
from workers.templates.pipeline import plan
from workers.templates.warp_file import WarpFile
from workers.templates.warps import BORDER, ExposureCache, WarpStore, fresh_block

GRID = Tessellation(CONFIG.pixel_scale, CONFIG.cell_size)
FIELDS = ("image", "mask", "variance", "psf")


@pytest.fixture
def cell_plan(archive):
    return plan(index_calexps(archive), CONFIG)[0]


@pytest.fixture
def warps(tmp_path):
    return WarpStore(tmp_path, GRID)


def same(one, other):
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in FIELDS)


def test_a_kept_warp_is_what_a_fresh_one_is(cell_plan, warps):
    item, cell = cell_plan.inputs[0], cell_plan.cell
    assert warps.block(item, cell) is None
    warps.make(item, [cell.tract])
    kept, fresh = warps.block(item, cell), fresh_block(item, cell, GRID, read_exposure)
    assert same(kept, fresh)
    assert kept.noise_correlation == fresh.noise_correlation
    assert kept.image.shape == (CONFIG.cell_size + 2 * BORDER,) * 2


def test_a_file_holds_all_cells_that_the_exposure_covers(cell_plan, warps):
    item = cell_plan.inputs[0]
    exposure = read_exposure(item.path)
    covered = GRID.cells_over(exposure.wcs, exposure.shape)
    tracts = {cell.tract for cell in covered}
    warps.make(item, tracts)
    for tract in tracts:
        with WarpFile(warps.path(item.calexp, tract)) as file:
            assert set(file.cells) == {cell for cell, part in covered.items() if part > 0 and cell.tract == tract}
            assert (file.header.visit, file.header.calexp) == (item.visit, item.calexp)


def test_rounding_is_far_below_the_noise(cell_plan, warps):
    item = cell_plan.inputs[0]
    warps.make(item, [cell_plan.cell.tract])
    with WarpFile(warps.path(item.calexp, cell_plan.cell.tract)) as file:
        block = file.block(cell_plan.cell)
        sky = np.median(block.variance[(block.mask & int(MaskPlane.NO_DATA)) == 0])
        assert np.sqrt(sky) / 33 < file.header.step <= np.sqrt(sky) / 14
        assert sky / 202 < file.header.variance_step <= sky / 90


def test_the_same_exposure_gives_the_same_bytes_and_another_a_file_of_its_own(cell_plan, tmp_path, sky):
    one, other = WarpStore(tmp_path / "a", GRID), WarpStore(tmp_path / "b", GRID)
    item, tract = cell_plan.inputs[0], cell_plan.cell.tract
    one.make(item, [tract])
    other.make(replace(item, weight=7.0), [tract])
    path = one.path(item.calexp, tract)
    assert path.read_bytes() == other.path(item.calexp, tract).read_bytes()
    assert one.path("f" * 64, tract) != path
    coarse = WarpStore(tmp_path / "a", Tessellation(2.0, CONFIG.cell_size))
    assert coarse.block(item, cell_plan.cell) is None


def test_a_plan_that_the_file_has_left_behind_is_refused(cell_plan, warps, tmp_path, sky):
    night, item = nights(7)[0], cell_plan.inputs[0]
    path = tmp_path / "again.fits"
    write_exposure(path, sky.expose(**{**night, "fwhm": 3.3}))
    with pytest.raises(DataError, match=r"again\.fits was calibrated anew"):
        warps.make(replace(item, path=path), [cell_plan.cell.tract])
    with pytest.raises(DataError, match=r"holds exposure 1000:0 and not the planned 1001:0"):
        warps.make(replace(cell_plan.inputs[1], path=path), [cell_plan.cell.tract])
    with pytest.raises(DataError, match="read back from a template"):
        warps.make(replace(item, path=None), [cell_plan.cell.tract])
    assert not list(warps.root.glob("*/*/*.fits"))


def test_a_damaged_file_is_named(cell_plan, warps):
    item, cell = cell_plan.inputs[0], cell_plan.cell
    warps.make(item, [cell.tract])
    path = warps.path(item.calexp, cell.tract)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match=f"{item.calexp}.*templates build"):
        warps.block(item, cell)


def test_few_files_are_open_at_a_time(cell_plan, warps, monkeypatch):
    monkeypatch.setattr("workers.templates.warps._OPEN_FILES", 2)
    for item in cell_plan.inputs:
        warps.make(item, [cell_plan.cell.tract])
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    blocks = [warps.block(item, cell_plan.cell) for item in (*cell_plan.inputs, *cell_plan.inputs)]
    assert all(same(blocks[k], blocks[k + len(cell_plan.inputs)]) for k in range(len(cell_plan.inputs)))
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_prune_removes_what_no_version_names_and_no_job_used_lately(cell_plan, warps):
    first, second, third = cell_plan.inputs[:3]
    tract, day = cell_plan.cell.tract, 86_400.0
    for item in (first, second, third):
        warps.make(item, [tract])
    warps.used([(first.calexp, tract), (second.calexp, tract)], now=0.0)
    warps.used([(third.calexp, tract)], now=300 * day)
    torn = warps.path(first.calexp, tract).with_name(f".{first.calexp}.fits.abc")
    torn.write_bytes(b"half")
    os.utime(torn, (0.0, 0.0))
    assert warps.prune({second.calexp}, 400.0, now=399 * day) == ()
    assert not torn.exists()
    assert warps.prune({second.calexp}, 400.0, now=401 * day) == (warps.path(first.calexp, tract),)
    assert warps.block(first, cell_plan.cell) is None
    assert warps.prune({second.calexp}, 0.0) == tuple(
        sorted(warps.path(item.calexp, tract) for item in (second, third))
    )


def test_the_cache_reads_an_exposure_once_while_there_is_room(archive):
    paths = sorted(archive.glob("*.fits"))[:3]
    read = []

    def load(path):
        read.append(path)
        return read_exposure(path)

    cache = ExposureCache(load, pixels=2 * 280 * 280)
    for path in (*paths[:2], *paths[:2], *paths):
        cache(path)
    assert read == paths
    cache(paths[0])
    assert read == [*paths, paths[0]]
