"""Trails against drawn truth: found with path, width and brightness; what looks like one is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from tests.isr.trail_scenes import (
    NOISE,
    SKY,
    Detector,
    TrueTrail,
    add_trail,
    detector,
    draw_galaxy,
    draw_spikes,
    draw_stars,
)
from workers.imaging.masks import MaskPlane
from workers.isr.trail_path import Arc, inside, stretched
from workers.isr.trail_radon import find_lines
from workers.isr.trails import Trail, apply, find_trails, trail_mask
from workers.survey.isr_config import TrailsConfig

SIZE = 1024
OPTIONS = TrailsConfig()


@pytest.fixture(scope="module")
def field() -> Detector:
    return detector(3, SIZE, columns=2, giant=False)


def blank(seed: int = 1) -> Detector:
    image = SKY + NOISE * np.random.default_rng(seed).standard_normal((SIZE, SIZE), dtype=np.float32)
    return Detector(
        image.astype(np.float32), np.full(image.shape, NOISE**2, np.float32), np.zeros(image.shape, np.int32)
    )


def seen(scene: Detector, *trails: TrueTrail, seed: int = 1) -> tuple[Trail, ...]:
    own = Detector(scene.image.copy(), scene.variance, scene.mask, scene.boxes)
    rng = np.random.default_rng(seed)
    for trail in trails:
        add_trail(own, trail, rng)
    return find_trails(own.image, own.variance, own.mask, OPTIONS, own.boxes)


def off(trail: Trail, true: TrueTrail) -> float:
    """Largest distance between the two paths, pixels, where the found one runs."""
    x, y = Arc(trail.x0, trail.y0, trail.x1, trail.y1, trail.sagitta).points(np.linspace(0, 1, 50))
    dx, dy = true.x1 - true.x0, true.y1 - true.y0
    long = np.hypot(dx, dy)
    along = ((x - true.x0) * dx + (y - true.y0) * dy) / long**2
    across = (-(x - true.x0) * dy + (y - true.y0) * dx) / long
    return float(np.max(np.abs(across - 4 * true.sagitta * along * (1 - along))))


# a side of 1024 gathers half the signal to noise of 4096: 0.5 sigma there is 1 here
STRAIGHT = TrueTrail(0.0, 200.0, 1023.0, 700.0, fwhm=3.0, peak=1.0)


@pytest.mark.parametrize(
    "true",
    [
        STRAIGHT,
        replace(STRAIGHT, fwhm=10.0, peak=0.6),
        replace(STRAIGHT, fwhm=30.0, peak=0.5, kind="ring"),
        replace(STRAIGHT, peak=30.0, fwhm=4.0, kind="moffat"),
        replace(STRAIGHT, sagitta=12.0, fwhm=4.0),
        TrueTrail(300.0, 0.0, 312.0, 1023.0, fwhm=3.0, peak=1.0),
        TrueTrail(60.0, 1023.0, 700.0, 0.0, sagitta=-8.0, fwhm=5.0, peak=1.0),
    ],
    ids=["thin", "wide", "out of focus", "bright", "curved", "near the axis", "curved down"],
)
def test_a_trail_is_found_and_measured(field: Detector, true: TrueTrail) -> None:
    trails = seen(field, true)
    assert len(trails) == 1
    trail = trails[0]
    assert off(trail, true) < max(1.5, 0.15 * true.fwhm)
    assert np.hypot(trail.x1 - trail.x0, trail.y1 - trail.y0) > 0.9 * np.hypot(true.x1 - true.x0, true.y1 - true.y0)
    assert trail.fwhm == pytest.approx(true.fwhm, rel=0.3)
    assert trail.peak == pytest.approx(true.peak * NOISE, rel=0.25)
    assert trail.snr > 10
    assert trail.half_width >= 0.5 * true.fwhm


def test_paths_are_unbiased_and_ends_are_found() -> None:
    shifts, ends = [], []
    for seed in range(8):
        true = TrueTrail(230.0, 200.0 + 40 * seed, 800.0, 400.0 + 40 * seed, fwhm=4.0, peak=1.5)
        (trail,) = seen(blank(seed), true, seed=seed)
        x, y = Arc(trail.x0, trail.y0, trail.x1, trail.y1, trail.sagitta).points(np.array([0.5]))
        dx, dy = true.x1 - true.x0, true.y1 - true.y0
        shifts.append(float((-(x[0] - true.x0) * dy + (y[0] - true.y0) * dx) / np.hypot(dx, dy)))
        left, right = min(trail.x0, trail.x1), max(trail.x0, trail.x1)
        ends += [left - true.x0, right - true.x1]
    assert abs(np.mean(shifts)) < 0.15
    assert np.std(shifts) < 0.3
    assert np.max(np.abs(ends)) < 100


def test_a_broken_trail_is_one_trail() -> None:
    dashes = tuple((a, a + 0.1) for a in np.arange(0, 1, 0.16))
    true = replace(STRAIGHT, peak=1.5, fwhm=4.0, dashes=dashes)
    trails = seen(blank(), true)
    assert len(trails) == 1
    assert off(trails[0], true) < 1.5


def test_several_trails_are_peeled_off_one_after_another(field: Detector) -> None:
    truth = [
        STRAIGHT,
        TrueTrail(0.0, 900.0, 1023.0, 100.0, fwhm=6.0, peak=5.0),
        TrueTrail(700.0, 0.0, 400.0, 1023.0, fwhm=15.0, peak=1.0),
        TrueTrail(0.0, 260.0, 1023.0, 760.0, fwhm=3.0, peak=40.0),
    ]
    trails = seen(field, *truth)
    assert len(trails) == len(truth)
    for true in truth:
        assert min(off(trail, true) for trail in trails) < 2.5


def test_fields_without_trails_give_none() -> None:
    for seed in range(10, 18):
        assert seen(detector(seed, SIZE, columns=2, galaxies=1.5)) == ()


def test_columns_rows_and_amplifier_steps_are_no_trails() -> None:
    scene = blank()
    scene.image[:, 300] += 3 * NOISE
    scene.image[400:, 500:502] += 40 * NOISE
    scene.image[700] += 2 * NOISE
    scene.image[:, :512] += 0.5 * NOISE
    assert seen(scene) == ()
    scene.boxes = [(0, SIZE, 0, 512), (0, SIZE, 512, SIZE)]
    assert seen(scene) == ()


def test_columns_side_by_side_are_no_tilted_trail() -> None:
    scene = blank()
    scene.image[:500, 300:302] += 1.1 * NOISE
    scene.image[450:, 303:306] += 0.7 * NOISE
    assert seen(scene) == ()


def test_stars_on_a_bad_column_are_no_wide_trail() -> None:
    rng = np.random.default_rng(21006)  # the one of 500 crowded detectors where they were
    crowd, gradient, steps = 10 ** rng.uniform(-0.5, 0.7), 0.1 * rng.random(), 0.2 * rng.random() ** 2
    assert seen(detector(21006, 4096, density=crowd, gradient=gradient, steps=steps)) == ()


def test_a_trail_near_the_axis_beside_a_bad_column_is_found() -> None:
    scene = blank()
    scene.image[:, 400] += 20 * NOISE
    true = TrueTrail(500.0, 0.0, 515.0, 1023.0, fwhm=3.0, peak=1.0)
    (trail,) = seen(scene, true)
    assert off(trail, true) < 1.5


def test_spikes_of_bright_stars_and_edge_on_galaxies_are_no_trails() -> None:
    for seed, angle in enumerate((0.3, 0.8, 1.4)):
        scene = blank(seed)
        add = np.zeros_like(scene.image)
        draw_stars(add, np.array([480.0]), np.array([560.0]), np.array([2e8]), 4.0)
        draw_spikes(add, 480.0, 560.0, 2e8, angle, 4.0)
        draw_galaxy(add, 200.0, 800.0, 3e6, 60.0, 0.12, 0.5, 1.0)
        scene.image += add
        full = scene.image > 120000
        scene.mask[full] = int(MaskPlane.SATURATED)
        scene.image[full] = 120000
        assert seen(scene) == ()


def test_a_trail_through_a_bright_star_is_found() -> None:
    scene = blank()
    draw_stars(scene.image, np.array([511.5]), np.array([450.0]), np.array([2e7]), 4.0)
    scene.mask[scene.image > 120000] = int(MaskPlane.SATURATED)
    trails = seen(scene, STRAIGHT, replace(STRAIGHT, y0=500.0, y1=400.0, peak=20.0))
    assert len(trails) == 2


def test_false_trails_of_pure_noise_are_rare() -> None:
    """The largest of all line sums in noise: none beyond 7 sigma in 40 images, though each has millions of lines."""
    rng = np.random.default_rng(5)
    tops = []
    for _ in range(40):
        noise = rng.standard_normal((256, 256), dtype=np.float32)
        lines = find_lines(noise, np.ones_like(noise), 4.5, 60.0)
        tops.append(lines[0, 5] if len(lines) else 4.5)
    assert 4.5 < np.median(tops) < 6.0
    assert np.max(tops) < 7.0


def test_a_line_sum_is_the_sum_along_the_line() -> None:
    value = np.zeros((256, 256), np.float32)
    value[np.arange(256), np.arange(256) // 2 + 20] = 1.0
    lines = find_lines(value, np.ones_like(value), 5.0, 60.0)
    x0, y0, x1, y1, width, z = lines[0]
    assert (y0, y1, width) == (0, 255, 1)
    assert (x0, x1) == pytest.approx((20, 147), abs=1.5)
    assert z == pytest.approx(np.sqrt(256 * 12 / 13), rel=0.1)


def test_masked_and_unfinite_pixels_do_not_matter() -> None:
    scene, rng = blank(), np.random.default_rng(2)
    hit = rng.random(scene.image.shape) < 0.05
    scene.mask[hit] = int(MaskPlane.CR)
    broken = scene.image.copy()
    broken[hit] = np.nan
    other = Detector(broken, scene.variance, scene.mask)
    found = seen(scene, STRAIGHT)
    assert len(found) == 1
    assert seen(other, STRAIGHT)[0].x0 == pytest.approx(found[0].x0, abs=1.0)
    empty = Detector(scene.image, scene.variance, np.full_like(scene.mask, int(MaskPlane.NO_DATA)))
    assert seen(empty) == ()
    assert seen(Detector(np.full_like(scene.image, 7.0), scene.variance, np.zeros_like(scene.mask))) == ()


def test_shapes_must_agree() -> None:
    scene = blank()
    with pytest.raises(DataError, match="differ in shape"):
        find_trails(scene.image[1:], scene.variance, scene.mask, OPTIONS)
    assert find_trails(scene.image[:90, :128], scene.variance[:90, :128], scene.mask[:90, :128], OPTIONS) == ()


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.floats(-50, 250) for _ in range(4)]).filter(lambda e: np.hypot(e[2] - e[0], e[3] - e[1]) > 20),
    st.floats(-10, 10),
    st.floats(1, 12),
)
def test_the_mask_is_what_lies_near_the_path(ends: tuple[float, ...], sagitta: float, half: float) -> None:
    trail = Trail(*ends, sagitta, 3.0, 1.0, 10.0, half)
    mask = trail_mask([trail], (200, 200))
    x, y = Arc(*ends, sagitta).points(np.linspace(0, 1, 500))
    rows, columns = np.mgrid[:200:7, :200:7].astype(float)
    distance = np.min(np.hypot(columns[..., None] - x, rows[..., None] - y), axis=-1)
    sampled = mask[::7, ::7]
    inner = distance < 0.7 * half - 1.5
    assert sampled[
        inner & (np.hypot(columns - x[0], rows - y[0]) > half) & (np.hypot(columns - x[-1], rows - y[-1]) > half)
    ].all()
    assert not sampled[distance > 1.5 * half + 2].any()


@settings(max_examples=60, deadline=None)
@given(st.floats(-0.5, 0.4), st.floats(0.6, 2.0), st.floats(-20, 20))
def test_a_stretched_arc_is_the_same_parabola(begin: float, end: float, sagitta: float) -> None:
    arc = Arc(100.0, 150.0, 900.0, 400.0, sagitta)
    piece = stretched(arc, begin, end)
    share = np.linspace(0, 1, 5)
    x, y = piece.points(share)
    true_x, true_y = arc.points(begin + share * (end - begin))
    assert np.hypot(x - true_x, y - true_y).max() < 8.0
    kept = inside(piece, (1024, 1024))
    assert kept.length <= piece.length + 1e-6
    assert piece.scaled(4.0).scaled(0.25).numbers() == pytest.approx(piece.numbers())


@pytest.mark.slow
def test_faint_trails_over_a_whole_detector() -> None:
    """0.5 sigma per pixel at the peak, 4096 x 4096: all found; the bench counts hundreds."""
    rng = np.random.default_rng(7)
    for seed, fwhm in enumerate((3.0, 5.0, 12.0, 30.0)):
        scene = detector(100 + seed)
        true = TrueTrail(0.0, float(rng.uniform(300, 3800)), 4095.0, float(rng.uniform(300, 3800)), 15.0 * seed, fwhm)
        trails = seen(scene, true)
        assert len(trails) == 1
        assert off(trails[0], true) < 2.0 + 0.1 * fwhm


def test_the_step_flags_streaks_and_keeps_the_values() -> None:
    scene = blank()
    add_trail(scene, STRAIGHT, np.random.default_rng(1))
    before = scene.image.copy()
    half = SIZE // 2
    boxes = ((0, SIZE, 0, half), (0, SIZE, half, SIZE))
    metrics: dict[str, float] = {}

    def flag(where: np.ndarray, planes: MaskPlane) -> None:
        scene.mask[where] |= int(planes)

    state = SimpleNamespace(
        image=scene.image,
        variance=scene.variance,
        mask=scene.mask,
        detector=SimpleNamespace(boxes=boxes),
        config=SimpleNamespace(trails=OPTIONS),
        metrics=metrics,
        flag=flag,
    )
    apply(state)  # type: ignore[arg-type]
    streak = (scene.mask & int(MaskPlane.STREAK)) != 0
    assert streak[450, 511]
    assert metrics == {"trailCount": 1.0, "trailFraction": pytest.approx(streak.mean())}
    assert 0 < streak.mean() < 0.05
    assert np.array_equal(scene.image, before)
