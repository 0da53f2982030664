"""Cosmic rays against injected tracks, star cores of every width, and L.A.Cosmic as astroscrappy has it."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from schemas.errors import ConfigurationError, DataError
from tests.isr.cosmic_scenes import (
    FULL,
    READ_NOISE,
    add_star,
    eaten_stars,
    found_share,
    found_tracks,
    make_scene,
    observed,
    star_grid,
    tracks_of,
    wrong_share,
)
from workers.imaging.masks import MaskPlane
from workers.isr import cosmic_rays
from workers.isr.cosmic_bounds import REACH, bounds_for, moffat
from workers.isr.cosmic_patterns import HALF, patterns_for
from workers.isr.cosmic_rays import find_cosmic_rays
from workers.isr.seeing import estimate_fwhm
from workers.isr.sky_levels import CELL, sky_levels, sky_row
from workers.isr.state import IsrState
from workers.survey.isr_config import IsrConfig

SKY, SIZE = 400.0, 400
SIGMA = np.sqrt(SKY + READ_NOISE**2)
NOTHING = np.zeros((SIZE, SIZE), bool)


def flat_field(seed: int, extra: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    return observed(np.random.default_rng(seed), np.full((SIZE, SIZE), SKY) + extra)


@pytest.mark.parametrize("fwhm", [3.0, 5.0])
def test_pixels_of_straight_tracks_are_found_and_little_else(fwhm: float) -> None:
    scenes = [make_scene(seed, 768, fwhm=fwhm, kinds=("straight", "single")) for seed in (1, 2)]
    masks = [find_cosmic_rays(scene.image, scene.variance, scene.blocked) for scene in scenes]
    pairs = list(zip(scenes, masks, strict=True))
    assert np.mean([found_share(*pair) for pair in pairs]) >= 0.95
    assert np.mean([found_share(*pair, sigma=3.0) for pair in pairs]) >= 0.90
    assert np.mean([found_tracks(*pair) for pair in pairs]) >= 0.90
    wrong, marked = sum(wrong_share(*pair) * pair[1].sum() for pair in pairs), sum(mask.sum() for mask in masks)
    assert wrong <= 0.05 * marked
    assert sum(eaten_stars(mask, scene.stars, 0, scene.charge) for scene, mask in pairs) == 0


def test_worms_and_spread_tracks_are_found() -> None:
    scene = make_scene(3, 896, fwhm=4.0, kinds=("worm", "diffuse"))
    hits = find_cosmic_rays(scene.image, scene.variance, scene.blocked)
    assert found_share(scene, hits, kind="worm") >= 0.9
    assert found_share(scene, hits, kind="diffuse") >= 0.85
    assert wrong_share(scene, hits) <= 0.05


def test_an_undersampled_field_costs_completeness_but_no_star() -> None:
    scene = make_scene(4, 768, fwhm=2.0)
    hits = find_cosmic_rays(scene.image, scene.variance, scene.blocked)
    assert found_share(scene, hits, kind="straight") >= 0.8
    assert wrong_share(scene, hits) <= 0.02
    assert eaten_stars(hits, scene.stars, 1, scene.charge) == 0


WIDTHS, SHAPES = [2.0, 2.5, 3.0, 4.0, 6.0, 8.0], [2.5, 4.0, 100.0]


@pytest.mark.parametrize(("fwhm", "beta"), [(2.0, 2.5), (2.0, 100.0), (2.5, 4.0), (3.5, 100.0), (5.0, 2.5), (8.0, 2.5)])
def test_no_star_core_is_eaten(fwhm: float, beta: float) -> None:
    image, variance, stars = star_grid(int(10 * fwhm + beta), fwhm, beta)
    for known in (fwhm, 1.04 * fwhm, None):
        hits = find_cosmic_rays(image, variance, image > FULL, fwhm=known)
        assert eaten_stars(hits, stars) == 0
        assert hits.sum() <= 3  # noise


@pytest.mark.slow
@pytest.mark.parametrize(("fwhm", "beta"), list(itertools.product(WIDTHS, SHAPES)))
def test_no_star_core_is_eaten_in_ten_thousand(fwhm: float, beta: float) -> None:
    eaten = 0
    for seed in range(4):
        image, variance, stars = star_grid(seed, fwhm, beta, size=800)
        for known in (fwhm, None):
            eaten += eaten_stars(find_cosmic_rays(image, variance, image > FULL, fwhm=known), stars)
    assert eaten == 0


def test_stretched_stars_and_blends_are_not_eaten() -> None:
    rng = np.random.default_rng(5)
    light = np.full((SIZE, SIZE), SKY)
    for x, y in rng.uniform(10, SIZE - 10, (500, 2)):  # one within 13 pixels of another, on the average
        flux = 10 ** rng.uniform(3, 5.5)
        for part in np.linspace(-0.45, 0.45, 5):  # stretched by 10 % along x
            add_star(light, x + part, y, flux / 5, 3.0, 3.0, 20, 3)
    image, variance = observed(rng, light)
    assert find_cosmic_rays(image, variance, NOTHING).sum() <= 2
    assert find_cosmic_rays(image, variance, NOTHING, fwhm=3.0).sum() <= 2


def test_at_least_as_good_as_astroscrappy() -> None:
    astroscrappy = pytest.importorskip("astroscrappy")
    scene = make_scene(9, 512)
    ours = find_cosmic_rays(scene.image, scene.variance, scene.blocked)
    theirs, _ = astroscrappy.detect_cosmics(
        scene.image, inmask=scene.blocked, gain=1.0, readnoise=READ_NOISE, satlevel=1e9, sepmed=True
    )
    assert found_share(scene, ours) > found_share(scene, theirs)
    assert wrong_share(scene, ours) < 0.5 * wrong_share(scene, theirs)
    right = theirs & (scene.charge > 0)
    assert (ours & right).sum() > 0.9 * right.sum()


def test_blocked_pixels_are_never_hits_and_inputs_stay() -> None:
    tracks = tracks_of(np.random.default_rng(3), (SIZE, SIZE), 40)
    image, variance = flat_field(3, tracks)
    before = image.copy(), variance.copy()
    blocked = tracks > 0
    hits = find_cosmic_rays(image, variance, blocked, fwhm=3.0)
    assert not (hits & blocked).any()
    assert hits.sum() <= 2
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(variance, before[1])


def test_a_pixel_that_is_no_number_is_no_hit_and_harms_nobody() -> None:
    tracks = tracks_of(np.random.default_rng(4), (SIZE, SIZE), 60)
    image, variance = flat_field(4, tracks)
    whole = find_cosmic_rays(image, variance, NOTHING, fwhm=3.0)
    image[100:103, 50:350] = np.nan
    image[300, 200], variance[20:22, :] = np.inf, np.nan
    hits = find_cosmic_rays(image, variance, NOTHING, fwhm=3.0)
    gone = ~(np.isfinite(image) & np.isfinite(variance))
    assert not (hits & gone).any()
    away = np.ones((SIZE, SIZE), bool)
    away[90:113], away[10:32], away[290:311, 190:211] = False, False, False
    np.testing.assert_array_equal(hits[away], whole[away])
    assert find_cosmic_rays(np.full_like(image, np.nan), variance, NOTHING).sum() == 0


def test_hits_at_the_border_and_in_a_bright_place_are_found() -> None:
    y, x = np.mgrid[:SIZE, :SIZE]
    extra = 20000 * np.exp(-((x - 200) ** 2 + (y - 200) ** 2) / 2 / 30.0**2)
    rays = [(0, 100), (399, 50), (120, 0), (200, 399), (2, 2), (200, 200), (230, 190)]
    for row, column in rays:
        extra[row, column] += 4000
    hits = find_cosmic_rays(*flat_field(5, extra), NOTHING, fwhm=3.0)
    assert [bool(hits[ray]) for ray in rays] == [True] * len(rays)
    assert hits.sum() <= len(rays) + 3


def test_a_hit_beside_a_star_is_found_and_the_star_stays() -> None:
    extra = np.zeros((SIZE, SIZE))
    rng = np.random.default_rng(6)
    places = [
        (x + rng.uniform(-0.5, 0.5), y + rng.uniform(-0.5, 0.5)) for y in range(25, 380, 50) for x in range(25, 380, 50)
    ]
    for x, y in places:
        add_star(extra, x, y, 30000.0, 3.5)
    charge = np.zeros_like(extra)
    for x, y in places:
        charge[round(y) + 3, round(x) - 3 : round(x) + 6] = 800.0
    hits = find_cosmic_rays(*flat_field(6, extra + charge), NOTHING)
    assert hits[charge > 0].mean() > 0.95
    assert (hits & (charge == 0)).sum() < 0.08 * hits.sum()  # in the wings
    assert eaten_stars(hits, np.array(places), 1) == 0


def test_dark_columns_and_dead_pixels_beside_stars_make_no_hits() -> None:
    extra = np.zeros((SIZE, SIZE))
    rng = np.random.default_rng(7)
    for x, y in rng.uniform(15, SIZE - 15, (60, 2)):
        add_star(extra, x, y, 10 ** rng.uniform(3, 5), 3.5)
    image, variance = flat_field(7, extra)
    image[:, ::40] -= 60.0  # three sigma too low, and no defect that anybody knows
    image[rng.integers(0, SIZE, 300), rng.integers(0, SIZE, 300)] = 0.0
    assert find_cosmic_rays(image, variance, NOTHING).sum() <= 8


def test_noise_alone_has_almost_no_hits() -> None:
    counts = [
        int(find_cosmic_rays(*flat_field(seed), NOTHING, fwhm=fwhm).sum()) for seed in range(3) for fwhm in (2, 4)
    ]
    assert sum(counts) <= 12


def test_the_same_again_and_whatever_the_unit_of_sky() -> None:
    scene = make_scene(8, 384)
    hits = find_cosmic_rays(scene.image, scene.variance, scene.blocked, fwhm=3.6)
    again = find_cosmic_rays(scene.image, scene.variance, scene.blocked, fwhm=3.6)
    np.testing.assert_array_equal(hits, again)
    turned = find_cosmic_rays(
        *(np.ascontiguousarray(p[::-1].T) for p in (scene.image, scene.variance, scene.blocked)), fwhm=3.6
    )
    assert (turned.T[::-1] != hits).sum() <= 0.02 * hits.sum()  # the sky's sample is another one
    lower = find_cosmic_rays(scene.image - np.float32(300), scene.variance, scene.blocked, fwhm=3.6)
    assert (lower != hits).sum() <= 0.01 * hits.sum()


def test_planes_that_do_not_fit_are_refused() -> None:
    image, variance = flat_field(9)
    with pytest.raises(DataError, match="differ in shape"):
        find_cosmic_rays(image, variance[1:], NOTHING)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 100))
def test_any_shape_will_do(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, variance = observed(rng, np.full((height, width), 100.0) + 500.0 * (rng.random((height, width)) > 0.8))
    hits = find_cosmic_rays(image, variance, rng.random((height, width)) > 0.9)
    assert hits.shape == (height, width)


def star_stamp(fwhm: float, beta: float, y: float, x: float, reach: int) -> np.ndarray:
    steps = np.arange(-reach, reach + 1)
    return moffat(np.hypot(steps[:, None] - y, steps - x), fwhm, beta)


phases = st.floats(-4.0, 4.0)


@settings(max_examples=60, deadline=None)
@given(
    width=st.sampled_from([1.8, 2.5, 3.2, 5.0, 7.4]),
    wider=st.floats(1.0, 1.6),
    beta=st.sampled_from([2.5, 3.0, 4.765, np.inf]),
    places=st.lists(st.tuples(phases, phases, st.floats(0.0, 1.0)), min_size=1, max_size=4),
)
def test_no_sum_of_stars_breaks_the_rules(
    width: float, wider: float, beta: float, places: list[tuple[float, float, float]]
) -> None:
    stamps = [flux * star_stamp(width * wider, beta, y, x, 8) for y, x, flux in places]
    light = np.sum(stamps, axis=0)
    patterns, bounds = patterns_for(width), bounds_for(width)
    inner = light[8 - HALF : 9 + HALF, 8 - HALF : 9 + HALF].ravel()
    assert (patterns.weights.T @ inner).max() <= 0.012 * light.max()
    ring = light[8 + bounds.ring[:, 0], 8 + bounds.ring[:, 1]]
    above = light - np.sort(ring)[:8].mean()
    for way, (dy, dx) in enumerate(((0, 1), (1, 1))):
        for back, on in itertools.product(range(1, REACH + 1), repeat=2):
            a, b = bounds.before[way, back - 1, on - 1], bounds.after[way, back - 1, on - 1]
            if not a + b <= 12:
                continue  # never used
            allowed = a * above[8 - back * dy, 8 - back * dx] + b * above[8 + on * dy, 8 + on * dx]
            assert above[8, 8] <= allowed + 0.012 * light.max()


@pytest.mark.parametrize("fwhm", [2.2, 3.2, 6.0])
def test_filters_respond_to_tracks(fwhm: float) -> None:
    weights = patterns_for(fwhm).weights
    np.testing.assert_allclose(np.linalg.norm(weights, axis=0), 1.0, rtol=1e-5)
    track = np.zeros((7, 7))
    track[3, 1:6] = 1.0
    for turned in (track, track.T):
        assert (weights.T @ turned.ravel()).max() > {2.2: 1.35, 3.2: 1.7, 6.0: 1.9}[fwhm]  # of 5**0.5 without stars


@pytest.mark.parametrize("fwhm", [2.0, 3.5, 8.0])
def test_seeing_is_measured_among_tracks_and_galaxies(fwhm: float) -> None:
    estimates = []
    for seed in range(2):
        scene = make_scene(20 + seed, 640, fwhm=fwhm, crowding=2.0)
        estimates.append(estimate_fwhm(scene.image, scene.variance, scene.blocked))
    seen = np.hypot(fwhm, 0.95)  # with the pixel
    assert np.array(estimates, float) == pytest.approx(seen, rel=0.06)


def test_no_stars_no_seeing() -> None:
    assert estimate_fwhm(*flat_field(1), NOTHING) is None
    tracks = sum(tracks_of(np.random.default_rng(2), (SIZE, SIZE), 50, kind) for kind in ("straight", "single"))
    assert estimate_fwhm(*flat_field(2, 5 * tracks), NOTHING) is None


def test_sky_levels_follow_a_slope_round_blocked_cells() -> None:
    slope = np.linspace(100, 300, 5 * CELL)
    image = np.broadcast_to(slope, (2 * CELL + 10, 5 * CELL)).astype(np.float32)
    blocked = np.zeros(image.shape, bool)
    blocked[:CELL, :CELL] = True
    levels = sky_levels(image, blocked)
    assert levels.shape == (3, 5)
    row = np.empty(5 * CELL, np.float32)
    sky_row(levels, 2 * CELL, row)
    inner = slice(CELL, 4 * CELL)
    np.testing.assert_allclose(row[inner], slope[inner], atol=2.0)
    assert sky_levels(image, np.ones_like(blocked)).tolist() == [[0.0] * 5] * 3


def bench(scene: object, unit: str = "electron") -> IsrState:
    mask = np.where(scene.blocked, int(MaskPlane.SATURATED), 0).astype(np.int32)
    parts = {"raw": None, "camera": None, "detector": None, "calibrations": None, "config": IsrConfig()}
    return IsrState(**parts, image=scene.image.copy(), mask=mask, variance=scene.variance.copy(), unit=unit)  # type: ignore[arg-type]


def test_the_step_sets_the_plane_and_the_metrics_and_no_value() -> None:
    scene = make_scene(11, 768)
    state = bench(scene)
    cosmic_rays.apply(state)
    hits = (state.mask & MaskPlane.CR) != 0
    assert found_share(scene, hits) > 0.9
    np.testing.assert_array_equal(state.image, scene.image)
    np.testing.assert_array_equal((state.mask & MaskPlane.SATURATED) != 0, scene.blocked)
    assert state.metrics["cosmicRayFraction"] == hits.mean()
    assert state.metrics["cosmicRayCount"] == label(hits, np.ones((3, 3)))[1]
    assert state.metrics["seeingPixels"] == pytest.approx(3.6, abs=0.1)


def test_the_step_works_in_electrons_and_without_stars() -> None:
    empty = SimpleNamespace(blocked=NOTHING, image=flat_field(1)[0], variance=flat_field(1)[1])
    with pytest.raises(ConfigurationError, match="works in electron"):
        cosmic_rays.apply(bench(empty, "adu"))
    state = bench(empty)
    cosmic_rays.apply(state)
    assert "seeingPixels" not in state.metrics
    assert state.metrics["cosmicRayCount"] <= 2


def test_what_spilled_from_saturated_pixels_is_no_hit() -> None:
    extra = np.zeros((SIZE, SIZE))
    extra[150:250, 200] = 110000.0
    extra[149, 200], extra[250, 200] = 30000.0, 5000.0
    image, variance = flat_field(12, extra)
    state = bench(SimpleNamespace(blocked=image > FULL, image=image, variance=variance))
    cosmic_rays.apply(state)
    assert not (state.mask[140:260, 190:211] & MaskPlane.CR).any()
