"""The corrected light curve of an object: exact with warps, by its own points without."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import schemas
from schemas.errors import DataError
from tests.templates.kept_cells import CELL, GRID, make
from workers.templates.contamination import amount_of
from workers.templates.curves import corrected_curves, span_of

PLACE = (31.3, 32.4)
SKY = tuple(float(one) for one in GRID.cell_wcs(CELL).pixel_to_sky(*PLACE))
MJDS = 60000.0 + 30.0 * np.arange(12)
GONE = 60310.0
"""When a template version served that was removed."""


def the_light(mjd):
    """A plateau of 4000 nJy from 60280 to 60420."""
    return np.where((np.asarray(mjd) > 60280.0) & (np.asarray(mjd) < 60420.0), 4000.0, 0.0)


class Store:
    """One version, whose cell holds the last inputs' light."""

    root = Path("templates")

    def __init__(self, made):
        self.made = made
        record = SimpleNamespace()
        self.shared = SimpleNamespace(grid=GRID, record=lambda band, cell: record if band == "r" else None)

    def serving(self, mjd):
        return "0002-gone" if mjd == GONE else "0001-a"

    def holds(self, version):
        return version == "0001-a"

    def manifest(self, version):
        assert version == "0001-a"
        return self.shared

    def read(self, record):
        return self.made.cell


def sources_of(made, rng, mjds, visits):
    """Sources as the difference against the template of `made` gives them."""
    out = tuple(np.flatnonzero(the_light(MJDS)).tolist())
    amount = amount_of(made.cell, *PLACE, out, made.warps)
    rows = np.zeros(len(mjds), schemas.table_dtype("alert", "diaSource"))
    rows["midpointMjdTai"], rows["visit"], rows["band"], rows["ra"], rows["dec"] = mjds, visits, "r", *SKY
    rows["psfFlux"] = the_light(mjds) + rng.normal(0.0, 25.0, len(mjds)) - amount.flux
    rows["psfFluxErr"] = np.hypot(25.0, np.sqrt(amount.template))
    return rows


def test_fluxes_are_corrected_with_warps_and_without():
    rng = np.random.default_rng(2)
    made = make(4, the_light(MJDS))
    mjds = np.array([60290.0, 60305.0, 60331.0, 60345.0, 60370.0, 60700.0, 60720.0, 60740.0, GONE])
    rows = sources_of(made, rng, mjds, np.array([900, 901, 902, 903, 904, 905, 906, 907, 908]))
    assert span_of(rows[:5]) == (60200.0, 60670.0)
    span = (60275.0, 60430.0)
    for warps, exact in ((made.warps, True), (lambda item, cell: None, False)):
        (got,) = corrected_curves(rows, SKY, span, Store(made), lambda manifest, warps=warps: warps)
        assert got.band == "r"
        assert got.exact == (exact,) * 5
        assert got.absent == 1
        assert got.templateId == (made.cell.plan.templateId,) * 5
        assert np.all(rows["psfFlux"][:5] < 3700.0)
        off = got.curve.flux - 4000.0
        chi2 = off @ np.linalg.solve(got.curve.covariance, off)
        assert chi2 < 20.0
        assert got.curve.errors.max() < 60.0
        assert 0.0 < got.shared.max() < got.curve.errors.max()
        assert np.all(np.linalg.eigvalsh(got.curve.covariance) > 0)


def test_without_any_template_it_says_so():
    made = make(4, the_light(MJDS))
    rows = sources_of(made, np.random.default_rng(1), np.array([60300.0]), np.array([1]))
    rows["band"] = "g"
    with pytest.raises(DataError, match="coverage"):
        corrected_curves(rows, SKY, (60200.0, 60500.0), Store(made), lambda manifest: made.warps)
