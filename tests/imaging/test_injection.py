"""Injected sources: what is put in comes out again, with the noise that it should have."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import DataError
from workers.imaging.exposure import Exposure, ExposureInfo, PhotoCalib
from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.injection import INJECTION_DTYPE, STRATA, inject_pair, inject_sources, plan_injections
from workers.imaging.masks import MaskPlane
from workers.imaging.photometry import psf_fluxes
from workers.imaging.psf import PsfModel

SIZE, SCALE, SKY = 512, 10.0, 100.0  # pixels; nJy per electron; nJy, noise of a pixel


def exposure(seed: int, fwhm: float = 3.0, *, photo: bool = True, noise: float = SKY) -> Exposure:
    rng = np.random.default_rng(seed)
    return Exposure(
        info=ExposureInfo("sim", 5, 1, "r", 61000.0, 30.0, 0.0, 0.0, 20240101, "science", "0" * 64, "x.fits"),
        image=rng.normal(0.0, noise, (SIZE, SIZE)).astype("f4"),
        mask=np.zeros((SIZE, SIZE), "i4"),
        variance=np.full((SIZE, SIZE), noise**2, "f4"),
        unit="nJy",
        psf=PsfModel.gaussian(fwhm, size=25, width=SIZE, height=SIZE),
        photo=PhotoCalib(SCALE, 0.01, 10) if photo else None,
    )


def grid(flux: float, step: int = 32) -> np.ndarray:
    rng = np.random.default_rng(9)
    y, x = np.mgrid[step : SIZE - step + 1 : step, step : SIZE - step + 1 : step]
    rows = np.zeros(x.size, INJECTION_DTYPE)
    rows["x"], rows["y"] = x.ravel() + rng.uniform(-0.5, 0.5, x.size), y.ravel() + rng.uniform(-0.5, 0.5, x.size)
    rows["flux"] = flux
    return rows


def measured(image: Exposure, rows: np.ndarray) -> np.ndarray:
    usable = usable_pixels(image.image, image.variance, image.mask)
    return psf_fluxes(image.image, image.variance, usable, image.need_psf(), rows["x"], rows["y"])


@pytest.mark.parametrize("flux", [3e4, -3e4, 3e5])
def test_the_flux_comes_back_with_the_error_that_the_variance_gives(flux: float) -> None:
    rows = grid(flux)
    fit = measured(inject_sources(exposure(1), rows, np.random.default_rng(2)), rows)
    pull = (fit["flux"] - flux) / fit["fluxErr"]
    assert abs(pull.mean()) < 4.0 / np.sqrt(len(pull))
    assert 0.88 < pull.std() < 1.12


def test_photon_noise_has_the_variance_that_is_added() -> None:
    quiet = exposure(1, noise=1e-3)
    rows = grid(1e6)
    out = inject_sources(quiet, rows, np.random.default_rng(3))
    model = inject_sources(quiet, rows, None).image - quiet.image
    bright = model > 100.0 * SCALE
    pull = (out.image - model - quiet.image)[bright] / np.sqrt((out.variance - quiet.variance)[bright])
    assert abs(pull.mean()) < 0.02
    assert 0.97 < pull.std() < 1.03
    assert out.variance[bright] - quiet.variance[bright] == pytest.approx(SCALE * model[bright], rel=1e-3)


def test_fading_light_adds_no_noise() -> None:
    science = exposure(1)
    out = inject_sources(science, grid(-1e5), np.random.default_rng(3))
    assert np.allclose(out.variance, science.variance, rtol=0.01)  # the PSF's interpolation rings a little


def test_the_mask_says_where_and_the_input_stays() -> None:
    science = exposure(1)
    before = science.image.copy(), science.mask.copy()
    rows = grid(1e5, step=64)
    out = inject_sources(science, rows, np.random.default_rng(3))
    injected = (out.mask & int(MaskPlane.INJECTED)) != 0
    column, row = np.round(rows["x"]).astype(int), np.round(rows["y"]).astype(int)
    assert injected[row, column].all()
    assert 20 < injected.sum() / len(rows) < 100  # pixels of a disc about two FWHM wide
    x = np.mgrid[:SIZE, :SIZE][1]
    far = (np.abs(x[None] - rows["x"][:, None, None]) > 14).all(axis=0)
    assert np.array_equal(out.image[far], science.image[far])
    assert not injected[far].any()
    assert np.array_equal(before[0], science.image)
    assert np.array_equal(before[1], science.mask)


def test_a_trail_keeps_its_flux_and_lies_along_its_angle() -> None:
    quiet = exposure(1, noise=1e-3)
    row = np.zeros(1, INJECTION_DTYPE)
    row["x"], row["y"], row["flux"], row["trailLength"], row["trailAngle"] = 250.3, 240.7, 1e6, 15.0, np.radians(30)
    light = (inject_sources(quiet, row, None).image - quiet.image).astype(float)
    y, x = np.mgrid[:SIZE, :SIZE]
    assert light.sum() == pytest.approx(1e6, rel=1e-3)
    assert (light * x).sum() / light.sum() == pytest.approx(250.3, abs=0.02)
    xx, yy = (light * (x - 250.3) ** 2).sum() / 1e6, (light * (y - 240.7) ** 2).sum() / 1e6
    xy = (light * (x - 250.3) * (y - 240.7)).sum() / 1e6
    assert np.degrees(0.5 * np.arctan2(2 * xy, xx - yy)) == pytest.approx(30.0, abs=0.5)
    along = 0.5 * (xx + yy) + np.hypot(0.5 * (xx - yy), xy)
    assert along == pytest.approx((3.0 / 2.3548) ** 2 + 15.0**2 / 12.0, rel=0.03)


def test_a_source_off_the_image_leaves_what_falls_on_it() -> None:
    rows = np.zeros(2, INJECTION_DTYPE)
    rows["x"], rows["y"], rows["flux"] = (-0.4, 3000.0), (100.0, 100.0), 1e6
    light = inject_sources(exposure(1), rows, None).image - exposure(1).image
    assert 0.3e6 < light.sum() < 0.7e6


def test_noise_without_a_photometric_scale_is_refused() -> None:
    with pytest.raises(DataError, match="photometric calibration"):
        inject_sources(exposure(1, photo=False), grid(1e4), np.random.default_rng(1))


def crowded(seed: int) -> Exposure:
    """Stars, and galaxies as clumps of them."""
    rng = np.random.default_rng(seed)
    stars, clumps = np.zeros(120, INJECTION_DTYPE), np.zeros(40 * 12, INJECTION_DTYPE)
    stars["x"], stars["y"] = rng.uniform(0, SIZE, (2, 120))
    stars["flux"] = 10 ** rng.uniform(4.5, 6.0, 120)
    centre = np.repeat(rng.uniform(20, SIZE - 20, (40, 2)), 12, axis=0) + rng.normal(0, 3.0, (480, 2))
    clumps["x"], clumps["y"], clumps["flux"] = centre[:, 0], centre[:, 1], 1.5e4
    full = inject_sources(exposure(seed), np.concatenate([stars, clumps]), np.random.default_rng(seed))
    return full.replaced(mask=np.zeros((SIZE, SIZE), "i4"))


def test_a_plan_covers_the_strata_and_keeps_its_distances() -> None:
    science, template = crowded(4), exposure(5, 2.5, photo=False, noise=30.0)
    plan = plan_injections(science, template, 80, np.random.default_rng(1))
    assert len(plan) == 80
    for name, share in STRATA.items():
        assert (plan["stratum"] == name).sum() <= (80 if name == "sky" else round(80 * share))
        assert (plan["stratum"] == name).any()
    places = np.column_stack([plan["x"], plan["y"]])
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(80, 1)]
    close = apart < science.need_psf().size
    assert 4 <= np.count_nonzero(close) <= 16  # one in ten has company
    assert (apart[close] > 2.0 * science.need_psf().fwhm(0.0, 0.0)).mean() > 0.7
    assert np.array_equal(np.lexsort((plan["x"], plan["y"])), np.arange(80))
    assert 0.1 < (plan["flux"] < 0).mean() < 0.5
    assert not plan["inTemplate"][plan["flux"] > 0].any()
    assert (plan["trailLength"][plan["stratum"] != "trail"] == 0).all()
    assert plan["snr"].max() <= 100.0
    assert np.median(np.log(plan["snr"])) == pytest.approx(np.log(20.0), abs=0.5)


def test_a_plan_has_the_signal_to_noise_that_it_states() -> None:
    science, template = exposure(4), exposure(5, 2.5, photo=False, noise=30.0)
    plan = plan_injections(science, template, 60, np.random.default_rng(1))
    sky = plan[(plan["stratum"] == "sky") & (plan["flux"] > 0)]
    fit = measured(inject_sources(science, sky, None), sky)
    sigma = np.hypot(fit["fluxErr"], fit["fluxErr"] * 0.3)
    assert sky["flux"] / sigma == pytest.approx(sky["snr"], rel=0.03)


def test_fading_sources_go_into_the_template_and_stars_never_below_zero() -> None:
    science, template = crowded(4), exposure(5, 2.5, photo=False, noise=30.0)
    plan = plan_injections(science, template, 80, np.random.default_rng(1), (200.0, 2000.0))
    ours, theirs = inject_pair(science, template, plan, np.random.default_rng(2))
    faded = plan[plan["inTemplate"]]
    assert len(faded) > 5
    gained = measured(theirs, faded)["flux"] - measured(template, faded)["flux"]
    assert gained == pytest.approx(-faded["flux"], rel=0.01)
    stars = plan[(plan["stratum"] == "star") & (plan["flux"] < 0)]
    fit = measured(ours, stars)
    assert (fit["flux"] > -5.0 * fit["fluxErr"]).all()


def test_added_stars_are_in_both_images_and_change_between_them() -> None:
    science, template = crowded(4), exposure(5, 2.5, photo=False, noise=30.0)
    plan = plan_injections(science, template, 80, np.random.default_rng(1))
    ours, theirs = inject_pair(science, template, plan, np.random.default_rng(2))
    added = plan[plan["addStar"]]
    assert len(added) > 3
    assert (plan["starFlux"] > 0).sum() == (plan["stratum"] == "star").sum() > len(added)
    before, after = measured(theirs, added), measured(ours, added)
    assert before["flux"] - measured(template, added)["flux"] == pytest.approx(added["starFlux"], rel=0.01)
    change = after["flux"] - measured(science, added)["flux"] - added["starFlux"]
    assert np.abs((change - added["flux"]) / after["fluxErr"]).max() < 5.0


def test_a_plan_depends_on_its_generator_alone_and_avoids_masked_pixels() -> None:
    science, template = exposure(4), exposure(5)
    first, second = (plan_injections(science, template, 40, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, second)
    mask = np.zeros((SIZE, SIZE), "i4")
    mask[:, 100:] = int(MaskPlane.SATURATED)
    plan = plan_injections(science.replaced(mask=mask), template, 20, np.random.default_rng(7))
    assert (np.round(plan["x"]) < 100).all()
    mask[:] = int(MaskPlane.BAD)
    assert len(plan_injections(science.replaced(mask=mask), template, 20, np.random.default_rng(7))) == 0
