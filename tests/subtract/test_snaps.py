"""What changed between the two snaps of a visit, measured: against truth, with the errors stated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from schemas import rows_to_records, table_dtype
from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.photometry import psf_fluxes
from workers.imaging.psf import PsfModel
from workers.imaging.wcs import SkyWcs
from workers.isr.snaps import combine_snaps
from workers.subtract.measure import blank_rows
from workers.subtract.pipeline import subtract
from workers.subtract.snaps import measure_snaps
from workers.survey.config import SubtractConfig
from workers.survey.isr_config import SnapsConfig

SIZE, STEP, SKY, READ_NOISE, NJY = 720, 36, 150.0, 6.0, np.float32(20.0)
"""Pixels, pixels between sources, electrons of a snap of 15 s, electrons, nJy per electron."""
PSF = PsfModel.gaussian(4.0, size=25, width=SIZE, height=SIZE)
AXIS = np.arange(STEP, SIZE - STEP // 2, STEP)
GRID_X, GRID_Y = (plane.ravel() for plane in np.meshgrid(AXIS, AXIS))


def places(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return GRID_X + rng.uniform(-0.5, 0.5, len(GRID_X)), GRID_Y + rng.uniform(-0.5, 0.5, len(GRID_Y))


def electrons(x: np.ndarray, y: np.ndarray, flux: Any, sky: float = SKY, psf: PsfModel = PSF) -> np.ndarray:
    """The expected electrons of one snap: point sources on a sky that is a little tilted."""
    image = np.tile(sky * (1.0 + 0.1 * np.arange(SIZE) / SIZE), (SIZE, 1))
    columns, lines = np.round(x).astype(int), np.round(y).astype(int)
    for column, row, light, stamp in zip(
        columns, lines, np.broadcast_to(flux, x.shape), psf.stamps_at(x, y), strict=True
    ):
        image[row - 12 : row + 13, column - 12 : column + 13] += light * stamp
    return image


def snap(number: int, seed: int, expected: np.ndarray, seconds: float = 15.0) -> Exposure:
    rng = np.random.default_rng(seed)
    image = rng.poisson(expected) + rng.normal(0.0, READ_NOISE, expected.shape)
    mjd, name = 60000.0 + number * 20 / 86400, f"{number}.fits"
    info = ExposureInfo("cam", 1, 0, "r", mjd, seconds, 0.0, 0.0, 20230225, "science", f"{number}", name)
    variance = np.maximum(image, 0.0) + READ_NOISE**2
    return Exposure(info, image, np.zeros(image.shape, np.int32), variance)  # type: ignore[arg-type]


def calibrated(first: Exposure, second: Exposure) -> Exposure:
    """The visit in nJy, as characterization leaves it."""
    both = combine_snaps(first, second, SnapsConfig())
    assert both.snaps is not None
    image, variance = (both.image - np.median(both.image)) * NJY, both.variance * NJY**2
    wcs = SkyWcs.tangent(150.0, 2.0, (SIZE / 2, SIZE / 2), 0.2)
    return both.replaced(image=image, variance=variance, unit="nJy", psf=PSF, wcs=wcs, snaps=both.snaps.scaled(NJY))


def measured(science: Exposure, x: np.ndarray, y: np.ndarray) -> Any:
    rows = blank_rows(table_dtype("alert", "diaSource"), len(x))
    rows["x"], rows["y"] = x, y
    good = usable_pixels(science.image, science.variance, science.mask)
    forced = psf_fluxes(science.image, science.variance, good, PSF, x, y)
    rows["scienceFlux"], rows["scienceFluxErr"] = forced["flux"], forced["fluxErr"]
    measure_snaps(rows, science)
    return rows


def check_pulls(rows: Any, truth: Any, lost: float = 0.05) -> None:
    known = np.isfinite(rows["snapDiffFlux"])
    assert np.array_equal(known, np.isfinite(rows["snapDiffFluxErr"]))
    assert known.mean() > 1.0 - lost
    pulls = ((rows["snapDiffFlux"] - truth) / rows["snapDiffFluxErr"])[known]
    assert abs(pulls.mean()) < 3.0 / np.sqrt(len(pulls))
    assert abs(pulls.std() - 1.0) < 3.0 / np.sqrt(2.0 * len(pulls))


@pytest.mark.parametrize(("seconds", "sky"), [(15.0, SKY), (30.0, SKY), (15.0, 1.4 * SKY)])
def test_what_is_constant_has_no_flux(seconds: float, sky: float) -> None:
    x, y = places(1)
    flux = 10 ** np.random.default_rng(2).uniform(2.5, 5.0, len(x))
    one, two = electrons(x, y, flux), electrons(x, y, flux, sky) * seconds / 15.0
    check_pulls(measured(calibrated(snap(0, 3, one), snap(1, 4, two, seconds)), x, y), 0.0)


def test_seeing_clouds_and_pointing_are_no_change() -> None:
    """Stars of up to 100,000 electrons, 10 % wider, 10 % fainter towards one side, and 0.2 pixels away."""
    x, y = places(24)
    rng = np.random.default_rng(25)
    flux = 10 ** rng.uniform(2.5, 5.0, len(x))
    changed = (rng.uniform(size=len(x)) < 0.2) & (flux > 1e4)
    clear = 0.95 - 0.1 * x / SIZE
    wide = PsfModel.gaussian(4.4, size=25, width=SIZE, height=SIZE)
    one = electrons(x - 0.1, y, flux * np.where(changed, 1.15, 1.0))
    two = electrons(x + 0.1, y, flux * clear, psf=wide)
    rows = measured(calibrated(snap(0, 26, one), snap(1, 27, two)), x, y)
    check_pulls(rows[~changed], 0.0, lost=0.1)
    pulls = ((rows["snapDiffFlux"] - 0.3 * flux * NJY) / rows["snapDiffFluxErr"])[changed]
    assert abs(np.nanmedian(pulls)) < 1.5  # of changes of up to 60 sigma


@pytest.mark.parametrize("seconds", [15.0, 30.0])
def test_a_star_that_changes_has_the_flux_of_its_change(seconds: float) -> None:
    """By a fifth, some up, some down, most not at all: S/N of 5 to 30, in nJy of the whole visit."""
    rng = np.random.default_rng(5)
    x, y = places(6)
    flux, change = 10 ** rng.uniform(4.0, 4.8, len(x)), rng.choice([-0.2, 0.2, 0.0, 0.0, 0.0, 0.0], len(x))
    one, two = electrons(x, y, flux), electrons(x, y, flux * (1 + change)) * seconds / 15.0
    science = calibrated(snap(0, 7, one), snap(1, 8, two, seconds))
    rows, truth = measured(science, x, y), -flux * change * (15.0 + seconds) / 15.0 * NJY
    changed = change != 0.0
    assert np.nanmedian(np.abs(rows["snapDiffFlux"] / rows["snapDiffFluxErr"])[changed]) > 10.0
    check_pulls(rows[changed], truth[changed])


@pytest.mark.parametrize("before", [0.0, 330.0])
def test_a_faint_source_of_the_second_snap_alone_or_doubled(before: float) -> None:
    """Too faint, at S/N 3, to be taken for an artefact."""
    x, y = places(9)
    one, two = electrons(x, y, before), electrons(x, y, before + 330.0)
    rows = measured(calibrated(snap(0, 10, one), snap(1, 11, two)), x, y)
    assert -np.nanmedian(rows["snapDiffFlux"] / rows["snapDiffFluxErr"]) == pytest.approx(2.8, abs=0.4)
    check_pulls(rows, -2 * 330.0 * NJY)


def test_what_is_an_artefact_of_one_snap_is_not_measured() -> None:
    x, y = places(12)
    flux = np.full(len(x), 3000.0)
    alone = np.arange(len(x)) % 3 == 0
    one, two = electrons(x, y, flux), electrons(x, y, np.where(alone, 50.0 * flux, flux))
    struck = np.arange(len(x)) % 3 == 1
    one[GRID_Y[struck], GRID_X[struck] + 1] += 4000.0  # a ray beside the middle
    one[GRID_Y[struck] + 6, GRID_X[struck]] += 4000.0
    rows = measured(calibrated(snap(0, 13, one), snap(1, 14, two)), x, y)
    assert np.isnan(rows["snapDiffFlux"][alone | struck]).all()
    check_pulls(rows[~alone & ~struck], 0.0)
    one[GRID_Y[struck], GRID_X[struck] + 1] -= 4000.0
    check_pulls(measured(calibrated(snap(0, 13, one), snap(1, 14, two)), x, y)[struck], 0.0)  # one 6 pixels off is cut


def test_one_snap_has_no_difference() -> None:
    x, y = places(15)
    science = calibrated(snap(0, 16, electrons(x, y, 3e3)), snap(1, 17, electrons(x, y, 3e3)))
    rows = measured(science.replaced(snaps=None), x, y)
    assert {record["snapDiffFlux"] for record in rows_to_records(rows)} == {None}
    off = np.array([np.nan, -50.0, SIZE + 50.0, 1.0])
    assert np.isnan(measured(science, off, off)["snapDiffFlux"]).all()  # nor has what lies beyond the edge


def test_the_stage_measures_it() -> None:
    """A transient and a star that changed between the snaps, found in the difference from the template."""
    x, y = places(18)
    flux = 10 ** np.random.default_rng(19).uniform(3.5, 5.0, len(x))
    late = np.zeros(len(x))
    late[[100, 250]] = 0.25 * flux[[100, 250]] + 1500.0
    science = calibrated(snap(0, 20, electrons(x, y, flux)), snap(1, 21, electrons(x, y, flux + late)))
    template = calibrated(snap(0, 22, electrons(x, y, flux)), snap(1, 23, electrons(x, y, flux)))
    for pair, measures in ((science, True), (science.replaced(snaps=None), False)):
        result = subtract(pair, template, SubtractConfig())
        assert result.difference.snaps is None
        near = np.hypot(result.sources["x"][:, None] - x[late > 0], result.sources["y"][:, None] - y[late > 0]) < 1.5
        found = result.sources[near.any(axis=1)]
        assert len(found) == 2
        assert np.isfinite(found["snapDiffFlux"]).all() == measures
        if measures:
            check = np.abs(found["snapDiffFlux"] + 2 * late[[100, 250]] * NJY) / found["snapDiffFluxErr"]
            assert check.max() < 4.0
