"""Which objects are left out of templates, where and when, and when that makes a cell new."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import schemas
from tests.templates.synthetic import CONFIG
from workers.database import OBJECT_DTYPE
from workers.imaging.fits import read_exposure
from workers.imaging.tracts import Tessellation
from workers.templates.build import build_cell
from workers.templates.calexps import index_calexps
from workers.templates.cell import PlannedInput
from workers.templates.cell_file import cell_from_bytes, cell_to_bytes
from workers.templates.method import made_alike
from workers.templates.pipeline import planned
from workers.templates.veto import Veto, for_cell, known_vetoes, pinned, transients_of, veto_mask, vetoes_of

GRID = Tessellation(0.2, 128)
CELL = GRID.cell_at(150.1, -2.2)
WCS = GRID.cell_wcs(CELL, 16)
MJDS = 60000.0 + 30.0 * np.arange(12)
INPUTS = tuple(PlannedInput(None, 100 + k, 0, float(t), 1.0, "0" * 64, "0" * 64) for k, t in enumerate(MJDS))


def an_object(number, first=60200.0, last=60230.0, ra=150.1, dec=-2.2):
    row = np.zeros(1, OBJECT_DTYPE)
    for name, value in {"diaObjectId": number, "ra": ra, "dec": dec, "nDiaSources": 4}.items():
        row[name] = value
    row["firstDiaSourceMjdTai"], row["lastDiaSourceMjdTai"] = first, last
    return row


def its_sources(number, fluxes, template=50.0, extendedness=1.0):
    rows = np.zeros(len(fluxes), schemas.table_dtype("alert", "diaSource"))
    rows["diaObjectId"], rows["psfFlux"], rows["isNegative"] = number, fluxes, np.asarray(fluxes) < 0
    rows["templateFlux"], rows["extendedness"] = template, extendedness
    return rows


CASES = {
    "supernova": ((300.0, 500.0, 200.0), {}, True),
    "supernova on a bright galaxy": ((300.0, 500.0, 200.0), {"template": 9000.0}, True),
    "supernova with one bad point": ((300.0, 500.0, 200.0, -90.0), {}, True),
    "variable star": ((300.0, -500.0, 200.0, -300.0), {}, False),
    "variable seen high alone": ((300.0, 500.0, 200.0), {"template": 9000.0, "extendedness": 0.1}, False),
    "nova on a faint star": ((300.0, 5000.0, 900.0), {"template": 400.0, "extendedness": 0.1}, True),
    "faded star": ((-300.0, -500.0, -200.0), {}, False),
    "single detection": ((300.0,), {}, False),
}


def test_variables_are_no_transients():
    objects = np.concatenate([an_object(k) for k in range(len(CASES))])
    sources = np.concatenate([its_sources(k, f, **kw) for k, (f, kw, _) in enumerate(CASES.values())])
    kept = transients_of(objects[::-1], sources[::-1], 365.0)["diaObjectId"]
    assert kept.tolist() == [k for k, (_, _, truth) in enumerate(CASES.values()) if truth]


def test_what_shines_for_years_or_moves_is_no_transient():
    flux = (300.0, 500.0, 200.0)
    assert len(transients_of(an_object(1, last=60600.0), its_sources(1, flux), 365.0)) == 0
    moving = its_sources(1, flux)
    moving["ssObjectId"][1] = 77
    assert len(transients_of(an_object(1), moving, 365.0)) == 0


def test_a_veto_lasts_from_before_the_first_to_after_the_last_detection():
    (veto,) = vetoes_of(an_object(5), 1.2)
    assert veto == Veto(5, 150.1, -2.2, 60110.0, 60530.0, pytest.approx(3.6))
    assert veto.hits(MJDS).tolist() == [t >= 60110.0 for t in MJDS]


def test_only_vetoes_that_matter_are_taken():
    side = GRID.cell_size + 32
    inside = Veto(5, *map(float, WCS.pixel_to_sky(80.0, 70.0)), 60110.0, 60530.0, 3.0)
    x = side - 0.5 + 3.0 / 0.2
    beside = replace(inside, diaObjectId=4, ra=float(WCS.pixel_to_sky(x - 1, 70.0)[0]))
    beyond = replace(inside, diaObjectId=3, ra=float(WCS.pixel_to_sky(x + 1, 70.0)[0]))
    old = replace(inside, diaObjectId=6, begin=59000.0, end=59900.0)
    always = replace(inside, diaObjectId=7, begin=60050.0)
    assert for_cell([inside, beyond, old, always, beside], GRID, CELL, INPUTS) == (beside, inside)
    assert for_cell([always], GRID, CELL, INPUTS, min_epochs=2) == (always,)


def test_the_mask_is_a_disc_in_the_epochs_hit():
    ra, dec = (float(place) for place in WCS.pixel_to_sky(40.3, 150.8))
    veto = Veto(5, ra, dec, 60110.0, 60200.0, 3.0)
    mask = veto_mask([veto], WCS, (160, 160), MJDS)
    y, x = np.mgrid[:160, :160]
    disc = np.hypot(x - 40.3, y - 150.8) * 0.2 <= 3.0
    for number, mjd in enumerate(MJDS):
        if 60110.0 <= mjd <= 60200.0:
            assert (mask[number] != disc).sum() <= 4  # pixels on the rim: the scale of a TAN plane
        else:
            assert not mask[number].any()


def test_a_cell_becomes_new_only_with_the_pixels_hit():
    veto = Veto(5, 150.100011, -2.2, 60110.0, 60301.0, 3.0)
    key = pinned([veto], INPUTS)
    assert key == pinned([replace(veto, end=60302.0, ra=150.100012)], INPUTS)
    assert key != pinned([replace(veto, end=60331.0)], INPUTS)
    assert key != pinned([replace(veto, dec=-2.2003)], INPUTS)
    assert pinned([], INPUTS) == pinned([replace(veto, begin=60111.0, end=60112.0)], INPUTS) == ()
    masks = [veto_mask(vetoes, WCS, (160, 160), MJDS) for vetoes in (key, [replace(veto, ra=150.1)])]
    assert np.array_equal(*masks)


class Known:
    """Two objects in a database."""

    def objects_near(self, ra, dec, radius):
        assert len(ra) == len(dec)
        assert radius > 0.5 * np.hypot(128, 128) * 0.2
        return np.concatenate([an_object(1), an_object(2)])

    def history(self, ids, since, before):
        assert (list(ids), since, before) == ([1, 2], -np.inf, (np.inf, 0))
        return np.concatenate([its_sources(1, (300.0, -500.0, 200.0, -300.0)), its_sources(2, (300.0, 500.0))])


def test_vetoes_come_from_the_database():
    found = known_vetoes(Known(), GRID, [CELL, CELL], fwhm_arcsec=1.0, window_days=365.0)
    assert {tract: [veto.diaObjectId for veto in vetoes] for tract, vetoes in found.items()} == {CELL.tract: [2]}


def test_a_vetoed_object_is_left_out_of_the_cell_and_the_file_says_so(archive, sky, tmp_path):
    ra, dec = float(sky.ra[17]), float(sky.dec[17])
    entries = index_calexps(archive)
    hit = entries[2].midpointMjdTai, entries[3].midpointMjdTai
    veto = Veto(77, ra, dec, hit[0] - 5.0, hit[1] + 5.0, 1.0)
    plans, _ = planned(entries, CONFIG, lambda grid, cells, fwhm: dict.fromkeys({c.tract for c in cells}, (veto,)))
    plain, _ = planned(entries, CONFIG)
    cell = Tessellation(CONFIG.pixel_scale, CONFIG.cell_size).cell_at(ra, dec)
    mine, other = (next(item for item in made if item.cell == cell) for made in (plans, plain))
    assert mine.templateId != other.templateId
    assert [item.templateId for item in plans if not item.vetoes] == [
        item.templateId for item in plain if item.cell not in {p.cell for p in plans if p.vetoes}
    ]
    built = build_cell(mine, read_exposure)
    x, y = (round(float(v)) for v in mine.grid.cell_wcs(cell).sky_to_pixel(ra, dec))
    times = np.array([item.midpointMjdTai for item in mine.inputs])
    assert not built.given_at(x, y)[(times >= hit[0]) & (times <= hit[1])].any()
    assert built.given_at(x, y).sum() >= 3
    again = cell_from_bytes(cell_to_bytes(built), "cell")
    radius = round(3.0 * max(entry.fwhm for entry in entries), 2)
    assert again.plan.vetoes == mine.vetoes == (Veto(77, round(ra, 4), round(dec, 4), *hit, radius),)
    assert made_alike(again.plan)
