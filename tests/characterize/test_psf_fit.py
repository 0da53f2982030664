"""The fitted PSF against the one that drew the stars."""

import numpy as np
import pytest

from schemas.errors import DataError
from tests.characterize.psf_scenes import Shape, draw_scene
from workers.characterize.psf_fit import fit_psf, psf_degree
from workers.characterize.star_selection import select_stars
from workers.imaging.background import source_free_background
from workers.imaging.detection import detect
from workers.imaging.psf import PsfModel
from workers.imaging.psf_shapes import adaptive_moments


def fitted(field, **changes):
    image, variance = np.array(field.exposure.image), np.array(field.exposure.variance)
    usable = np.ones(image.shape, bool)
    background = source_free_background(image, ~usable, mesh=64)
    image = image - background.level
    rows = detect(image, background.noise, ~usable, threshold=5.0).rows
    stars = select_stars(image, background.noise, usable, rows, min_snr=50.0, stamp_size=25)
    chosen = rows[stars.rows]
    settings = {"fwhm": stars.fwhm, "size": 25, "max_degree": 2, **changes}
    return fit_psf(image, variance, usable, chosen["x"], chosen["y"], **settings)


def compared(field, model):
    """Relative errors, over a grid, of the width and of the flux that the model gives a noiseless star."""
    width, flux = [], []
    for x in np.linspace(40, 728, 5):
        for y in np.linspace(40, 728, 5):
            true = field.psf_stamp(x, y, 25)
            ours = model.stamps(x, y)[0]
            reference = PsfModel((true / true.sum())[None].astype(np.float32), 0, model.width, model.height)
            width.append(model.fwhm(x, y) / reference.fwhm(x, y) - 1.0)
            flux.append((true * ours).sum() / np.square(ours).sum())
    return np.array(width), np.array(flux) / np.mean(flux) - 1.0


@pytest.mark.parametrize(
    ("fwhm", "beta", "variation"), [(3.6, 3.5, 0.06), (2.6, np.inf, 0.06), (4.5, 3.0, 0.10), (3.0, 4.0, 0.0)]
)
def test_width_and_flux_over_the_field(draw_field, fwhm, beta, variation):
    biases = []
    for seed in range(2):
        field = draw_field(seed, stars=250, faintest=2500.0, fwhm=fwhm, beta=beta, variation=variation)
        found = fitted(field)
        width, flux = compared(field, found.model)
        biases.append(width.mean())
        assert np.abs(width).max() < 0.05
        assert flux.std() < 0.01
        assert found.used.mean() > 0.8
        assert 0.5 < found.chi2 < 1.5
    assert abs(np.mean(biases)) < 0.01


def test_bright_stars_show_the_models_own_limit(draw_field):
    field = draw_field(1, stars=150, faintest=1e5, brightest=1e6)
    found = fitted(field)
    width, flux = compared(field, found.model)
    assert found.model.degree == 2
    assert abs(width.mean()) < 0.003
    assert flux.std() < 0.002
    assert np.abs(flux).max() < 0.006


def test_stamps_are_unit_sum_and_fall_to_zero_at_the_rim(draw_field):
    model = fitted(draw_field(2, faintest=1500.0)).model
    stamps = model.stamps([10.0, 380.0, 750.0], [700.0, 380.0, 20.0])
    np.testing.assert_allclose(stamps.sum(axis=(1, 2)), 1.0)
    rim = np.concatenate([stamps[:, 0], stamps[:, -1], stamps[:, :, 0], stamps[:, :, -1]], axis=1)
    assert np.abs(rim).max() < 1e-4 * stamps.max()
    assert stamps.min() > -2e-3 * stamps.max()


def test_blends_and_galaxies_among_the_candidates_leave(draw_field):
    field = draw_field(4, stars=150, faintest=5000.0, variation=0.0)
    image = field.exposure.image - 400.0 - 30.0 * np.linspace(-1, 1, 768)[None, :]
    inside = (field.x > 40) & (field.x < 728) & (field.y > 40) & (field.y < 728) & (field.electrons > 1e4)
    near = np.array([np.sort(np.hypot(field.x - a, field.y - b))[1] for a, b in zip(field.x, field.y, strict=True)])
    good = np.flatnonzero(inside & (near > 20))[:25]
    bad = np.array([[100.5, 300.5], [620.2, 505.1], [333.0, 650.0]])
    rows, columns = np.indices(image.shape)
    for x, y in bad:
        image = image + 500.0 * np.exp(-0.5 * ((rows - y) ** 2 + (columns - x) ** 2) / 16.0)
    x, y = np.r_[field.x[good], bad[:, 0]], np.r_[field.y[good], bad[:, 1]]
    found = fit_psf(
        image, np.array(field.exposure.variance), np.ones(image.shape, bool), x, y, fwhm=4.0, size=25, max_degree=2
    )
    assert not found.used[-3:].any()
    assert found.used[:-3].mean() > 0.85


def test_the_degree_follows_the_stars():
    assert [psf_degree(n, 3) for n in (3, 11, 12, 29, 30, 60)] == [0, 0, 1, 1, 2, 3]
    assert psf_degree(500, 1) == 1


def test_three_stars_give_a_constant_psf_and_two_none(draw_field):
    field = draw_field(5, stars=12, faintest=5e4, variation=0.0)
    image = field.exposure.image - field.expected.min()
    inside = np.flatnonzero((field.x > 30) & (field.x < 738) & (field.y > 30) & (field.y < 738))
    arguments = (np.array(field.exposure.variance), np.ones(image.shape, bool))
    three = inside[:3]
    found = fit_psf(image, *arguments, field.x[three], field.y[three], fwhm=4.0, size=25, max_degree=2)
    assert found.model.degree == 0
    with pytest.raises(DataError, match="PSF needs at least 3 isolated, unsaturated stars; 2 of 2"):
        fit_psf(image, *arguments, field.x[three[:2]], field.y[three[:2]], fwhm=4.0, size=25, max_degree=2)


def test_stars_on_a_line_carry_no_two_dimensional_polynomial(draw_field):
    field = draw_field(1, stars=300, faintest=5000.0, variation=0.0)
    image = field.exposure.image - np.float32(400.0)
    line = np.flatnonzero((np.abs(field.x - 300) < 12) & (field.y > 20) & (field.y < 748))
    line = np.concatenate([line, line, line])[:40]
    found = fit_psf(
        image,
        np.array(field.exposure.variance),
        np.ones(image.shape, bool),
        field.x[line],
        field.y[line],
        fwhm=4.0,
        size=25,
        max_degree=2,
    )
    assert found.model.degree == 0
    assert np.isfinite(found.model.coefficients).all()


def fitted_scene(scene, **changes):
    rows = detect(scene.image, scene.noise, np.zeros(scene.image.shape, bool), threshold=5.0).rows
    stars = select_stars(scene.image, scene.noise, scene.usable, rows, min_snr=50.0, stamp_size=25)
    chosen = rows[stars.rows]
    settings = {"fwhm": stars.fwhm, "size": 25, "max_degree": 3, "oversampling": None, **changes}
    return fit_psf(scene.image, scene.variance, scene.usable, chosen["x"], chosen["y"], **settings)


def grid_of(scene, side=6):
    place = np.linspace(0.05, 0.95, side) * len(scene.image)
    return (axis.ravel() for axis in np.meshgrid(place, place))


def size_and_shape_errors(scene, model):
    x, y = grid_of(scene)
    true, ours = adaptive_moments(scene.stamps(x, y, model.size)), adaptive_moments(model.stamps(x, y))
    return ours.size / true.size - 1.0, ours.e1 - true.e1, ours.e2 - true.e2


BRIGHT = {"galaxies": 0, "blends": 0.0, "cosmics": 0, "faintest": 3e4, "brightest": 6e5}


@pytest.mark.parametrize(("fwhm", "beta", "coma"), [(2.2, 4.0, 0.0), (2.4, 3.0, 0.3), (3.6, 3.0, 0.3)])
def test_the_size_is_right_however_few_pixels_there_are(fwhm, beta, coma):
    scene = draw_scene(3, 1024, shape=Shape(fwhm, beta, coma=coma), stars=200, **BRIGHT)
    found = fitted_scene(scene)
    size, e1, e2 = size_and_shape_errors(scene, found.model)
    assert found.quality.oversampling == (2 if fwhm < 2.5 else 1)
    assert abs(size.mean()) < 1.5e-3
    assert size.std() < 6e-3
    assert np.hypot(e1, e2).mean() < 4e-3
    assert abs(found.quality.e1 - np.mean(adaptive_moments(scene.stamps(*grid_of(scene), 25)).e1)) < 4e-3


def test_a_finer_grid_gives_the_right_flux_at_any_place_in_a_pixel():
    scene = draw_scene(1, 1024, shape=Shape(2.1, 3.5, variation=0.0, ellipticity=0.0), stars=250, noise=0.02, **BRIGHT)
    scatter = []
    for oversampling in (1, 2):
        model = fitted_scene(scene, oversampling=oversampling, max_degree=0).model
        x, y = 500.0 + np.random.default_rng(1).uniform(-0.5, 0.5, (2, 60))
        drawn, ours = scene.stamps(x, y, 25, phase=True), model.stamps_at(x, y)
        flux = (drawn * ours).sum(axis=(1, 2)) / np.square(ours).sum(axis=(1, 2))
        scatter.append(flux.std())
    assert scatter[1] < 5e-5
    assert scatter[1] < 0.3 * scatter[0]


def test_reserved_stars_tell_the_truth():
    chi2 = []
    for seed in range(3):
        shape = Shape(3.0 + 0.6 * seed, 3.0)
        quality = fitted_scene(draw_scene(seed, 1280, shape=shape, stars=450, galaxies=60, cosmics=20)).quality
        assert 0.12 < quality.nReserved / quality.nStars < 0.25
        chi2.append(quality.chi2)
    assert 0.95 < np.mean(chi2) < 1.08  # a hundred stars' own noise is in the model


def test_reserved_stars_show_a_psf_that_is_not_good_enough():
    scene = draw_scene(2, 1024, shape=Shape(3.6, 3.0, variation=0.5, ellipticity=0.2), stars=250, **BRIGHT)
    good, bad = fitted_scene(scene).quality, fitted_scene(scene, max_degree=0).quality
    assert good.degree >= 2
    assert good.chi2 < 1.3
    assert bad.chi2 > 2.0 * good.chi2
    assert bad.modelError > 2.0 * good.modelError
    assert np.nanstd(bad.residuals[:, :, 9:16, 9:16]) > 2.0 * np.nanstd(good.residuals[:, :, 9:16, 9:16])
    assert good.residuals.shape == (4, 4, 25, 25)
    assert good.counts.sum() == good.nStars


def test_a_constant_psf_stays_constant_whatever_the_degree():
    scene = draw_scene(5, 1024, shape=Shape(3.6, 3.0, variation=0.0, ellipticity=0.0), stars=250, **BRIGHT)
    quality = fitted_scene(scene).quality
    assert quality.sizeSpread < 5e-3 * quality.size
    assert quality.fwhm == pytest.approx(3.75, rel=0.02)  # pixels add to it
