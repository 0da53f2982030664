"""The template job: depth, photometry, rejection, window, determinism, versions."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError, TransientError
from tests.templates.synthetic import CONFIG, DEC, RA, SIDE, SIGMA, nights
from workers.imaging.fits import read_exposure, write_exposure
from workers.imaging.masks import BLOCKING, MaskPlane
from workers.imaging.wcs import SkyWcs
from workers.templates import job as job_module
from workers.templates.calexps import CalexpEntry, index_calexps
from workers.templates.cell_file import cell_to_bytes
from workers.templates.pipeline import JobProgress, build, build_cell, plan, run_job
from workers.templates.store import Manifest, TemplateStore, only_job


def cells_of(built):
    store, manifest = built
    return [(manifest.grid.cell_wcs(record.cell), store.read(record)) for record in manifest.cells]


def middle_plan(archive):
    """The plan of the cell that all seven epochs cover."""
    plans = plan(index_calexps(archive), CONFIG)
    return max(plans, key=lambda item: min(build_cell(item, read_exposure).used))


def star_fluxes(wcs, cell, sky):
    """PSF fluxes over truth of the stars well inside a cell, with their formal S/N."""
    found = []
    half = 9
    for x, y, flux in zip(*wcs.sky_to_pixel(sky.ra, sky.dec), sky.flux, strict=True):
        x0, y0 = round(float(x)), round(float(y))
        if not (half < x0 < 127 - half and half < y0 < 127 - half):
            continue
        cut = (slice(y0 - half, y0 + half + 1), slice(x0 - half, x0 + half + 1))
        if (cell.nEpochs[cut] == 7).all():
            noise = np.sqrt(cell.variance[cut].sum(dtype=float))
            found.append((cell.image[cut].sum(dtype=float) / flux, flux / noise))
    return np.array(found).reshape(-1, 2)


def test_every_cell_records_its_inputs_epochs_and_depth(built, archive):
    store, manifest = built
    assert len(manifest.cells) >= 4
    for record in manifest.cells:
        cell = store.read(record)
        assert cell.plan.templateId == record.templateId
        assert [item.visit for item in cell.plan.inputs] == [1000 + k for k in range(7)]
        assert (record.firstEpochMjdTai, record.lastEpochMjdTai) == (60010.0, 60130.0)
        raw = {entry.sha256 for entry in index_calexps(archive)}
        assert {item.sha256 for item in cell.plan.inputs} == raw
        assert all(item.weight > 0 for item in cell.plan.inputs)
        assert record.depth > 0
        assert 2.5 < record.fwhm < 4.0


def test_noise_is_that_of_the_variance_plane(built):
    pulls = []
    for _, cell in cells_of(built):
        sky_pixels = (cell.mask == 0) & (cell.nEpochs >= 6) & (np.abs(cell.image) < 4 * np.sqrt(cell.variance))
        pulls.append(cell.image[sky_pixels] / np.sqrt(cell.variance[sky_pixels]))
    pulls = np.concatenate(pulls)
    assert len(pulls) > 10_000
    middle = np.median(pulls)
    width = 1.4826 * np.median(np.abs(pulls - middle))
    assert abs(middle) < 0.1  # stars' wings
    assert width == pytest.approx(1.0, abs=0.05)


def test_depth_grows_with_the_square_root_of_the_epochs(sky, tmp_path):
    same = {"fwhm": 3.0, "sigma": SIGMA}
    empty = replace(sky, flux=np.zeros_like(sky.flux))
    for k in range(8):
        write_exposure(tmp_path / f"{k}.fits", empty.expose(k + 1, 60010.0 + k, rotation=7.0 * k, **same))
    depth = {}
    for count in (2, 8):
        config = CONFIG.model_copy(update={"max_epochs": count, "min_epochs": count})
        plans = plan(index_calexps(tmp_path), config)
        cells = [cell for item in plans if (cell := build_cell(item, read_exposure)) is not None]
        depth[count] = min(cell.depth for cell in cells)
        whole = max(cells, key=lambda cell: int((cell.nEpochs == count).sum()))
        fluxes = random_psf_fluxes(whole, count)
        assert 5.0 * fluxes.std() == pytest.approx(depth[count], rel=0.1)
    assert depth[2] / depth[8] == pytest.approx(2.0, rel=0.03)


def random_psf_fluxes(cell, count):
    """PSF fluxes at positions without sources, on a grid that shares no pixels."""
    psf = cell.psf[6:-6, 6:-6].astype(float)
    half = len(psf) // 2
    fluxes = []
    for y in range(half, 128 - half, 9):
        for x in range(half, 128 - half, 9):
            cut = (slice(y - half, y + half + 1), slice(x - half, x + half + 1))
            if (cell.nEpochs[cut] == count).all():
                fluxes.append((psf * cell.image[cut]).sum() / np.square(psf).sum())
    assert len(fluxes) > 60
    return np.array(fluxes)


def test_photometry_is_unbiased_though_seeing_differs(built, sky):
    ratios = np.concatenate([star_fluxes(wcs, cell, sky) for wcs, cell in cells_of(built) if (cell.nEpochs == 7).any()])
    bright = ratios[ratios[:, 1] > 100]
    assert len(bright) >= 8
    weighted = np.average(bright[:, 0], weights=bright[:, 1] ** 2)
    assert weighted == pytest.approx(1.0, abs=0.003)


def test_star_cores_are_not_clipped(built):
    for _, cell in cells_of(built):
        stars = cell.image > 50 * np.sqrt(np.maximum(cell.variance, 1e-9))
        full = stars & (cell.nEpochs > 0)
        assert sum(cell.rejected) <= 4e-3 * cell.image.size * len(cell.rejected)  # a transient of noise in two epochs
        if full.any():
            assert np.median(cell.nEpochs[full]) == 7 or cell.nEpochs.max() < 7


def artefacts(sky, night):
    """Cosmic rays, a trail and an asteroid in three different epochs, as images by visit; and where they are."""
    yy, xx = np.mgrid[:SIDE, :SIDE]
    rays = np.zeros((SIDE, SIDE))
    rays[120:123, 100] = rays[150, 160:166] = rays[100, 170] = 3000.0
    trail = 60.0 * np.exp(-0.5 * ((yy - 0.4 * xx - 80.0) / 1.5) ** 2)
    asteroid = 80.0 * np.exp(-0.5 * ((xx - 140.0) ** 2 + (yy - 128.0) ** 2) / 1.3**2)
    return {night[1]["visit"]: rays, night[3]["visit"]: trail, night[5]["visit"]: asteroid}


def test_cosmic_rays_trails_and_asteroids_are_gone(sky, archive, tmp_path):
    night = nights(7)
    extra = artefacts(sky, night)
    dirty = replace(sky, extra=extra)
    for item in night:
        write_exposure(tmp_path / f"{item['visit']}.fits", dirty.expose(**item))
    wanted = middle_plan(archive)
    spoilt = next(item for item in plan(index_calexps(tmp_path), CONFIG) if item.cell == wanted.cell)
    clean, cell = build_cell(wanted, read_exposure), build_cell(spoilt, read_exposure)
    change = (cell.image - clean.image) / np.sqrt(clean.variance)
    for visit in extra:
        index = [item.visit for item in spoilt.inputs].index(visit)
        assert cell.rejected[index] > 10
    plain = [np.abs(image).sum() / 7 for image in extra.values()]
    blank = clean.image < 20 * np.sqrt(clean.variance)  # on a star, an epoch less changes the PSF
    assert np.abs((cell.image - clean.image)[blank & (np.abs(change) > 1.5)]).sum() < 0.01 * sum(plain)
    assert np.abs(change[blank]).max() < 4.5
    assert abs(cell.image.sum(dtype=float) / clean.image.sum(dtype=float) - 1.0) < 1e-3
    assert clean.plan.templateId != cell.plan.templateId


def test_a_saturated_core_keeps_a_value_and_its_plane(archive, tmp_path):
    for path in archive.glob("*.fits"):
        exposure = read_exposure(path)
        x, y = exposure.wcs.sky_to_pixel(RA, DEC)
        yy, xx = np.mgrid[:SIDE, :SIDE]
        core = np.hypot(xx - x, yy - y) < 4
        image, mask = exposure.image.copy(), exposure.mask.copy()
        image[core], mask[core] = 50_000.0, mask[core] | MaskPlane.SATURATED
        write_exposure(tmp_path / path.name, exposure.replaced(image=image, mask=mask))
    wanted = next(item for item in plan(index_calexps(tmp_path), CONFIG) if item.grid.cell_at(RA, DEC) == item.cell)
    cell = build_cell(wanted, read_exposure)
    x, y = (round(float(axis)) for axis in wanted.grid.cell_wcs(wanted.cell).sky_to_pixel(RA, DEC))
    assert cell.mask[y, x] & MaskPlane.SATURATED
    assert not cell.mask[y, x] & MaskPlane.NO_DATA
    assert cell.nEpochs[y, x] == 0
    assert cell.image[y, x] == pytest.approx(50_000.0, rel=0.02)
    good = (cell.mask & int(BLOCKING)) == 0
    assert cell.image[good].max() < 45_000.0


def entry(visit, mjd, dither=0.0, **changes):
    values = {
        "path": Path(f"{visit}.fits"),
        "visit": visit,
        "detector": 0,
        "band": "r",
        "midpointMjdTai": mjd,
        "sha256": f"{visit:064d}",
        "calexp": f"{visit:064x}",
        "wcs": SkyWcs.tangent(RA + dither / 3600, DEC, (SIDE / 2, SIDE / 2), 1.0),
        "shape": (SIDE, SIDE),
        "fwhm": 3.0,
        "variance": 25.0,
        "zero_point": 1.0,
    }
    return CalexpEntry(**{**values, **changes})


@given(st.lists(st.floats(59900.0, 60500.0), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_no_epoch_outside_the_window_is_ever_planned(times):
    for item in plan([entry(k + 1, mjd) for k, mjd in enumerate(times)], CONFIG):
        assert all(CONFIG.begin <= one.midpointMjdTai <= CONFIG.end for one in item.inputs)
        assert len(item.inputs) == sum(CONFIG.begin <= mjd <= CONFIG.end for mjd in times)


@given(st.permutations(range(6)))
@settings(max_examples=10, deadline=None)
def test_the_plan_does_not_depend_on_the_order(order):
    entries = [entry(k + 1, 60100.0 + k) for k in range(6)]
    assert plan([entries[k] for k in order], CONFIG) == plan(entries, CONFIG)


def test_the_template_id_follows_everything_that_the_pixels_follow():
    entries = [entry(k + 1, 60100.0 + k) for k in range(4)]
    base = {item.cell: item.templateId for item in plan(entries, CONFIG)}
    moved = [replace(one, path=Path("elsewhere") / one.path) for one in entries]
    assert {item.cell: item.templateId for item in plan(moved, CONFIG)} == base
    for change in ({"sha256": "f" * 64}, {"calexp": "e" * 64}, {"variance": 26.0}, {"fwhm": 3.1}):
        other = plan([replace(entries[0], **change), *entries[1:]], CONFIG)
        assert not {item.templateId for item in other} & set(base.values())
    other = plan(entries, CONFIG.model_copy(update={"min_epochs": 4}))
    assert not {item.templateId for item in other} & set(base.values())


def test_a_transient_after_the_window_leaves_no_trace(sky, archive, tmp_path):
    shutil.copytree(archive, tmp_path, dirs_exist_ok=True)
    yy, xx = np.mgrid[:SIDE, :SIDE]
    nova = 5000.0 * np.exp(-0.5 * ((xx - 140.0) ** 2 + (yy - 140.0) ** 2) / 1.3**2)
    for visit, mjd in ((1, 59990.0), (2, 60365.5), (3, 60400.0)):
        write_exposure(tmp_path / f"{visit}.fits", replace(sky, extra={visit: nova}).expose(visit, mjd))
    bare = [item.templateId for item in plan(index_calexps(archive), CONFIG)]
    assert [item.templateId for item in plan(index_calexps(tmp_path), CONFIG)] == bare


def test_bytes_are_the_same_again_and_with_two_processes(archive, built, tmp_path):
    store, manifest = built
    seen = []
    again = build(archive, TemplateStore(tmp_path), CONFIG, workers=2, progress=lambda *at: seen.append(at))
    assert again.to_json() == manifest.to_json()
    for record in manifest.cells:
        assert (tmp_path / record.path).read_bytes() == (store.root / record.path).read_bytes()
    assert seen[-1][0] == seen[-1][1]


def test_nothing_new_builds_nothing(archive, built):
    store, manifest = built
    assert build(archive, store, CONFIG, progress=lambda *_: pytest.fail("a cell was built")) == manifest
    assert store.versions() == [manifest.version]


def test_only_cells_with_new_inputs_are_built(sky, archive, tmp_path):
    calexps, store = tmp_path / "calexps", TemplateStore(tmp_path / "templates")
    shutil.copytree(archive, calexps)
    first = build(calexps, store, CONFIG)
    write_exposure(calexps / "new.fits", sky.expose(2000, 60200.0, dither=(190.0, 0.0)))
    second = build(calexps, store, CONFIG)
    assert store.versions() == [first.version, second.version]
    assert store.current() == second.version
    old = {record.cell: record for record in first.cells}
    same = [record for record in second.cells if old.get(record.cell, record).templateId == record.templateId]
    changed = [record for record in second.cells if record not in same]
    assert same
    assert changed
    for record in same:
        assert (store.root / record.path).samefile(store.root / old[record.cell].path)
    for record in changed:
        assert 2000 in [item.visit for item in store.read(record).plan.inputs]
    for record in first.cells:  # the old version is whole
        assert store.read(record).plan.templateId == record.templateId


def test_a_cell_of_exposures_is_that_of_their_kept_warps(archive, built):
    store, manifest = built
    for item in plan(index_calexps(archive), CONFIG)[:3]:
        record = manifest.record(item.band, item.cell)
        assert cell_to_bytes(build_cell(item, read_exposure)) == (store.root / record.path).read_bytes()


def test_a_night_in_which_one_input_changed_warps_that_one_only(sky, archive, tmp_path):
    calexps, store = tmp_path / "calexps", TemplateStore(tmp_path / "templates")
    shutil.copytree(archive, calexps)
    first = run_job(calexps, store, CONFIG)
    files = sorted(store.warps.rglob("*.fits"))
    assert (first.warped, first.built, first.kept) == (7, len(first.manifest.cells), 0)
    night = nights(7)[2]
    write_exposure(calexps / f"{night['visit']}.fits", sky.expose(**{**night, "fwhm": 3.5}))
    seen = []
    second = run_job(calexps, store, CONFIG, progress=JobProgress(lambda *at: seen.append(at)))
    assert (second.warped, second.built) == (1, len(first.manifest.cells))
    assert seen == [(1, 1)]
    assert len(set(store.warps.rglob("*.fits")) - set(files)) == len({cell.tract for cell in second.manifest.cells})
    assert set(files) < set(store.warps.rglob("*.fits"))  # the old version can be made again
    again = run_job(calexps, store, CONFIG)
    assert (again.warped, again.built, again.kept) == (0, 0, len(second.manifest.cells))


def test_warps_that_are_not_to_be_kept_are_gone_after_the_job(archive, tmp_path):
    store = TemplateStore(tmp_path)
    job = run_job(archive, store, CONFIG.model_copy(update={"keep_warps_days": 0.0}))
    assert job.pruned == len({cell.tract for cell in job.manifest.cells}) * 7
    assert not list(store.warps.rglob("*.fits"))


def test_two_jobs_at_once_are_one_too_many(archive, tmp_path):
    with only_job(tmp_path), pytest.raises(TransientError, match="when it has ended"):
        run_job(archive, TemplateStore(tmp_path), CONFIG)
    assert run_job(archive, TemplateStore(tmp_path), CONFIG).built > 0


def test_cells_without_data_are_not_tried_again(archive, tmp_path, monkeypatch):
    store, whole, tried = TemplateStore(tmp_path), job_module.cell_of_warps, []

    def some(item, warps):
        tried.append(item.templateId)
        return None if len(tried) % 3 == 1 else whole(item, warps)

    monkeypatch.setattr(job_module, "cell_of_warps", some)
    first = run_job(archive, store, CONFIG)
    assert (first.built, first.empty) == (len(first.manifest.cells), len(tried) - len(first.manifest.cells))
    assert first.manifest.empty == tuple(sorted(tried[::3]))
    later = CONFIG.model_copy(update={"end": CONFIG.end + 1.0})
    second = run_job(archive, store, later)
    assert (second.built, second.kept, second.empty) == (0, first.built, first.empty)
    assert len(tried) == first.built + first.empty
    assert TemplateStore(tmp_path).manifest().empty == first.manifest.empty


def test_the_day_of_the_job_is_that_of_a_window_that_moves(archive, tmp_path):
    moving = CONFIG.model_copy(update={"begin": None, "end": None}).at(60400.7)
    manifest = build(archive, TemplateStore(tmp_path), moving)
    assert (manifest.day, manifest.begin, manifest.end) == (60400.0, 59975.0, 60340.0)
    assert Manifest.from_json(manifest.to_json(), "manifest") == manifest
    assert CONFIG.at(60400.7).day is None


def test_an_interrupted_build_goes_on_where_it_was(archive, tmp_path):
    class InterruptError(Exception):
        pass

    def stop(done, _):
        if done == 2:
            raise InterruptError

    store = TemplateStore(tmp_path)
    with pytest.raises(InterruptError):
        build(archive, store, CONFIG, progress=stop)
    assert store.current() is None
    assert store.versions() == []
    steps = []
    manifest = build(archive, store, CONFIG, progress=lambda done, _: steps.append(done))
    assert steps[0] == 3
    assert [path.name for path in tmp_path.glob("versions/*")] == [manifest.version]


def test_too_few_epochs_are_refused_with_the_reason(archive, tmp_path):
    config = CONFIG.model_copy(update={"begin": 60300.0})
    with pytest.raises(DataError, match=r"of 7 calibrated exposures.*0 lie in the window"):
        build(archive, TemplateStore(tmp_path), config)


def test_two_files_of_one_exposure_are_refused(archive, tmp_path):
    shutil.copy(archive / "1000.fits", tmp_path / "a.fits")
    shutil.copy(archive / "1000.fits", tmp_path / "b.fits")
    with pytest.raises(DataError, match="both exposure 1000:0"):
        index_calexps(tmp_path)


def test_what_is_no_calibrated_exposure_is_named(archive, tmp_path):
    path = tmp_path / "raw.fits"
    path.write_bytes(b"no FITS at all")
    with pytest.raises(DataError, match=r"raw\.fits"):
        index_calexps(tmp_path)
    exposure = read_exposure(archive / "1000.fits")
    write_exposure(path, exposure.replaced(metrics={}))
    with pytest.raises(DataError, match="seeingFwhm"):
        index_calexps(tmp_path)


def test_an_input_that_changed_since_the_plan_is_refused(sky, archive):
    wanted = plan(index_calexps(archive), CONFIG)[0]
    other = sky.expose(77, 60100.0)
    with pytest.raises(DataError, match="holds exposure 77:0"):
        build_cell(wanted, lambda path: other)
