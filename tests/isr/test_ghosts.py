"""Ghosts and glints: traced rays against the table that a few measured ghosts give; the mask against brute force."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage

from schemas.errors import ConfigurationError
from workers.calibrate.ghosts import ReflectionFit, fit_reflection
from workers.imaging.bright_stars import BrightStars, bright_stars
from workers.imaging.calibrations import CalibrationSet
from workers.imaging.masks import MaskPlane
from workers.imaging.reference import ReferenceCatalogue
from workers.imaging.wcs import SkyWcs
from workers.isr import ghosts
from workers.isr.ghosts import StrayLight, flag_stray_light, predict_stray_light, star_offsets
from workers.isr.state import IsrState
from workers.simulate.ghosts import EdgeOptics, GhostOptics, light_on_pixels, trace_ghost, trace_glint
from workers.survey.camera import camera_from_dict, load_camera
from workers.survey.isr_config import GhostsConfig, IsrConfig
from workers.survey.reflections import Ghost, Glint, Reflection

SHAPE, ORIGIN = (800, 800), (400.0, 400.0)
GHOST = {"kind": "ghost", "name": "window", "magnification": 1.0, "outer": 60.0, "inner": 20.0, "fraction": 1e-3}
GLINT = {
    "kind": "glint",
    "name": "frame",
    "magnification": 0.97,
    "min_radius": 700.0,
    "max_radius": 740.0,
    "length": -180.0,
    "width": 12.0,
    "fraction": 0.2,
}
MEASURED = np.array([(0, 0), (250, 90), (-200, 220), (80, -260), (-270, -100)], float)
Made = Callable[..., dict[str, Any]]


def one(tree: dict[str, Any]) -> Ghost | Glint:
    reflection: Ghost | Glint = TypeAdapter(Reflection).validate_python(tree)
    return reflection


@lru_cache
def measured(optics: GhostOptics) -> ReflectionFit:
    """What a user does: outline five ghosts on frames, fill their holes, take areas and centres of disc and hole."""
    rows = []
    for star in MEASURED:
        landing, share = trace_ghost(optics, tuple(star), 400_000)
        picture = ndimage.gaussian_filter(light_on_pixels(landing, share, SHAPE, ORIGIN), 1.0)
        lit = picture > 0.5 * np.median(picture[picture > 0.3 * picture.max()])
        disc = ndimage.binary_fill_holes(lit)
        centre, hole = ndimage.center_of_mass(disc)[::-1], ndimage.center_of_mass(disc & ~lit)[::-1]
        sizes = np.sqrt(np.array([disc.sum(), (disc & ~lit).sum()]) / np.pi)
        rows.append([*np.subtract(centre, ORIGIN), *np.subtract(hole, ORIGIN), *sizes, picture.sum()])
    table = np.array(rows)
    return fit_reflection(
        table[:, :2],
        MEASURED,
        name="window",
        hole_centres=table[:, 2:4],
        outer=table[:, 4],
        inner=table[:, 5],
        ghost_electrons=table[:, 6] * 1e-3,  # two surfaces that reflect 3 % each
        star_electrons=np.ones(len(table)),
    )


@pytest.mark.parametrize(
    "optics",
    [
        GhostOptics(),
        GhostOptics(surface_curvature=2e-5),
        GhostOptics(surface_curvature=-1.5e-5, tilt=(1e-3, -5e-4), surface_height=350.0),
    ],
    ids=["window", "hollow", "tilted lens"],
)
def test_the_table_from_five_ghosts_predicts_all_others(optics: GhostOptics) -> None:
    fit = measured(optics)
    assert fit.scatter < 0.5
    electrons = 3e9
    for star in ((0.0, 150.0), (310.0, -270.0), (-300.0, 40.0)):
        landing, share = trace_ghost(optics, star, 600_000)
        light = light_on_pixels(landing, share * 1e-3 * electrons, SHAPE, ORIGIN)
        light = ndimage.gaussian_filter(light, 1.3)  # seeing
        limit = 0.2 * float(np.median(light[light > 0.3 * light.max()]))
        truth = light > limit
        mask = np.zeros(SHAPE, np.int32)
        predicted = predict_stray_light((fit.reflection,), np.array([star]), np.array([electrons]), "r", margin=2.0)
        pixels, count = flag_stray_light(mask, predicted, ORIGIN, limit)
        flagged = mask == int(MaskPlane.GHOST)
        assert (pixels, count) == (np.count_nonzero(flagged), 1)
        assert np.count_nonzero(truth & flagged) >= 0.99 * np.count_nonzero(truth)
        assert np.count_nonzero(flagged & ~truth) <= 0.06 * np.count_nonzero(truth)
        level = predicted.discs[0, 6]
        assert np.median(light[truth]) == pytest.approx(level, rel=0.05)


def test_the_fitted_map_is_the_paraxial_one_within_its_errors() -> None:
    optics = GhostOptics()
    fit = measured(optics)
    # light that went up and down once more over the gap: extra path 2 h along a ray of slope (u - pupil) / distance
    ratio = 2.0 * optics.surface_height / optics.pupil_distance
    assert isinstance(fit.reflection, Ghost)
    assert fit.reflection.magnification == pytest.approx(1.0 + ratio, abs=max(4 * fit.errors["magnification"], 1e-3))
    assert np.hypot(*fit.reflection.shift) < 0.3
    assert fit.reflection.outer == pytest.approx(ratio * optics.pupil_radius, abs=0.7)
    hole = optics.obstruction_radius * optics.pupil_distance / optics.obstruction_distance
    assert fit.reflection.inner == pytest.approx(ratio * hole, abs=0.7)
    assert fit.reflection.fraction == pytest.approx(1e-3 * (1 - (hole / optics.pupil_radius) ** 2), rel=1e-3)


def test_glints_of_stars_on_the_frames_edge() -> None:
    edge, electrons = EdgeOptics(bevel=0.35), 1e8
    table = []
    for radius in (704.0, 710.0, 716.0):  # what a user sees on three frames: begin, length and widths of the streaks
        landing, share = trace_glint(edge, (radius, 0.0), 400_000)
        along, across = landing[:, 0], np.abs(landing[:, 1])
        far = along < along.min() + 0.1 * np.ptp(along)
        widths = [2 * across[along > along.max() - 20].max(), 2 * across[far].max()]
        table.append([along.max() / radius, np.ptp(along), *widths, len(along) * share])
    width, end_width, fraction = np.mean(table, axis=0)[2:]
    begin, length = np.max(table, axis=0)[:2]  # the mirrored focus does not move linearly: take the longest
    glint = one(
        GLINT
        | {
            "magnification": float(begin),
            "min_radius": 700.0,
            "max_radius": 720.0,
            "length": -float(length),
            "width": float(width),
            "end_width": float(end_width),
            "fraction": float(fraction),
        }
    )
    for azimuth, radius in ((0.4, 707.0), (2.5, 713.0), (-1.2, 709.0)):
        star = (radius * np.cos(azimuth), radius * np.sin(azimuth))
        landing, share = trace_glint(edge, star, 600_000)
        shape, origin = (1500, 1500), (750.0, 750.0)
        light = ndimage.gaussian_filter(light_on_pixels(landing, share * electrons, shape, origin), 1.3)
        predicted = predict_stray_light((glint,), np.array([star]), np.array([electrons]), "r", margin=5.0)
        limit = 0.05 * float(predicted.streaks[0, 7])
        mask = np.zeros(shape, np.int32)
        _, count = flag_stray_light(mask, predicted, origin, limit)
        truth, flagged = light > limit, mask != 0
        assert count == 1
        assert np.count_nonzero(truth & flagged) >= 0.99 * np.count_nonzero(truth)
        assert np.count_nonzero(flagged & ~truth) <= 1.8 * np.count_nonzero(truth)  # seeing's margin on a thin streak


@pytest.mark.parametrize("star", [(690.0, 0.0), (745.0, 0.0), (0.0, 0.0)])
def test_only_stars_in_the_range_of_radii_and_azimuths_glint(star: tuple[float, float]) -> None:
    light = predict_stray_light((one(GLINT),), np.array([star, (720.0, 0.0)]), np.ones(2), "r")
    assert len(light.streaks) == 1
    wrapped = one(GLINT | {"azimuths": (350.0, 370.0)})
    assert len(predict_stray_light((wrapped,), np.array([[720.0, 5.0], [720.0, -5.0]]), np.ones(2), "r").streaks) == 2
    assert len(predict_stray_light((wrapped,), np.array([[0.0, 720.0]]), np.ones(1), "r").streaks) == 0


def brute(light: StrayLight, origin: tuple[float, float], shape: tuple[int, int]) -> NDArray[np.float64]:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    x, y = x - origin[0], y - origin[1]
    total = np.zeros(shape)
    for x0, y0, outer, hole_x, hole_y, inner, level in light.discs:
        hole = (inner > 0) & ((x - hole_x) ** 2 + (y - hole_y) ** 2 < inner**2)
        total += level * (((x - x0) ** 2 + (y - y0) ** 2 < outer**2) & ~hole)
    for x0, y0, ux, uy, length, begin, end, level in light.streaks:
        along, across = (x - x0) * ux + (y - y0) * uy, (y - y0) * ux - (x - x0) * uy
        half = begin + (end - begin) * along / length
        total += level * ((along >= 0) & (along <= length) & (np.abs(across) <= half))
    return total


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 4), st.integers(0, 3))
def test_the_mask_is_where_the_light_adds_up_to_more_than_the_limit(seed: int, discs: int, streaks: int) -> None:
    rng = np.random.default_rng(seed)
    outer = rng.uniform(3, 40, discs)
    angle = rng.uniform(0, 7, streaks)
    light = StrayLight(
        np.stack(
            [
                *rng.uniform(-40, 90, (2, discs)),
                outer,
                *rng.uniform(-40, 90, (2, discs)),
                rng.uniform(0, 1, discs) * outer,
                rng.uniform(0.2, 3, discs),
            ],
            axis=1,
        ),
        np.stack(
            [
                *rng.uniform(-30, 80, (2, streaks)),
                np.cos(angle),
                np.sin(angle),
                rng.uniform(5, 80, streaks),
                *rng.uniform(1, 9, (2, streaks)),
                rng.uniform(0.2, 3, streaks),
            ],
            axis=1,
        ),
    )
    shape, origin = (50, 61), (3.3, -2.7)
    mask = np.ones(shape, np.int32)
    pixels, count = flag_stray_light(mask, light, origin, 1.0)
    expected = brute(light, origin, shape) > 1.0
    np.testing.assert_array_equal(mask, np.where(expected, 1 | int(MaskPlane.GHOST), 1))
    assert pixels == np.count_nonzero(expected)
    if count == 0:
        assert not any(
            (brute(StrayLight(row[None], np.zeros((0, 8))), origin, shape) > 1.0).any() for row in light.discs
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inner": 60.0}, "inner radius"),
        ({"inner_growth": 0.1}, "max_radius"),
        ({"inner_growth": 0.1, "max_radius": 1000.0}, "inner radius"),
        ({"fraction": 0.0}, "fraction"),
        ({"fraction": 1.0}, "fraction"),
        ({"radius": 3.0}, "radius"),
        ({"length": 3.0}, "length"),
        ({"kind": "spike"}, "kind"),
        ({"magnification": [[1.0, 0.0]]}, "magnification"),
        ({"magnification": float("nan")}, "magnification"),
        ({"outer": -1.0}, "outer"),
    ],
)
def test_a_wrong_entry_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        one(GHOST | changes)


@pytest.mark.parametrize("changes", [{"length": 0.0}, {"min_radius": 740.0}, {"inner": 3.0}, {"width": 0.0}])
def test_a_wrong_glint_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        one(GLINT | changes)


def test_the_table_is_read_from_camera_toml(tmp_path: Path, make_tree: Made) -> None:
    with pytest.raises(ValidationError, match="offset_x"):
        camera_from_dict(make_tree(reflections=[GHOST]))
    with pytest.raises(ValidationError, match="differ"):
        camera_from_dict(with_reflections(make_tree, [GHOST, GHOST]))
    camera = camera_from_dict(with_reflections(make_tree, [GHOST, GLINT]))
    assert [type(one) for one in camera.reflections] == [Ghost, Glint]
    path = tmp_path / "camera.toml"
    path.write_text('name = "x"\n[[reflections]]\nkind = "ghost"\nname = "a"\nouterr = 3.0\n', encoding="utf-8")
    with pytest.raises(ConfigurationError, match="did you mean 'outer'"):
        load_camera(path)


def with_reflections(make_tree: Made, reflections: list[dict[str, Any]]) -> dict[str, Any]:
    tree = make_tree(reflections=reflections)
    tree["detectors"][0] |= {"offset_x": 63.5, "offset_y": 47.5}
    return tree


def bench(instrument: Any, camera: Any, stars: BrightStars | None, options: GhostsConfig) -> IsrState:
    shape = (camera.detectors[0].height, camera.detectors[0].width)
    raw = instrument.raw(np.full(shape, 100.0))
    plane = np.full(shape, 100.0, np.float32)
    detector, config = camera.detectors[0], IsrConfig(ghosts=options)
    mask = np.zeros(shape, np.int32)
    return IsrState(
        raw, camera, detector, CalibrationSet({}), config, plane, mask, plane.copy(), stars=stars, unit="electron"
    )


def test_a_star_far_outside_the_detector_throws_its_ghost_onto_it(instrument: Any, make_tree: Made) -> None:
    camera = camera_from_dict(with_reflections(make_tree, [GHOST | {"magnification": -0.1, "outer": 30.0}]))
    wcs = SkyWcs.from_cards(instrument.raw(np.full((96, 128), 9.0)).header)
    x, y = 63.5 - 400.0, 47.5 + 120.0  # 418 pixels, 0.042 degrees away: its ghost is centred at (103.5, 35.5)
    ra, dec = wcs.pixel_to_sky([x, 20.0], [y, 20.0])
    stars = BrightStars(ra, dec, np.array([6.0, 13.0]))
    options = GhostsConfig(zero_points={"r": 25.0}, margin=0.0)
    state = bench(instrument, camera, stars, options)
    ghosts.apply(state)
    found = np.argwhere(state.mask == int(MaskPlane.GHOST))
    yy, xx = np.mgrid[:96, :128]
    radius = np.hypot(xx - 103.5, yy - 35.5)
    np.testing.assert_array_equal(state.mask != 0, (radius < 30.0) & (radius >= 20.0))
    assert state.metrics == {"ghostCount": 1.0, "ghostFraction": len(found) / state.mask.size}
    for none in (
        options.model_copy(update={"radius": 0.03}),
        options.model_copy(update={"magnitude_limit": 5.0}),
        options.model_copy(update={"threshold": 1e9}),
    ):
        state = bench(instrument, camera, stars, none)
        ghosts.apply(state)
        assert state.metrics == {"ghostCount": 0.0, "ghostFraction": 0.0}
        assert not state.mask.any()


def test_the_limit_is_noise_or_sky_whichever_is_lower(instrument: Any, make_tree: Made) -> None:
    camera = camera_from_dict(with_reflections(make_tree, [GHOST]))
    wcs = SkyWcs.from_cards(instrument.raw(np.full((96, 128), 9.0)).header)
    stars = BrightStars(*wcs.pixel_to_sky([60.0], [50.0]), np.array([10.0]))
    # 30 s at zero point 25: 3e7 electrons, a thousandth of them over 1e4 pixels: 3 electrons per pixel; noise 10
    for options, seen in ((GhostsConfig(zero_points={"r": 25.0}), 0.0), ({"threshold": 0.25}, 1.0)):
        if isinstance(options, dict):
            options = GhostsConfig(zero_points={"r": 25.0}, **options)
        state = bench(instrument, camera, stars, options)
        ghosts.apply(state)
        assert state.metrics["ghostCount"] == seen
    state = bench(instrument, camera, stars, GhostsConfig(zero_points={"r": 25.0}, sky_threshold=0.02))
    ghosts.apply(state)
    assert state.metrics["ghostCount"] == 1.0


def test_what_is_missing_is_named(instrument: Any, make_tree: Made) -> None:
    bare = camera_from_dict(with_reflections(make_tree, []))
    camera = camera_from_dict(with_reflections(make_tree, [GHOST | {"bands": ["z"]}]))
    stars = BrightStars(np.array([150.0]), np.array([2.0]), np.array([5.0]))
    options = GhostsConfig(zero_points={"r": 25.0})
    for wrong, words in (
        (bench(instrument, camera, None, options), "catalogue"),
        (bench(instrument, bare, stars, options), "reflections"),
        (bench(instrument, camera, stars, GhostsConfig()), "zero_points"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            ghosts.apply(wrong)
    state = bench(instrument, camera, stars, options)
    state.variance[:] = 0.0
    state.image[:] = 0.0
    with pytest.raises(ConfigurationError, match="variance"):
        ghosts.apply(state)
    state = bench(instrument, camera, stars, options)
    ghosts.apply(state)
    assert state.metrics["ghostCount"] == 0.0  # the ghost is one of another band


def test_offsets_follow_the_wcs_and_stay_sane_beyond_its_distortion(instrument: Any, make_tree: Made) -> None:
    detector = camera_from_dict(with_reflections(make_tree, [])).detectors[0]
    cards = {key: value for key, value in instrument.raw(np.full((96, 128), 9.0)).header.items()}
    cards |= {
        "CTYPE1": "RA---TAN-SIP",
        "CTYPE2": "DEC--TAN-SIP",
        "A_ORDER": 3,
        "B_ORDER": 3,
        "A_3_0": 2e-6,
        "B_0_3": 2e-6,
    }
    wcs = SkyWcs.from_cards(cards)
    x, y = np.array([10.0, 120.0]), np.array([90.0, 5.0])
    inside = star_offsets(BrightStars(*wcs.pixel_to_sky(x, y), np.zeros(2)), wcs, detector)
    np.testing.assert_allclose(inside, np.stack([x - 63.5, y - 47.5], axis=1), atol=1e-3)
    away = BrightStars(np.array([150.9, 330.0]), np.array([2.0, -2.0]), np.zeros(2))
    far = star_offsets(away, wcs, detector)
    assert far[0] == pytest.approx([-9000.0, 0.0], rel=0.02, abs=50.0)
    assert len(predict_stray_light((one(GHOST),), far, np.ones(2), "r").discs) == 1  # the other side of the sky
    assert star_offsets(away.chosen(np.zeros(0, int)), wcs, detector).shape == (0, 2)


def test_bright_stars_are_the_patch_of_the_catalogue() -> None:
    flux = {"r": np.array([1e9, 1e5, 1e9, np.nan])}
    catalogue = ReferenceCatalogue(np.array([359.9, 0.0, 20.0, 0.1]), np.zeros(4), flux, {"r": np.ones(4)})
    stars = bright_stars(catalogue, "r", 0.0, 0.0, 1.0, 12.0)
    np.testing.assert_allclose([*stars.ra, *stars.magnitude], [359.9, 31.4 - 22.5])
    np.testing.assert_allclose(stars.flux, [1e9])
    np.testing.assert_allclose(stars.separation(0.0, 0.0), [0.1])
    with pytest.raises(ConfigurationError, match="flux_g"):
        bright_stars(catalogue, "g", 0.0, 0.0, 1.0, 12.0)
    with pytest.raises(ConfigurationError, match="magnitude"):
        BrightStars(np.zeros(2), np.zeros(2), np.array([1.0, np.nan]))
