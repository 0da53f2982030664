"""Templates in airmass bins: planned, built, kept, taken by exposures of their airmass; where the whole cell serves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

import schemas
from schemas import RowGroups
from schemas.errors import ConfigurationError
from tests.cli.command import skydelta
from tests.cli.test_calibrate import CAMERA
from tests.templates.synthetic import CONFIG, DEC, RA, SURVEY, Sky
from tests.templates.test_own_light import no_limits
from workers.database import OBJECT_DTYPE
from workers.imaging.fits import write_exposure
from workers.imaging.horizon import look_up
from workers.imaging.masks import BLOCKING
from workers.imaging.refraction import BANDS, Air, Band, chromatic_shift, effective_wavelength
from workers.survey.camera import Site
from workers.templates import own_light
from workers.templates.airmass_cells import Telescope
from workers.templates.calexps import index_calexps
from workers.templates.contamination import CLEAN
from workers.templates.curves import corrected_curves
from workers.templates.pipeline import plan, planned, run_job, template_for
from workers.templates.provenance import pixel_origins
from workers.templates.store import Manifest, TemplateStore

SITE = Site(longitude=-70.74, latitude=-30.24, height=2663.0)
AIR = Air.at_height(SITE.height)
TELESCOPE = Telescope(SITE, {})
BINNED = CONFIG.model_copy(update={"airmass_bands": ("g",)})
TRANSIT = 60010.154
"""When the field stands highest; 0.997270 days later again."""
RISING, SETTING = range(1000, 1004), range(1006, 1010)
HOURS = dict(zip(range(1000, 1010), [-3.6, -3.7, -3.5, -3.6, 0.0, 0.1, 3.6, 3.5, 3.7, 3.6], strict=True))
BINNED_SURVEY = SURVEY + 'airmass_bands = ["g"]\n'


def time_of(day, hour):
    return TRANSIT + 0.99727 * (day + hour / 24.0)


def stars():
    """Twenty of 1e4 nJy, every other of them blue."""
    east, north = (axis.ravel() for axis in np.meshgrid(np.linspace(-88, 88, 5), np.linspace(-80, 80, 4)))
    return Sky(RA + east / 3600 / np.cos(np.radians(DEC)), DEC + north / 3600, np.full(20, 1e4))


BLUE = np.arange(20) % 2 == 0


def moved(sky, mjd):
    """The sky as it is seen: blue stars (12,000 K) shifted from where those of 5,200 K stand."""
    seen = look_up(RA, DEC, mjd, longitude=SITE.longitude, latitude=SITE.latitude, height=SITE.height)
    waves = [float(effective_wavelength(heat, BANDS["g"])) for heat in (12000.0, 5200.0)]
    shift = float(chromatic_shift(*waves, 90.0 - seen.altitude, AIR)) * BLUE / 3600
    angle = np.radians(seen.parallacticAngle)
    return replace(
        sky, ra=sky.ra + shift * np.sin(angle) / np.cos(np.radians(DEC)), dec=sky.dec + shift * np.cos(angle)
    )


def expose(visit, mjd, **how):
    exposure = moved(stars(), mjd).expose(visit, mjd, **how)
    return exposure.replaced(info=replace(exposure.info, band="g"))


def science(hour):
    return expose(9000, time_of(480, hour), noise=False)


@pytest.fixture(scope="module")
def calexps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("airmass")
    for visit, hour in HOURS.items():
        dither = ((visit % 5) * 0.2 - 0.4, (visit % 3) * 0.3 - 0.3)  # cells are covered alike
        write_exposure(folder / f"{visit}.fits", expose(visit, time_of(visit - 1000, hour), dither=dither))
    return folder


@pytest.fixture(scope="module")
def made(calexps, tmp_path_factory):
    """The store and its version with bins."""
    store = TemplateStore(tmp_path_factory.mktemp("templates"))
    return store, run_job(calexps, store, BINNED, telescope=TELESCOPE).manifest


def visits(plan):
    return {item.visit for item in plan.inputs}


def test_bins_are_planned_behind_the_whole_cell_which_stays_what_it_was(calexps):
    entries = index_calexps(calexps)
    plans, _ = planned(entries, BINNED, telescope=TELESCOPE)
    whole = [one for one in plans if not one.bin]
    assert [one.templateId for one in whole] == [one.templateId for one in plan(entries, CONFIG)]
    assert len({one.templateId for one in plans}) == len(plans)
    for one in whole:
        bins = {other.bin: other for other in plans if other.bin and other.cell == one.cell}
        assert [visits(bins[name]) for name in ("a", "b")] == [set(RISING), set(SETTING)]
        assert len(bins) == 2
        assert bins["a"].vector[0] < one.vector[0] - 0.8 < one.vector[0] + 0.8 < bins["b"].vector[0]
    two = TELESCOPE.vector(entries[0].wcs, entries[0].shape, entries[0].midpointMjdTai)
    np.testing.assert_allclose(two, min(one.vector for one in plans), atol=0.2)


def test_other_bands_have_no_bins(calexps):
    plans, _ = planned(index_calexps(calexps), BINNED.model_copy(update={"airmass_bands": ("u",)}), None, TELESCOPE)
    assert [(one.bin, one.vector) for one in plans] == [("", None)] * len(plans)


def test_what_is_not_known_of_the_telescope_is_asked_for(calexps):
    entries = index_calexps(calexps)
    with pytest.raises(ConfigurationError, match=r"\[site\] with longitude"):
        planned(entries, BINNED)
    odd = BINNED.model_copy(update={"airmass_bands": ("g", "blue")})
    with pytest.raises(ConfigurationError, match=r"\[bands.blue\] with wavelength_nm"):
        planned(entries, odd, telescope=TELESCOPE)
    assert planned(entries, odd, telescope=Telescope(SITE, {"blue": Band(400.0, 500.0)}))[0]


def test_bins_lie_beside_the_whole_cells(made):
    store, manifest = made
    assert {record.bin for record in manifest.cells} == {""}
    assert [record.bin for record in manifest.bins] == ["a", "b"] * (len(manifest.bins) // 2)
    assert len(manifest.bins) >= 8
    for record in manifest.bins:
        assert record.path.endswith(f"{record.cellX}_{record.cellY}-{record.bin}.fits")
        assert fits.getheader(store.root / record.path)["BIN"] == record.bin
        cell = store.read(record)
        assert (cell.plan.bin, cell.plan.templateId, record.nEpochs) == (record.bin, record.templateId, 4)
        assert manifest.record("g", record.cell, record.bin) == record
        whole = manifest.record("g", record.cell)
        assert whole is manifest.of_band("g")[record.cell]
        assert (whole.bin, whole.nEpochs) == ("", 10)
        assert "BIN" not in fits.getheader(store.root / whole.path)
        assert record in manifest.bins_of_band("g")[record.cell]
    assert manifest.record("g", manifest.bins[0].cell, "z") is None
    assert [len(origin.inputs) for origin in pixel_origins(store, manifest, RA, DEC)] == [10]


def test_bins_that_did_not_change_are_kept(made, calexps, tmp_path):
    shutil.copytree(made[0].root, tmp_path / "templates")
    store = TemplateStore(tmp_path / "templates")
    assert run_job(calexps, store, BINNED, telescope=TELESCOPE).manifest == made[1]
    longer = BINNED.model_copy(update={"begin": CONFIG.begin - 1.0})
    job = run_job(calexps, store, longer, telescope=TELESCOPE)
    assert (job.built, job.kept) == (0, len(made[1].cells) + len(made[1].bins))
    assert [replace(one, path="") for one in job.manifest.bins] == [replace(one, path="") for one in made[1].bins]
    (store.root / "versions" / job.manifest.version / "manifest.json").unlink()
    (store.root / "current").write_text(f"{made[1].version}\n")
    again = run_job(calexps, TemplateStore(store.root), longer, telescope=TELESCOPE)
    assert again.manifest == job.manifest  # of an interrupted job: the vectors are those of the plans
    elsewhere = Telescope(Site(longitude=-60.0, latitude=-30.24, height=0.0), {})
    changed = run_job(calexps, store, longer, telescope=elsewhere).manifest
    assert changed.version != job.manifest.version
    assert changed.bins[0].vector != job.manifest.bins[0].vector


def test_manifests_from_before_bins_are_read(made):
    tree = json.loads(made[1].to_json())
    del tree["bins"]
    for record in tree["cells"]:
        del record["bin"], record["vector"]
    old = Manifest.from_json(json.dumps(tree).encode(), "old")
    assert old.cells == tuple(replace(record, vector=None) for record in made[1].cells)
    assert old.bins == ()
    assert Manifest.from_json(made[1].to_json(), "new") == made[1]


def ids(records, name):
    return {record.templateId for record in records if record.bin == name}


def test_an_exposure_takes_the_bin_of_its_airmass(made):
    store, manifest = made
    for hour, name, epochs in ((-3.6, "a", RISING), (3.6, "b", SETTING)):
        match = template_for(science(hour), store, 0.2, None, TELESCOPE)
        assert set(match.cells) <= ids(manifest.bins, name)
        assert {mjd for mjd, _ in match.inputs} == {time_of(visit - 1000, HOURS[visit]) for visit in epochs}
        assert (match.nEpochs, match.firstEpochMjdTai) == (4, match.inputs[0][0])
        assert match.templateId != template_for(science(hour), store, 0.2).templateId
    middle = template_for(science(0.3), store, 0.2, None, TELESCOPE)
    assert set(middle.cells) <= ids(manifest.cells, "")
    assert middle.nEpochs == 10


def test_the_whole_cell_serves_where_a_bin_can_not(made):
    store, manifest = made
    exposure = science(3.6)
    assert set(template_for(exposure, store, 0.2).cells) <= ids(manifest.cells, "")
    unknown = exposure.replaced(info=replace(exposure.info, midpointMjdTai=time_of(480, 11.0)))  # below the horizon
    assert set(template_for(unknown, store, 0.2, None, TELESCOPE).cells) <= ids(manifest.cells, "")
    first, *others = manifest.bins_of_band("g")
    fewer = replace(manifest, bins=tuple(record for record in manifest.bins if record.cell != first))
    mixed = set(template_for(exposure, store, 0.2, fewer, TELESCOPE).cells)
    assert manifest.record("g", first).templateId in mixed
    assert mixed & {manifest.record("g", cell, "b").templateId for cell in others}


class Holed(TemplateStore):
    """Its bins lack a twentieth of each cell."""

    def read(self, record):
        cell = super().read(record)
        epochs = cell.nEpochs.copy()
        epochs[: len(epochs) // 20 if record.bin else 0] = 0
        return replace(cell, nEpochs=epochs)


def test_a_bin_that_covers_less_is_not_taken(made):
    match = template_for(science(3.6), Holed(made[0].root), 0.2, None, TELESCOPE)
    whole = {record.templateId for record in made[1].cells if Holed(made[0].root).read(record).nEpochs[:6].any()}
    assert whole & set(match.cells)
    assert whole & set(match.cells) == whole & set(template_for(science(3.6), made[0], 0.2).cells)


def dipoles(exposure, match):
    """How far the stars stand apart on science and template, pixels: the first moments of the difference."""
    sky = stars()
    x, y = exposure.wcs.sky_to_pixel(sky.ra, sky.dec)
    yy, xx = np.mgrid[: exposure.shape[0], : exposure.shape[1]]
    difference = exposure.image.astype(float) - match.exposure.image
    found = []
    for x0, y0, flux in zip(x, y, sky.flux, strict=True):
        near = np.hypot(xx - x0, yy - y0) < 6.0
        assert not (match.exposure.mask[near] & BLOCKING).any()
        found.append([(difference * (axis - centre))[near].sum() / flux for axis, centre in ((xx, x0), (yy, y0))])
    return np.hypot(*np.array(found).T)


@pytest.mark.parametrize("hour", [-3.4, 3.75])
def test_blue_stars_leave_a_smaller_dipole(made, hour):
    exposure = science(hour)
    whole = dipoles(exposure, template_for(exposure, made[0], 0.2))
    binned = dipoles(exposure, template_for(exposure, made[0], 0.2, None, TELESCOPE))
    assert np.median(whole[BLUE]) > 0.06
    assert np.median(binned[BLUE]) < 0.4 * np.median(whole[BLUE])
    assert max(np.median(whole[~BLUE]), np.median(binned[~BLUE])) < 0.01


def test_own_light_is_looked_for_in_what_was_subtracted(made, monkeypatch):
    rows, objects = np.zeros(3, schemas.table_dtype("alert", "diaSource")), np.zeros(3, OBJECT_DTYPE)
    rows["ra"], rows["dec"], rows["band"], rows["psfFlux"], rows["psfFluxErr"] = RA, DEC, "g", 4000.0, 50.0
    rows["midpointMjdTai"] = [time_of(480, hour) for hour in (-3.6, 0.3, 3.6)]
    objects["firstDiaSourceMjdTai"] = 60025.0
    looked = []
    monkeypatch.setattr(own_light, "contamination_of", lambda seen, cell, warps: looked.append(cell.plan.bin) or CLEAN)
    none = RowGroups(rows[:0], np.zeros(3, np.int64))
    where = (*made, lambda item, cell: None)
    for telescope, names in ((TELESCOPE, ["a", "", "b"]), (None, ["", "", ""])):
        own_light.with_own_light(rows, objects, none, no_limits, where, 60020.0, telescope)
        assert looked == names
        looked.clear()
        (band,) = corrected_curves(rows, (RA, DEC), (60025.0, 61000.0), made[0], lambda _: where[2], telescope)
        cells = {record.templateId: record.bin for record in (*made[1].cells, *made[1].bins)}
        assert [cells[name] for name in band.templateId] == names


def test_the_commands_know_the_bins(made, calexps, tmp_path):
    (tmp_path / "survey.toml").write_text(BINNED_SURVEY, encoding="utf-8")
    (tmp_path / "camera.toml").write_text(CAMERA, encoding="utf-8")
    shutil.copytree(made[0].root, tmp_path / "templates")
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "calexps").symlink_to(calexps)
    lacking = skydelta("templates", "plan", "-s", tmp_path)
    assert lacking.code != 0
    assert "[site]" in lacking.err
    place = f"\n[site]\nlongitude = {SITE.longitude}\nlatitude = {SITE.latitude}\nheight = {SITE.height}\n"
    (tmp_path / "camera.toml").write_text(CAMERA + place, encoding="utf-8")
    told = json.loads(skydelta("templates", "plan", "-s", tmp_path, "--json").out)
    assert {one["templateId"] for one in told["cells"]} == {
        record.templateId for record in (*made[1].cells, *made[1].bins)
    }
    shown = json.loads(skydelta("templates", "show", "-s", tmp_path, "--json").out)
    assert [len(shown[name]) for name in ("cells", "bins")] == [len(made[1].cells), len(made[1].bins)]
    one = made[1].bins[0].cell.label
    again = json.loads(skydelta("templates", "rebuild", "-s", tmp_path, "--cell", one, "--json").out)
    assert (again["cells"], again["identical"], again["faults"]) == (3, 3, [])
