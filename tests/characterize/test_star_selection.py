"""Choice of PSF stars."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DataError
from workers.characterize.star_selection import select_stars, size_locus
from workers.imaging.background import source_free_background
from workers.imaging.detection import detect


@given(st.integers(0, 500), st.floats(1.0, 4.0))
def test_the_locus_is_the_stars_not_the_galaxies(seed, size):
    rng = np.random.default_rng(seed)
    stars = size * np.exp(rng.normal(0, 0.02, 40))
    galaxies = size * rng.uniform(1.3, 4.0, 60)
    like = size_locus(np.concatenate([stars, galaxies]))
    assert like[:40].mean() > 0.9
    assert like[40:].sum() <= 3


def test_one_star_is_its_own_locus():
    assert size_locus(np.array([2.0])).all()


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
    assert sample.fwhm == pytest.approx(4.4, rel=0.15)  # the half-light radius of a Moffat, doubled
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
