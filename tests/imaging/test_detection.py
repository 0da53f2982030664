"""Detection of stars."""

import numpy as np
import pytest

from schemas.errors import DataError
from workers.imaging.detection import DETECTION_DTYPE, detect


def field(rng, places, fluxes, shape=(200, 240), noise=3.0, sigma=1.8):
    image = rng.normal(0, noise, shape)
    rows, columns = np.indices(shape)
    for (x, y), flux in zip(places, fluxes, strict=True):
        image += flux * np.exp(-0.5 * ((rows - y) ** 2 + (columns - x) ** 2) / sigma**2) / (2 * np.pi * sigma**2)
    return image, np.full(shape, noise), np.zeros(shape, bool)


def test_stars_are_found_where_they_are():
    rng = np.random.default_rng(1)
    places = [(x + rng.uniform(-4, 4), y + rng.uniform(-4, 4)) for x in range(20, 230, 30) for y in range(20, 190, 30)]
    fluxes = rng.uniform(500, 20000, len(places))
    found = detect(*field(rng, places, fluxes), threshold=5.0)
    assert found.rows.dtype == DETECTION_DTYPE
    assert len(found.rows) == len(places)
    for x, y in places:
        assert np.hypot(found.rows["x"] - x, found.rows["y"] - y).min() < 0.5
    brightest = found.rows[np.argmax(found.rows["flux"])]
    assert brightest["flux"] == pytest.approx(fluxes.max(), rel=0.05)
    assert 1.4 < brightest["a"] < 2.0


def test_segments_name_the_rows():
    found = detect(*field(np.random.default_rng(2), [(50, 60), (120, 90)], [5000, 9000]), threshold=5.0)
    for number, row in enumerate(found.rows, start=1):
        assert found.segments[round(row["y"]), round(row["x"])] == number
        assert np.count_nonzero(found.segments == number) == row["npix"]


def test_noise_alone_gives_nothing():
    found = detect(*field(np.random.default_rng(3), [], []), threshold=5.0)
    assert len(found.rows) == 0
    assert not found.segments.any()


def test_blocked_pixels_give_nothing():
    image, noise, blocked = field(np.random.default_rng(4), [(50, 60)], [50000])
    blocked[40:80, 30:70] = True
    assert len(detect(image, noise, blocked, threshold=5.0).rows) == 0


def test_a_crowd_does_not_overflow_the_buffers():
    rng = np.random.default_rng(5)
    places = rng.uniform(0, 200, (3000, 2))
    found = detect(*field(rng, places[:400], rng.uniform(1000, 9000, 400)), threshold=3.0)
    assert len(found.rows) > 100


def test_most_pixels_above_threshold_is_an_error():
    image = np.full((50, 50), 100.0)
    with pytest.raises(DataError, match="2500 of 2500 pixels lie above 5 sigma"):
        detect(image, np.ones((50, 50)), np.zeros((50, 50), bool), threshold=5.0)
