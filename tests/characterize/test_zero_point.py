"""The zero point."""

import numpy as np
import pytest

from schemas.errors import DataError
from tests.characterize.zero_point_scenes import PIVOT, SHAPE, SLOPE, ZERO, draw
from workers.characterize.color_terms import ColorTerm
from workers.characterize.zero_point import ZeroPointFlag, fit_zero_point
from workers.characterize.zero_point_clouds import sky_clarity
from workers.characterize.zero_point_mixture import robust_level
from workers.characterize.zero_point_noise import expected_error
from workers.characterize.zero_point_spatial import SpatialTerm, fit_spatial_term
from workers.survey.characterize_config import PhotometryConfig


def gradient(x, y, size=0.03):
    return 1 + size * (2 * x / SHAPE[1] - 1) - 0.5 * size * (2 * y / SHAPE[0] - 1)


def offset(found):
    """Return the error made, relative, in the sense of magnitudes too bright."""
    return ZERO / found.nJyPerElectron - 1.0


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (5, {}),
        (5, {"outliers": 0.2}),
        (12, {"outliers": 0.2}),
        (30, {"outliers": 0.2, "red": 0.2}),
        (80, {"outliers": 0.2, "slope": SLOPE}),
    ],
)
def test_pulls_and_bias(count, options):
    pulls, off = [], []
    term = ColorTerm("g-r", SLOPE, 0.0, PIVOT) if "slope" in options else None
    for seed in range(60):
        scene = draw(np.random.default_rng([seed, count]), count, **options)
        found = fit_zero_point(*scene.arguments, min_stars=2, color=scene.color, color_term=term)
        off.append(offset(found))
        pulls.append(off[-1] / found.relativeError)
    assert 0.75 < np.std(pulls) < 1.27
    assert abs(np.mean(pulls)) < 0.4
    assert abs(np.mean(off)) < 0.002 + 2.5 * np.std(off) / np.sqrt(len(off))


def test_thousands_of_stars_with_outliers():
    scene = draw(np.random.default_rng(5), 4000, outliers=0.2, scatter=0.01)
    found = fit_zero_point(*scene.arguments, min_stars=5)
    assert offset(found) == pytest.approx(0.0, abs=0.0015)
    assert found.outliers == pytest.approx(0.2, abs=0.06)
    assert found.scatter == pytest.approx(0.01, rel=0.3)
    assert found.relativeError < 8e-4


def test_faint_stars_do_not_bias():
    off = []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        true = 800.0 * (1 - rng.random(400)) ** -1
        electrons = true + np.sqrt(1.33 * true) * rng.normal(size=400)
        error = np.sqrt(1.33 * np.maximum(electrons, 1.0))
        reference_error = 0.03 * ZERO * true
        found = fit_zero_point(
            electrons, error, ZERO * true + reference_error * rng.normal(size=400), reference_error, min_stars=8
        )
        off.append(offset(found))
    assert np.mean(off) == pytest.approx(0.0, abs=2e-3)


def test_the_scatter_and_chi2_are_told():
    scene = draw(np.random.default_rng(1), 800, scatter=0.03)
    found = fit_zero_point(*scene.arguments, min_stars=8)
    assert found.scatter == pytest.approx(0.03, rel=0.15)
    assert found.nStars > 750
    assert found.chi2 > 3
    assert found.flags == 0
    assert (found.colorTerm, found.spatial) == (None, None)


def test_a_known_colour_term_is_used_and_a_missing_one_hurts():
    scene = draw(np.random.default_rng(2), 300, slope=SLOPE, outliers=0.2)
    term = ColorTerm("g-r", SLOPE, 0.005, PIVOT)
    found = fit_zero_point(*scene.arguments, min_stars=8, color=scene.color, color_term=term)
    without = fit_zero_point(*scene.arguments, min_stars=8)
    assert found.colorTerm is term
    assert offset(found) == pytest.approx(0.0, abs=4 * found.relativeError)
    assert found.colorError == pytest.approx(0.921 * 0.005 * abs(np.mean(scene.color) - PIVOT), rel=0.5)
    assert found.relativeError > found.colorError
    assert without.scatter > 3 * found.scatter


def test_an_error_of_the_colour_term_is_in_the_pulls():
    pulls = []
    for seed in range(60):
        rng = np.random.default_rng([seed, 9])
        scene = draw(rng, 60, slope=SLOPE)
        term = ColorTerm("g-r", SLOPE + 0.05 * rng.normal(), 0.05, PIVOT - 0.5)
        found = fit_zero_point(*scene.arguments, min_stars=8, color=scene.color, color_term=term)
        true = ZERO * 10 ** (-0.4 * SLOPE * 0.5)  # of a source of the pivot's colour
        pulls.append((true / found.nJyPerElectron - 1) / found.relativeError)
    assert 0.75 < np.std(pulls) < 1.27
    assert abs(np.mean(pulls)) < 0.4


def test_unknown_colours():
    scene = draw(np.random.default_rng(3), 100, slope=SLOPE)
    term = ColorTerm("g-r", SLOPE, 0.005, PIVOT)
    some = np.where(np.arange(100) % 5 == 0, np.nan, scene.color)
    found = fit_zero_point(*scene.arguments, min_stars=8, color=some, color_term=term)
    assert offset(found) == pytest.approx(0.0, abs=4 * found.relativeError)
    assert not found.flags & ZeroPointFlag.COLOR_UNKNOWN
    most = np.where(np.arange(100) % 5 == 0, scene.color, np.nan)
    assert (
        fit_zero_point(*scene.arguments, min_stars=8, color=most, color_term=term).flags & ZeroPointFlag.COLOR_UNKNOWN
    )
    none = fit_zero_point(*scene.arguments, min_stars=8, color=np.full(100, np.nan), color_term=term)
    assert none.colorTerm is None
    assert none.flags & ZeroPointFlag.COLOR_UNKNOWN


def test_narrow_colours_are_flagged():
    scene = draw(np.random.default_rng(4), 100)
    term = ColorTerm("g-r", 0.0, 0.01, PIVOT)
    alike = PIVOT + 0.03 * np.random.default_rng(0).normal(size=100)
    flags = [
        fit_zero_point(*scene.arguments, min_stars=8, color=color, color_term=term).flags
        for color in (scene.color, alike, scene.color + 2.0)
    ]
    assert [bool(flag & ZeroPointFlag.COLOR_NARROW) for flag in flags] == [False, True, True]


def test_two_levels_are_ambiguous_and_the_error_spans_them():
    reference = np.geomspace(1e6, 2e6, 6)
    electrons = reference / ZERO * np.array([1.0, 1.6, 1.004, 1.61, 0.997, 1.595])
    found = fit_zero_point(electrons, 0.01 * electrons, reference, 0.005 * reference, min_stars=2)
    assert found.flags & ZeroPointFlag.AMBIGUOUS
    assert found.relativeError > 0.1


def test_a_gradient_is_found_and_none_is_not_invented():
    scene = draw(np.random.default_rng(7), 300, outliers=0.2, field=gradient)
    places = {"x": scene.x, "y": scene.y, "shape": SHAPE}
    found = fit_zero_point(*scene.arguments, min_stars=8, **places)
    assert found.spatial is not None
    x, y = np.array([0.0, 799.0, 400.0]), np.array([0.0, 999.0, 10.0])
    assert found.field(x, y) * gradient(x, y) == pytest.approx(np.ones(3), abs=0.008)
    plane = found.plane(SHAPE)
    assert plane.shape == SHAPE
    assert plane.mean() == pytest.approx(1.0, abs=1e-6)
    assert plane[[0, 999, 10], [0, 799, 400]] == pytest.approx(found.field(x, y), abs=1e-5)
    invented = []
    for seed in range(15):
        flat = draw(np.random.default_rng([seed, 1]), 60, outliers=0.2)
        even = fit_zero_point(*flat.arguments, min_stars=8, x=flat.x, y=flat.y, shape=SHAPE)
        invented.append(even.spatial is not None)
    assert sum(invented) <= 2
    assert (even.plane(SHAPE) == 1.0).all()


def test_a_plane_of_order_two_is_what_its_terms_say():
    term = SpatialTerm(2, np.array([0.01, -0.02, 0.03, 0.015, -0.01]), np.eye(5), 40, 30)
    y, x = np.mgrid[0:30, 0:40]
    assert term.plane().ravel() == pytest.approx(term(x.ravel(), y.ravel()), abs=1e-6)


def test_a_bowl_is_found_with_many_stars():
    rng = np.random.default_rng(8)
    x, y = rng.uniform(0, 800, 600), rng.uniform(0, 1000, 600)
    relative = 1 + 0.02 * (x / 400 - 1) ** 2 + 0.01 * rng.normal(size=600)
    term = fit_spatial_term(relative, np.full(600, 0.01), np.ones(600), x, y, SHAPE)
    assert term is not None
    assert term.order == 2
    assert np.std(relative * term(x, y)) < 0.0105


def test_clouds_and_clear_skies():
    config = PhotometryConfig(zero_point={"r": 25.0}, extinction={"r": 0.1})

    def clarity(field, seed, band="r"):
        scene = draw(np.random.default_rng([seed, 3]), 200, outliers=0.2, field=field)
        found = fit_zero_point(*scene.arguments, min_stars=8, x=scene.x, y=scene.y, shape=SHAPE)
        seconds = 10 ** (0.4 * (31.4 - 24.9)) / ZERO  # clear at airmass 2
        return found, sky_clarity(found, band, seconds, SHAPE, config, airmass=2.0)

    def wave(x, y):
        return 1 + 0.06 * np.sin(x / 120.0)

    flags = [clarity(None, seed)[1].cloudFlag for seed in range(8)]
    assert not any(flags)
    assert all(clarity(wave, seed)[1].cloudFlag for seed in range(4))
    found, clear = clarity(None, 1)
    assert clear.transparency == pytest.approx(1.0, abs=4 * found.relativeError)
    assert clear.transparencyErr == pytest.approx(found.relativeError, rel=0.05)
    dim = clarity(lambda x, y: 0.6, 2)[1]
    assert dim.cloudFlag
    assert dim.transparency == pytest.approx(0.6, abs=0.01)
    assert np.isnan(clarity(None, 3, band="g")[1].transparency)


def test_few_stars_tell_nothing_of_clouds():
    scene = draw(np.random.default_rng(1), 20)
    found = fit_zero_point(*scene.arguments, min_stars=8)
    clarity = sky_clarity(found, "r", 30.0, SHAPE, PhotometryConfig())
    assert (clarity.structure, clarity.structureChance, clarity.cloudFlag) == (0.0, 1.0, False)


def test_errors_are_those_of_the_expected_flux():
    rng = np.random.default_rng(9)
    true = 10 ** rng.uniform(3, 5, 200)
    measured = true + np.sqrt(1e4 + 1.3 * true) * rng.normal(size=200)
    found = expected_error(measured, np.sqrt(1e4 + 1.3 * measured), true)
    assert found == pytest.approx(np.sqrt(1e4 + 1.3 * true), rel=0.02)
    noisy = np.sqrt(1e4 + 1.3 * measured) * np.where(np.arange(200) == 7, 3.0, 1.0)
    assert expected_error(measured, noisy, true)[7] == pytest.approx(3 * np.sqrt(1e4 + 1.3 * true[7]), rel=0.1)


def test_stars_of_any_scatter_have_a_level():
    for seed, scatter in enumerate((0.1, 0.2, 0.4)):
        value = scatter * np.random.default_rng(seed).normal(size=300)
        found = robust_level(value, np.full(300, 0.005))
        assert found.value == pytest.approx(0.0, abs=5 * scatter / np.sqrt(300))
        assert found.scatter > 0.4 * scatter


def test_one_star_is_its_own_level():
    found = robust_level(np.array([0.02]), np.array([0.01]))
    assert found.value == pytest.approx(0.02, abs=0.003)
    assert found.error > 0.01


def test_unusable_rows_are_left_out():
    scene = draw(np.random.default_rng(2), 100)
    electrons, error, reference, reference_error = (column.copy() for column in scene.arguments)
    electrons[:5], error[5:8], reference[8:12] = np.nan, np.nan, -1.0
    found = fit_zero_point(electrons, error, reference, reference_error, min_stars=8)
    assert found.nJyPerElectron == pytest.approx(ZERO, rel=0.02)
    assert found.stars is not None
    assert len(found.stars) <= 88


def test_too_few_stars():
    scene = draw(np.random.default_rng(3), 4)
    with pytest.raises(DataError, match=r"zero point failed: 4 of 4 matched stars .* 8 are needed"):
        fit_zero_point(*scene.arguments, min_stars=8)


def test_no_stars():
    none = np.zeros(0)
    with pytest.raises(DataError, match="zero point failed: 0 of 0"):
        fit_zero_point(none, none, none, none, min_stars=1)
