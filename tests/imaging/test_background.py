"""Sky level and noise."""

import numpy as np
import pytest

from schemas.errors import DataError
from workers.imaging.background import mesh_background, source_free_background


def sky(rng, shape=(256, 320), level=500.0):
    ramp = 40.0 * np.linspace(-1, 1, shape[1])[None, :] + 20.0 * np.linspace(-1, 1, shape[0])[:, None] ** 2
    return level + ramp, rng.poisson(level + ramp, shape).astype(np.float32)


def blob(shape, x, y, flux, sigma=2.0):
    rows, columns = np.indices(shape)
    return flux * np.exp(-0.5 * ((rows - y) ** 2 + (columns - x) ** 2) / sigma**2) / (2 * np.pi * sigma**2)


def test_level_and_noise_of_a_tilted_sky():
    truth, image = sky(np.random.default_rng(1))
    found = source_free_background(image, np.zeros(image.shape, bool), mesh=64)
    assert abs(float((found.level - truth).mean())) < 0.15
    assert np.std(found.level - truth) < 2.0
    assert np.abs(found.level - truth).max() < 12.0
    assert found.medianNoise == pytest.approx(np.sqrt(500.0), rel=0.04)  # the tilt within a cell adds
    assert found.level.dtype == np.float32


def test_sources_do_not_lift_the_sky():
    rng = np.random.default_rng(2)
    truth, image = sky(rng)
    for _ in range(60):
        image += blob(image.shape, rng.uniform(0, 320), rng.uniform(0, 256), rng.uniform(500, 2e5)).astype(np.float32)
    found = source_free_background(image, np.zeros(image.shape, bool), mesh=64)
    first = mesh_background(image, np.zeros(image.shape, bool), mesh=64)
    assert abs(float(np.median(found.level - truth))) < 1.0
    assert abs(float((found.level - truth).mean())) < abs(float((first.level - truth).mean()))


def test_blocked_and_nan_pixels_are_left_out_and_the_input_is_not_changed():
    _, image = sky(np.random.default_rng(3))
    blocked = np.zeros(image.shape, bool)
    blocked[:, 100:120] = True
    image[:, 100:120] = 60000.0
    image[5, 5] = np.nan
    image.flags.writeable = False
    found = source_free_background(image, blocked, mesh=32)
    assert np.isfinite(found.level).all()
    assert found.level.max() < 600.0


def test_big_endian_input_is_read():
    _, image = sky(np.random.default_rng(4))
    found = mesh_background(image.astype(">f4"), np.zeros(image.shape, bool), mesh=64)
    assert found.median == pytest.approx(505.0, abs=10.0)


def test_no_usable_pixel():
    with pytest.raises(DataError, match=r"only 0\.0% of the pixels are usable"):
        mesh_background(np.ones((64, 64)), np.ones((64, 64), bool), mesh=32)


def test_a_constant_image_is_empty():
    with pytest.raises(DataError, match="the image is empty"):
        source_free_background(np.full((64, 64), 7.0), np.zeros((64, 64), bool), mesh=32)
