"""Two snaps of a known scene: what one of them adds is found, the rest is their sum with the noise that is stated."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from schemas.errors import DataError
from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.masks import MaskPlane
from workers.isr.snaps import combine_snaps
from workers.simulate.charge import cosmic_rays, satellite_trail
from workers.survey.isr_config import SnapsConfig

SIZE, SKY, READ_NOISE = 400, 10.0, 6.0
"""Electrons per second, electrons."""
CONFIG = SnapsConfig()
Y, X = np.mgrid[:SIZE, :SIZE].astype(float)


@cache
def scene(seconds: float, fwhm: float = 3.5, shift: float = 0.0, stars: int = 80) -> np.ndarray:
    """Electrons of a field of Moffat stars, 500 to 2 million electrons in 15 s, on a sky that is a little tilted."""
    rng = np.random.default_rng(5)
    places, fluxes = rng.uniform(10, SIZE - 10, (stars, 2)), 10 ** rng.uniform(2.7, 6.3, stars)
    width = fwhm / 2 / np.sqrt(2 ** (1 / 3) - 1)
    image = SKY * (1 + 0.1 * X / SIZE)
    for (x, y), flux in zip(places + shift, fluxes / 15.0, strict=True):
        image += flux * 2 / np.pi / width**2 * (1 + ((X - x) ** 2 + (Y - y) ** 2) / width**2) ** -3
    image *= seconds
    image.flags.writeable = False
    return image


def info(**changes: Any) -> ExposureInfo:
    fields = {"instrument": "cam", "visit": 1, "detector": 0, "band": "r", "midpointMjdTai": 60000.0}
    fields |= {"exposureTime": 15.0, "ra": 0.0, "dec": 0.0, "night": 20230225, "kind": "science"}
    return ExposureInfo(**(fields | {"sha256": "aa", "fileName": "a.fits"} | changes))  # type: ignore[arg-type]


def snap(seed: int, electrons: np.ndarray, **changes: Any) -> Exposure:
    rng = np.random.default_rng(seed)
    image = rng.poisson(electrons) + rng.normal(0, READ_NOISE, electrons.shape)
    variance = np.maximum(image, 0) + READ_NOISE**2
    return Exposure(info(**changes), image, np.zeros(image.shape, np.int32), variance)  # type: ignore[arg-type]


def second(seed: int, electrons: np.ndarray, **changes: Any) -> Exposure:
    later = {"sha256": "bb", "fileName": "b.fits", "midpointMjdTai": 60000.0 + 20 / 86400}
    return snap(seed, electrons, **(later | changes))


def fractions(exposure: Exposure) -> tuple[float, float]:
    return exposure.metrics["snapArtefactFraction0"], exposure.metrics["snapArtefactFraction1"]


@pytest.mark.parametrize(("seconds", "sky_factor"), [(15.0, 1.0), (15.0, 1.3), (30.0, 1.0)])
def test_clean_snaps_give_their_sum_with_the_noise_stated(seconds: float, sky_factor: float) -> None:
    truth_one, truth_two = scene(15.0), scene(seconds) * sky_factor
    combined = combine_snaps(snap(1, truth_one), second(2, truth_two, exposureTime=seconds), CONFIG)
    if sky_factor == 1.0:
        truth = truth_one + truth_two
        noise = np.sqrt(truth + 2 * READ_NOISE**2)
        assert abs(((combined.image - truth) / noise).mean()) < 3 / SIZE  # unbiased: three sigma of the mean
        pulls = (combined.image - truth) / np.sqrt(combined.variance)
        assert pulls.std() == pytest.approx(1.0, abs=0.01)
    assert combined.snaps is not None
    pulls = combined.snaps.image / np.sqrt(combined.snaps.variance)
    known = np.isfinite(pulls) & ((truth_one < 200) | (sky_factor == 1.0))  # else stars differ as the sky does
    assert np.isfinite(pulls).mean() > 0.999
    assert abs(pulls[known].mean()) < 0.03
    assert pulls[known].std() == pytest.approx(1.0, abs=0.015)
    assert max(fractions(combined)) < 1e-4
    assert combined.metrics["snapSkyDifference"] == pytest.approx(157.5 * (15 + seconds) / 15 * (1 - sky_factor), abs=4)


@pytest.mark.parametrize(("fwhm", "shift"), [(3.5, 0.2), (3.9, 0.0), (3.8, 0.15), (3.1, 0.1)])
def test_seeing_and_pointing_mask_no_star(fwhm: float, shift: float) -> None:
    combined = combine_snaps(snap(3, scene(15.0)), second(4, scene(15.0, fwhm, shift)), CONFIG)
    assert max(fractions(combined)) < 5e-5


def test_without_the_tolerance_stars_would_be_masked() -> None:
    pair = snap(3, scene(15.0)), second(4, scene(15.0, 3.9, 0.2))
    assert max(fractions(combine_snaps(*pair, SnapsConfig(tolerance=0.0)))) > 1e-3


@pytest.mark.parametrize("swapped", [False, True])
def test_cosmic_rays_of_one_snap_come_from_the_other(swapped: bool) -> None:
    truth = scene(15.0)
    rays = cosmic_rays(np.random.default_rng(8), truth.shape, 60.0)
    one, two = (truth, truth + rays) if swapped else (truth + rays, truth)
    combined = combine_snaps(snap(5, one), second(6, two), CONFIG)
    bright = rays > 8 * np.sqrt(2 * (truth + READ_NOISE**2))
    assert bright.sum() > 100
    pulls = (combined.image - 2 * truth) / np.sqrt(combined.variance)
    sky = truth < 200
    assert pulls[bright & sky].std() == pytest.approx(1.0, abs=0.15)
    assert abs(pulls[bright & sky].mean()) < 0.3
    # twice the noise where one snap stands for both
    single = combined.variance[bright & sky] / (2 * (truth + READ_NOISE**2))[bright & sky]
    assert np.median(single) == pytest.approx(2.0, abs=0.1)
    assert not combined.mask.any()
    assert combined.snaps is not None
    assert np.isnan(combined.snaps.image[bright]).all()
    assert np.isnan(combined.snaps.variance[bright]).all()
    assert np.isnan(combined.snaps.image[rays > 0]).mean() > 0.97  # their faint rims too
    found, none = fractions(combined)[:: -1 if swapped else 1]
    assert none < 5e-5
    assert found * SIZE**2 < 1.6 * (rays > 0).sum()


def test_cosmic_rays_on_stars_are_found_where_they_outshine_the_tolerance() -> None:
    truth = scene(15.0, stars=0)
    width, peak = 1.8, 4000.0
    truth = truth + peak * np.exp(-((X - 200) ** 2 + (Y - 200) ** 2) / 2 / width**2)
    rays = np.zeros_like(truth)
    rays[200, 200] = 0.6 * peak
    rays[203, 202] = 0.6 * peak
    combined = combine_snaps(snap(5, truth + rays), second(6, truth), CONFIG)
    assert np.abs(combined.image - 2 * truth)[rays > 0] == pytest.approx(0, abs=500)


def test_trails_and_what_moves_are_found() -> None:
    truth = scene(15.0)
    trail = satellite_trail(np.random.default_rng(3), truth.shape, (200, 200), 100.0, 3.5)
    combined = combine_snaps(snap(7, truth + trail), second(8, truth), CONFIG)
    assert trail.max() > 50
    rest = (combined.image - 2 * truth)[(trail > 0.5 * trail.max()) & (truth < 170)]
    assert abs(rest.mean()) < 0.05 * trail.max()
    faint = trail * (2.0 * np.sqrt(186.0) / trail.max())  # two sigma of one snap at the crest
    combined = combine_snaps(snap(9, truth + faint), second(10, truth), CONFIG)
    rest = (combined.image - 2 * truth)[(faint > 0.8 * faint.max()) & (truth < 170)]
    assert rest.mean() < 0.4 * faint.max()


def test_a_pixel_bad_in_one_snap_takes_the_other() -> None:
    truth = scene(15.0, stars=0)
    one, two = snap(11, truth), second(12, truth)
    mask_one, mask_two = np.zeros((SIZE, SIZE), np.int32), np.zeros((SIZE, SIZE), np.int32)
    mask_one[10:20, 10:20] |= int(MaskPlane.CR)
    mask_two[10:20, 15:20] |= int(MaskPlane.BAD)
    mask_one[50, :] |= int(MaskPlane.EDGE)
    mask_two[60, :] |= int(MaskPlane.SUSPECT)
    image = one.image.copy()
    image[10:20, 10:15] = 50000.0
    image[100, 100] = np.nan
    combined = combine_snaps(replace(one, image=image, mask=mask_one), replace(two, mask=mask_two), CONFIG)
    assert not combined.mask[10:20, 10:15].any()
    np.testing.assert_allclose(combined.image[10:20, 10:15], 2 * two.image[10:20, 10:15], atol=10)
    assert np.all(combined.mask[10:20, 15:20] == int(MaskPlane.CR | MaskPlane.BAD))
    assert np.all(combined.mask[50] == int(MaskPlane.EDGE))
    assert np.all(combined.mask[60] == int(MaskPlane.SUSPECT))
    assert combined.mask[100, 100] == 0
    assert np.isfinite(combined.image).all()


def test_a_ray_on_a_pixel_that_the_other_snap_lacks_is_flagged() -> None:
    truth = scene(15.0, stars=0)
    rays = np.zeros_like(truth)
    rays[30, 30:38] = 900.0
    one, two = snap(13, truth + rays), second(14, truth)
    mask = np.zeros((SIZE, SIZE), np.int32)
    mask[30, 34] = int(MaskPlane.BAD)
    combined = combine_snaps(one, replace(two, mask=mask), CONFIG)
    assert combined.mask[30, 33] == 0  # its other snap is good
    assert combined.mask[30, 34] == int(MaskPlane.CR)  # good in the first, but beside a ray of the first
    assert combined.mask.sum() == int(MaskPlane.CR)
    assert combined.snaps is not None
    assert np.isnan(combined.snaps.image[29:32, 29:39]).all()
    nothing = np.full((SIZE, SIZE), np.nan, np.float32)
    lost = combine_snaps(replace(one, image=nothing), replace(two, image=nothing), CONFIG)
    assert np.all(lost.mask == int(MaskPlane.BAD | MaskPlane.NO_DATA))


def test_identity_time_and_provenance() -> None:
    truth = scene(15.0, stars=0)
    one = replace(snap(15, truth), provenance={"bias": "b1", "flat": "f1"}, metrics={"a": 1.0, "b": 2.0})
    two = replace(second(16, 2 * truth, exposureTime=30.0), provenance={"bias": "b1", "flat": "f2"}, metrics={"a": 3.0})
    combined = combine_snaps(one, two, CONFIG)
    assert combined.info.exposureTime == 45.0
    assert combined.info.midpointMjdTai == pytest.approx(60000.0 + 20 / 86400 * 2 / 3, abs=1e-10)
    assert combined.info.fileName == "a.fits+b.fits"
    assert combined.info.sha256 == hashlib.sha256(b"aa bb").hexdigest()
    assert combined.provenance == {"bias": "b1", "flat": "f1, f2", "snap0": "aa", "snap1": "bb"}
    assert combined.metrics["a"] == 2.0
    assert "b" not in combined.metrics
    other = combine_snaps(two, one, CONFIG)
    np.testing.assert_array_equal(other.image, combined.image)
    assert other.snaps is not None
    assert combined.snaps is not None
    np.testing.assert_array_equal(other.snaps.image, combined.snaps.image)  # the earlier less the later
    assert other.info == combined.info


@pytest.mark.parametrize(
    ("field", "value"), [("visit", 2), ("detector", 3), ("band", "g"), ("instrument", "other"), ("kind", "flat")]
)
def test_snaps_of_something_else_are_refused(field: str, value: Any) -> None:
    truth = scene(15.0, stars=0)[:64, :64]
    with pytest.raises(DataError, match=rf"a.fits and b.fits are no two snaps of one visit: {field}"):
        combine_snaps(snap(1, truth), second(2, truth, **{field: value}), CONFIG)


def test_other_pairs_are_refused() -> None:
    truth = scene(15.0, stars=0)[:64, :64]
    good = snap(1, truth)
    with pytest.raises(DataError, match="shapes"):
        combine_snaps(good, second(2, truth[:32]), CONFIG)
    with pytest.raises(DataError, match="one file"):
        combine_snaps(good, good, CONFIG)
    with pytest.raises(DataError, match="not in electrons"):
        combine_snaps(good, replace(second(2, truth), unit="nJy"), CONFIG)
    with pytest.raises(DataError, match="lasted 0"):
        combine_snaps(good, second(2, truth, exposureTime=0.0), CONFIG)
