import numpy as np
import pytest

from tests.subtract.dipole_scenes import (
    CELL,
    FWHM,
    Field,
    Setting,
    electrons_of,
    field,
    galaxies,
    joined,
    matched,
    probabilities,
    sources,
    stars,
    transients,
)
from workers.imaging.masks import MaskPlane
from workers.imaging.psf import PsfModel
from workers.subtract.dipole_fit import Window
from workers.subtract.dipoles import CANDIDATE_DTYPE, measure_dipoles, redundant_lobes

DEEP, EQUAL = Setting(), Setting(depth=1.0, through=0.3)
MOVED = Setting(offset=0.2, scale=1.05)


def drawn(low: float, high: float, count: int, rng: np.random.Generator) -> np.ndarray:
    return np.exp(rng.uniform(np.log(low), np.log(high), count))


def everything(scene: Field) -> np.ndarray:
    return scene.difference.variance > 0.0


@pytest.mark.parametrize("setting", [DEEP, EQUAL, MOVED], ids=["deep", "equal", "moved"])
def test_stars_out_of_place_are_dipoles(setting: Setting) -> None:
    rng, n = np.random.default_rng(1), 81
    light = stars(drawn(140, 1000, n, rng), drawn(0.2, 2.0, n, rng), rng, scatter=0.02)
    rows, cell, found = probabilities(field(light, n, rng, setting))
    assert len(np.unique(cell)) > 0.9 * n
    assert np.mean(found > 0.5) >= 0.95
    np.testing.assert_array_equal(rows["isDipole"], found > 0.5)
    tried = rows["dipoleFitAttempted"]
    np.testing.assert_array_equal(rows["dipoleProbability"], np.where(tried, found, np.nan).astype("f4"))


def test_faint_dipoles_at_the_limit() -> None:
    """S/N 100 and 0.2 pixels: lobes near the threshold, most of which are found alone."""
    rng, n = np.random.default_rng(2), 144
    rows, _, found = probabilities(field(stars(np.full(n, 110.0), np.full(n, 0.2), rng), n, rng))
    assert len(rows) > 30
    assert np.mean(found > 0.5) >= 0.9


@pytest.mark.parametrize("setting", [DEEP, EQUAL, MOVED], ids=["deep", "equal", "moved"])
def test_variable_stars_are_not(setting: Setting) -> None:
    """Amplitudes of 5 to 100 %, 0.02 to 0.05 pixels out of place: all are fitted, candidates or not."""
    rng, n = np.random.default_rng(3), 121
    snr = drawn(220, 1000, n, rng)
    change = drawn(0.05, 0.95, n, rng) * rng.choice([-1, 1], n)
    light = stars(snr, rng.uniform(0.02, 0.05, n), rng, change)
    rows, _, found = probabilities(field(light, n, rng, setting), every=True)
    assert np.mean(rows["dipoleFitAttempted"]) > 0.95
    assert np.mean(found > 0.5) <= 0.01


def test_transients_are_not() -> None:
    """Alone, on galaxies and near stars; those near the lobes of a star's own residual left out."""
    rng, n = np.random.default_rng(4), 121
    new = transients(drawn(10, 60, n, rng), rng, 4.0)
    shift = rng.uniform(0.02, 0.05, n)
    hosts = galaxies(drawn(30, 200, n, rng), rng.uniform(1, 4, n), shift, rng, knots=25)
    neighbours = stars(drawn(30, 200, n, rng), shift, rng)
    for light in (new, joined(hosts, new), joined(neighbours, new)):
        scene = field(light, n, rng)
        rows, _, found = probabilities(scene, every=True)
        found = found[matched(rows, new, scene.cells, 1.5)]
        assert len(found) > 0.9 * n
        assert np.mean(found > 0.5) <= 0.02
        assert np.mean(probabilities(scene)[2] > 0.5) <= 0.01


def test_columns_tell_the_truth() -> None:
    """Fluxes within their errors (pulls), length and bearing, chi2 of a good fit."""
    rng, n = np.random.default_rng(5), 121
    light = stars(np.full(n, 200.0), rng.uniform(0.5, 5.0, n), rng)
    scene = field(light, n, rng)
    rows, cell, found = probabilities(scene)
    good = found > 0.5
    rows, cell = rows[good], cell[good]
    flux = electrons_of(np.array([200.0]))[0]
    pull = rows["dipoleFluxDiff"] / rows["dipoleFluxDiffErr"]
    assert abs(pull.mean()) < 0.3
    assert pull.std() == pytest.approx(1.0, abs=0.15)
    pull = (rows["dipoleMeanFlux"] - flux) / rows["dipoleMeanFluxErr"]
    assert abs(pull.mean()) < 0.5
    assert 0.5 < pull.std() < 1.3
    length = 0.25 * np.hypot(light.dx, light.dy)[cell]
    assert np.median(np.abs(rows["dipoleLength"] / length - 1)) < 0.03
    step = scene.difference.need_wcs().jacobian(CELL * scene.cells / 2, CELL * scene.cells / 2) @ np.stack(
        [-light.dx[cell], -light.dy[cell]]
    )
    turn = rows["dipoleAngle"] - np.degrees(np.arctan2(*step))
    assert np.median(np.abs((turn + 180) % 360 - 180)) < 2.0
    assert rows["dipoleChi2"].mean() / rows["dipoleNdata"].mean() == pytest.approx(1.0, abs=0.1)


def test_candidates_need_an_opposite_lobe_and_a_star() -> None:
    rng, n = np.random.default_rng(6), 16
    scene = field(stars(np.full(n, 300.0), np.full(n, 0.3), rng), n, rng)
    rows, candidates = sources(scene)
    assert len(candidates) == len(rows)
    away = np.hypot(candidates["x"] - rows["x"][candidates["row"]], candidates["y"] - rows["y"][candidates["row"]])
    assert away.max() < 1.6 * FWHM
    rows, candidates = sources(field(transients(np.full(n, 20.0), rng, lost=0.0), n, rng))
    assert len(rows) >= n
    assert len(candidates) == 0


def test_a_dipole_is_one_source() -> None:
    rng, n = np.random.default_rng(9), 36
    scene = field(stars(drawn(300, 1000, n, rng), drawn(0.3, 6.0, n, rng), rng), n, rng)
    rows, cell, _ = probabilities(scene)
    assert len(rows) > 1.5 * n
    kept = ~redundant_lobes(rows, FWHM)
    assert len(np.unique(cell[kept])) == n == np.count_nonzero(kept)
    assert rows["isDipole"][kept].all()
    rows["isDipole"], rows["x"][0] = False, np.nan
    assert not redundant_lobes(rows, FWHM).any()


def test_without_pixels_or_position_nothing_is_fitted() -> None:
    rng, n = np.random.default_rng(7), 16
    scene = field(stars(np.full(n, 300.0), np.full(n, 0.5), rng), n, rng)
    rows, candidates = sources(scene)
    rows["x"][candidates["row"][0]] = np.nan
    mask = np.full(scene.template.shape, int(MaskPlane.SATURATED), np.int32)
    mask[:, CELL:] = 0
    mask[:, -CELL:] = int(MaskPlane.NO_DATA)
    found = measure_dipoles(
        rows, candidates, scene.difference, scene.science, scene.template.replaced(mask=mask), everything(scene)
    )
    out = np.isnan(rows["x"]) | (rows["x"] < CELL) | (rows["x"] > 3 * CELL)
    np.testing.assert_array_equal(found > 0.0, ~out)
    np.testing.assert_array_equal(rows["dipoleFitAttempted"], ~out)
    assert np.isnan(rows["dipoleLength"][out]).all()
    none = measure_dipoles(
        rows, np.zeros(0, CANDIDATE_DTYPE), scene.difference, scene.science, scene.template, everything(scene)
    )
    assert not none.any()


@pytest.mark.parametrize("oversampling", [1, 2])
def test_products_are_sums_over_the_pixels(oversampling: int) -> None:
    rng = np.random.default_rng(8)
    psf = PsfModel.gaussian(4.0, size=31, width=100, height=100, oversampling=oversampling)
    data, weight = rng.normal(size=(2, 3, 15, 15))
    middle = np.array([20.0, 50.0, 51.0]), np.array([30.0, 40.0, 41.0])
    window = Window(data, np.square(weight), *middle, psf.fine_stamps(*middle), oversampling)
    places = np.stack(middle, axis=1)[:, None, :] + rng.uniform(-3.0, 3.0, (3, 2, 2))
    out = window.products(places)
    for k in range(3):
        fields = []
        for x, y in places[k]:
            for dx, dy in ((0.0, 0.0), (1e-3, 0.0), (0.0, 1e-3)):
                wide = np.zeros((3, 60, 60))
                for step, sign in enumerate((1, -1)):
                    at = x + sign * dx - middle[0][k], y + sign * dy - middle[1][k]
                    column, row = round(at[0]), round(at[1])
                    stamp = psf.stamps_at(at[0], at[1])[0]
                    wide[step, 30 + row - 15 : 46 + row, 30 + column - 15 : 46 + column] = stamp
                value = wide[0] if dx == dy else (wide[0] - wide[1]) / 2e-3
                fields.append(value[23:38, 23:38])
        fields += [np.ones((15, 15)), data[k]]
        expected = np.einsum("aij,bij,ij->ab", np.array(fields), np.array(fields), np.square(weight[k]))
        np.testing.assert_allclose(out[k], expected, rtol=2e-4, atol=2e-4)
