"""Choice of PSF stars."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DataError
from tests.characterize.psf_scenes import FULL, SKY, Shape, draw_scene
from workers.characterize.psf_locus import stellar_locus
from workers.characterize.star_selection import select_stars
from workers.imaging.background import source_free_background
from workers.imaging.detection import detect


def shapes(rng, number, log_size, scatter, ellipticity):
    return np.c_[rng.normal(log_size, scatter, number), rng.normal(0, ellipticity, (number, 2))]


@given(st.integers(0, 500), st.floats(0.2, 3.0), st.floats(0.0, 0.3))
def test_the_locus_is_the_stars_not_the_galaxies_though_the_seeing_varies(seed, log_size, change):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-1, 1, (2, 160))
    features = np.concatenate([shapes(rng, 40, log_size, 0.02, 0.01), shapes(rng, 120, log_size + 0.9, 0.4, 0.2)])
    features[:, 0] += change * (0.5 * x + 0.3 * x * y)
    features[:, 1] += 0.03 * y
    like = stellar_locus(features, np.full(160, 200.0), x, y)
    assert like[:40].mean() > 0.85
    assert like[40:].sum() <= 3


def test_one_star_is_its_own_locus():
    assert stellar_locus(np.array([[1.0, 0.0, 0.1]]), np.array([50.0]), np.zeros(1), np.zeros(1)).all()


@pytest.fixture(scope="module")
def scene(draw_field):
    field = draw_field(3, faintest=1500.0)
    image = np.array(field.exposure.image)
    blocked = np.zeros(image.shape, bool)
    background = source_free_background(image, blocked, mesh=64)
    return field, image - background.level, background.noise


def choose(image, noise, usable, **changes):
    rows = detect(image, noise, np.zeros(image.shape, bool), threshold=5.0).rows
    return rows, select_stars(image, noise, usable, rows, **{"min_snr": 50.0, "stamp_size": 25, **changes})


def test_bright_isolated_stars_are_taken(scene):
    field, image, noise = scene
    rows, sample = choose(image, noise, np.ones(image.shape, bool))
    chosen = rows[sample.rows]
    assert len(chosen) > 40
    assert (np.diff(chosen["flux"]) <= 0).all()
    assert sample.fwhm == pytest.approx(3.6, rel=0.15)
    for star in chosen:
        near = np.hypot(field.x - star["x"], field.y - star["y"]) < 10.0
        light = np.sort(field.electrons[near])
        assert light[:-1].sum() < 0.15 * light[-1]


def test_hot_pixels_galaxies_and_saturated_stars_are_not(scene):
    field, image, noise = scene
    rng = np.random.default_rng(4)
    spoiled, usable = image.copy(), np.ones(image.shape, bool)
    hot = rng.integers(30, 730, (60, 2))
    spoiled[hot[:, 0], hot[:, 1]] += 20000.0
    rows_index, columns_index = np.indices(image.shape)
    galaxies = rng.uniform(50, 710, (12, 2))
    for x, y in galaxies:
        spoiled += 40.0 * np.exp(-0.5 * ((rows_index - y) ** 2 + (columns_index - x) ** 2) / 36.0)
    brightest = np.argsort(-field.electrons)[:60]
    for x, y in zip(field.x[brightest], field.y[brightest], strict=True):
        if 5 < x < 760 and 5 < y < 760:
            usable[round(y), round(x)] = False
    rows, sample = choose(spoiled, noise, usable)
    chosen = rows[sample.rows]
    assert len(chosen) > 10
    for places, distance in ((hot[:, ::-1], 1.0), (galaxies, 3.0), (np.c_[field.x, field.y][brightest], 2.0)):
        nearest = np.hypot(chosen["x"][:, None] - places[:, 0], chosen["y"][:, None] - places[:, 1]).min(axis=1)
        assert (nearest > distance).mean() > 0.97


def test_nothing_fit_is_an_error_with_counts(scene):
    _, image, noise = scene
    with pytest.raises(DataError, match=r"PSF needs stars: of \d+ detections .* 0 are unsaturated"):
        choose(image, noise, np.zeros(image.shape, bool))


TRAPS = {
    "more galaxies than stars": {"stars": 60, "galaxies": 1200, "faintest": 4e3},
    "few stars, many cosmic rays": {"stars": 25, "galaxies": 0, "cosmics": 400},
    "blends": {"stars": 250, "blends": 0.5},
    "varying seeing": {"stars": 250, "galaxies": 400, "shape": Shape(3.6, 3.0, variation=0.3)},
    "crowded": {"stars": 6000, "galaxies": 50, "faintest": 1e3},
    "saturated": {"stars": 250, "galaxies": 100, "slope": 0.15},
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps_leave_stars_only_and_all_over_the_detector(trap):
    scene = draw_scene(6, 1400, **TRAPS[trap])
    rows, sample = choose(scene.image, scene.noise, scene.usable)
    chosen = rows[sample.rows]
    assert len(chosen) >= 8
    assert sample.fwhm == pytest.approx(3.75, rel=0.12)
    nearest = np.array([np.hypot(scene.x - star["x"], scene.y - star["y"]).min() for star in chosen])
    assert (nearest > 1.0).mean() < 0.04
    peaks = scene.image[np.round(chosen["y"]).astype(int), np.round(chosen["x"]).astype(int)]
    assert peaks.max() < FULL - SKY
    blended = [np.hypot(*(scene.blends - (star["x"], star["y"])).T).min(initial=99.0) < 6.0 for star in chosen]
    assert np.mean(blended) < (0.25 if trap == "blends" else 0.1)
    quarters = np.unique((chosen["x"] > 700).astype(int) + 2 * (chosen["y"] > 700))
    assert len(quarters) == 4
