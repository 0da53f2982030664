"""Sky level and noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from tests.imaging.background_scenes import amplifiers, make, with_image
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


def left(scene, found):
    """What is left between level and true sky, in units of the sky's noise per pixel, in blocks of 64 pixels."""
    rest = (found.level - scene.sky) / scene.sigma
    height, width = (side // 64 for side in rest.shape)
    return rest[: 64 * height, : 64 * width].reshape(height, 64, width, 64).mean(axis=(1, 3))


def measure(scene, **options):
    return source_free_background(scene.image, scene.blocked, mesh=64, **options)


def test_the_level_is_unbiased_and_the_noise_is_the_skys():
    """Eight fields of three skies: mean 0 within what so few pixels allow; a corner under a bright star is a guess."""
    means, ratios = [], []
    for seed in range(8):
        scene = make("plain", size=512, seed=seed, level=(50.0, 500.0, 5000.0)[seed % 3])
        found = measure(scene)
        rest = left(scene, found)
        means.append(rest.mean())
        ratios.append(np.mean(found.noise / np.sqrt(scene.sky + 25.0)))
        assert np.sqrt(np.mean(rest**2)) < 0.03
        assert np.abs(rest).max() < 0.12
    assert abs(np.mean(means)) < 0.006
    assert np.std(means) < 0.01
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize(("n", "edge"), [(4.0, 0.5), (1.0, 0.5), (4.0, 0.1)])
def test_a_galaxy_does_not_lift_the_sky_round_it(n, edge):
    scene = make("galaxy", size=1024, seed=3, radius=75.0, n=n, edge=edge)
    y, x = np.indices(scene.image.shape)
    radius = np.hypot(x - 0.47 * 1024, y - 0.52 * 1024) / 75.0
    near = (radius > 1.0) & (radius < 3.0)
    rest = (measure(scene).level - scene.sky)[near] / scene.sigma
    plain = (mesh_background(scene.image, scene.blocked, mesh=64).level - scene.sky)[near] / scene.sigma
    assert abs(rest.mean()) < 0.02
    assert np.abs(rest).max() < 0.04
    assert abs(rest.mean()) < 0.3 * abs(plain.mean())


def test_a_crowd_does_not_lift_the_sky():
    """As many stars as 100,000 on 4096 x 4096 pixels: more than half of the pixels hold their light."""
    rest, plain = [], []
    for seed in range(3):
        scene = make("crowd", size=1024, seed=seed)
        found = measure(scene)
        rest.append(left(scene, found).mean())
        plain.append(left(scene, mesh_background(scene.image, scene.blocked, mesh=64)).mean())
        assert found.sourceFraction > 0.5
        assert found.unseen > 0.0
    assert abs(np.mean(rest)) < 0.02
    assert np.abs(rest).max() < 0.03
    assert np.min(plain) > 0.15


def test_steps_of_amplifiers_are_part_of_the_level():
    scene = make("steps", size=1024, seed=5, across=4)
    found = measure(scene, boxes=scene.boxes)
    truth = scene.sky.copy()
    for (y0, y1, x0, x1), step in zip(scene.boxes, scene.steps, strict=True):
        truth[y0:y1, x0:x1] += np.float32(step)
    assert np.abs(found.level - truth).max() < 0.06 * scene.sigma
    pulls = (np.array(found.steps) - scene.steps) / np.array(found.stepErrors)
    assert np.abs(pulls).max() < 4.0
    assert np.std(pulls) < 1.6
    areas = [(y1 - y0) * (x1 - x0) for y0, y1, x0, x1 in scene.boxes]
    assert np.dot(areas, found.steps) == pytest.approx(0.0, abs=1e-3 * sum(areas))


def test_where_there_is_no_step_boxes_change_nothing():
    scene = make("plain", size=512, seed=6)
    boxes = amplifiers(scene.image.shape, 4, 2)
    found, without = measure(scene, boxes=boxes), measure(scene)
    assert found.steps == (0.0,) * 8
    assert min(found.stepErrors) > 0.0
    assert np.abs(found.level - without.level).max() < 0.02 * scene.sigma
    assert measure(scene, boxes=((0, 512, 0, 512),)).steps == (0.0,)
    assert without.steps == ()


def test_a_nebula_is_followed_and_not_masked():
    scene = make("nebula", size=1024, seed=7, rough=0.7)
    found = measure(scene)
    assert found.wave < 512.0
    assert abs(left(scene, found).mean()) < 0.01
    assert np.sqrt(np.mean(left(scene, found) ** 2)) < 0.06


def test_a_large_covered_part_is_interpolated():
    scene = make("plain", size=512, seed=8)
    blocked = scene.blocked
    blocked[100:330, 150:400] = True
    image = np.where(blocked, 60000.0, scene.image)
    found = source_free_background(image, blocked, mesh=64)
    assert np.abs(found.level - scene.sky).max() < 0.1 * scene.sigma


@settings(deadline=None, max_examples=15)
@given(st.floats(1e-3, 1e4), st.floats(-1e3, 1e3))
def test_the_level_goes_with_the_unit_and_the_zero(scale, zero):
    scene = make("plain", size=256, seed=9)
    first = measure(scene)
    image = scale * (scene.image.astype(float) + zero)
    found = source_free_background(image, scene.blocked, mesh=64)
    np.testing.assert_allclose(found.level / scale - zero, first.level, atol=0.05)
    assert found.medianNoise / scale == pytest.approx(first.medianNoise, rel=1e-3)


@pytest.mark.parametrize("shape", [(8, 8), (17, 33), (64, 64), (513, 30), (100, 257)])
@pytest.mark.parametrize("mesh", [8, 64, 256])
def test_small_images_have_a_level_too(shape, mesh):
    rng = np.random.default_rng(10)
    image = rng.poisson(500.0, shape).astype(np.float32)
    found = source_free_background(image, rng.random(shape) < 0.3, mesh=mesh)
    assert np.abs(found.level - 500.0).max() < 25.0
    assert (found.noise > 5.0).all()


def test_an_unexposed_part_is_no_sky():
    scene = make("empty", size=256, seed=11)
    image = scene.image.copy()
    image[:100] = 7.0
    found = measure(with_image(scene, image))
    assert found.median == pytest.approx(500.0, abs=3.0)
    assert found.medianNoise == pytest.approx(scene.sigma, rel=0.03)
