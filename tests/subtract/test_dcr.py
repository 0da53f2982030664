"""Dipoles of refraction: predicted beside stars seen through air wavelength by wavelength."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from tests.subtract.dcr_pictures import SITE, picture
from tests.subtract.dcr_scenes import PIVOT, ROW, Pointing, Scene, crowd, moffat, predicted, random_scene, zenith_of
from workers.imaging.psf import PsfModel, shift_gradients
from workers.imaging.reference import ReferenceCatalogue
from workers.imaging.refraction import Band
from workers.imaging.wcs import SkyWcs
from workers.subtract.dcr import DcrLimits, KnownStars, color_pair, dcr_of, dipole_snr, known_stars, predict_dipoles
from workers.subtract.pipeline import subtract
from workers.survey.config import SubtractConfig

MIDDLE = ([2000.0], [2000.0])


def row_at(scene, x=2000.0, y=2000.0, snr=6.0, negative=False, template=1e4, attempted=True, angle=np.nan):
    row = np.zeros(1, ROW)
    row["x"], row["y"], row["snr"], row["isNegative"] = x, y, snr, negative
    row["psfFluxErr"], row["templateFlux"], row["templateFluxErr"] = scene.error, template, 1.0
    row["dipoleFitAttempted"], row["dipoleAngle"] = attempted, angle
    return row


def scene_of(band="u", airmass=1.8, angle=40.0, **kwargs):
    return Scene(band, Pointing(zenith_of(airmass), angle), [Pointing(zenith_of(1.1), q) for q in (-60, 60)], **kwargs)


def derivative(scene, shift):
    """Return the first-order dipole of unit flux for a shift (x, y) in pixels."""
    _, by_x, by_y = shift_gradients(scene.psf.stamps(2000.0, 2000.0), 0.0, 0.0)
    return (by_x * shift[0] + by_y * shift[1])[0]


def pixels_of(scene, found):
    angle = np.radians(found["dcrAngle"][0])
    return scene.to_pixels(found["dcrShift"][0] * np.array([[np.sin(angle), np.cos(angle)]]))[0]


@pytest.mark.parametrize(("band", "above"), [("u", 0.06), ("g", 0.05), ("r", 0.04)])
def test_amplitude_direction_and_snr_of_the_dipole_are_those_predicted(band, above):
    """At airmass 2 the shape of the light along the zenith's line adds a few percent to what its mean place says."""
    rng, ratios, snrs, pulls = np.random.default_rng(3), [], [], []
    for _ in range(14):
        temperature = float(np.exp(rng.uniform(np.log(2500.0), np.log(15000.0))))
        scene = random_scene(rng, band, inputs=4)
        unit, _ = scene.difference(temperature)
        found = predicted(scene, row_at(scene), [temperature], [1e3], *MIDDLE)
        if found["dcrShift"][0] < 0.005:
            continue
        shape = derivative(scene, pixels_of(scene, found))
        power = (shape * shape).sum()
        ratios.append((unit * shape).sum() / power)
        snrs.append(1e3 * np.sqrt((unit * unit).sum()) / scene.noise / found["dcrSnr"][0])
        noisy = 100.0 * unit + rng.normal(0.0, scene.noise, unit.shape)
        pulls.append(((noisy * shape).sum() / power - 100.0) * np.sqrt(power) / scene.noise)
    assert len(ratios) >= 8
    assert np.all(np.abs(np.array(ratios) - 1.0 - 0.5 * above) < above)
    assert np.all(np.abs(np.array(snrs) - 1.05) < 0.15)
    assert abs(np.mean(pulls)) < 1.0
    assert 0.5 < np.std(pulls) < 1.7


def test_near_the_zenith_the_first_order_is_exact():
    scene = Scene("g", Pointing(zenith_of(1.1), 70.0), [Pointing(zenith_of(1.02), -20.0)], wcs=turned())
    unit, _ = scene.difference(12000.0)
    found = predicted(scene, row_at(scene), [12000.0], [1e3], *MIDDLE)
    shape = derivative(scene, pixels_of(scene, found))
    assert (unit * shape).sum() / (shape * shape).sum() == pytest.approx(1.0, abs=0.015)
    assert 1e3 * np.sqrt((unit * unit).sum()) / scene.noise == pytest.approx(found["dcrSnr"][0], rel=0.02)


def turned():
    return SkyWcs.tangent(150.0, -20.0, (2000.0, 2000.0), 0.25, rotation=130.0, parity=-1)


def test_the_snr_of_a_gaussians_dipole_is_right_for_any_shift():
    axis = np.arange(-30, 31)
    x, y = np.meshgrid(axis, axis)
    psf, noise = np.exp(-0.5 * (x**2 + y**2) / 2.5**2), 0.7
    psf /= psf.sum()
    snr = 1e3 / noise * np.sqrt(np.square(psf).sum())
    for shift in (0.05, 1.0, 4.0):
        moved = np.exp(-0.5 * ((x - 0.6 * shift) ** 2 + (y - 0.8 * shift) ** 2) / 2.5**2)
        left = 1e3 * (moved / moved.sum() - psf) / noise
        given = dipole_snr(psf, shift * np.array([[0.6, 0.8]]), np.array([snr]))[0]
        assert given == pytest.approx(np.sqrt(np.square(left).sum()), rel=5e-3)


@pytest.mark.parametrize("band", ["u", "g"])
def test_dipoles_are_flagged_and_real_changes_of_the_same_stars_are_not(band):
    rng = np.random.default_rng(11)
    constant, changed = crowd(rng, band, 36), crowd(rng, band, 36, real=True)
    explained, own = constant.share > 0.6, changed.share < 0.3
    assert explained.sum() >= 12
    assert own.sum() >= 12
    assert constant.predicted["dcrDipole"][explained].mean() >= 0.9
    assert constant.blind["dcrDipole"][explained].mean() >= 0.9
    assert changed.predicted["dcrDipole"][own].mean() <= 0.05
    assert changed.blind["dcrDipole"][own].mean() <= 0.1


def test_a_star_of_the_mean_color_and_a_template_of_the_same_place_show_nothing():
    scene = scene_of()
    assert predicted(scene, row_at(scene), [5200.0], [1e5], *MIDDLE)["dcrSnr"][0] == pytest.approx(0.0, abs=1e-3)
    same = Scene("u", Pointing(50.0, 30.0), [Pointing(50.0, 30.0)])
    found = predicted(same, row_at(same), [12000.0], [1e5], *MIDDLE)
    assert found["dcrShift"][0] == pytest.approx(0.0, abs=1e-9)
    assert not found["dcrDipole"][0]


def test_the_positive_lobe_lies_where_the_star_has_gone():
    scene = scene_of()
    shift = pixels_of(scene, predicted(scene, row_at(scene), [12000.0], [4000.0], *MIDDLE))
    lobe = 2.2 * shift / np.hypot(*shift)
    for sign, negative, flagged in [(1, False, True), (-1, True, True), (1, True, False), (-1, False, False)]:
        row = row_at(scene, 2000.0 + sign * lobe[0], 2000.0 + sign * lobe[1], negative=negative)
        assert predicted(scene, row, [12000.0], [4000.0], *MIDDLE)["dcrDipole"][0] == flagged
    whole = predicted(scene, row_at(scene), [12000.0], [4000.0], *MIDDLE)["dcrSnr"][0]
    across = row_at(scene, 2000.0 - 2.0 * lobe[1], 2000.0 + 2.0 * lobe[0], snr=0.6 * whole)
    assert not predicted(scene, across, [12000.0], [4000.0], *MIDDLE)["dcrDipole"][0]


def test_a_source_brighter_than_the_dipole_is_something_else():
    scene = scene_of()
    shift = pixels_of(scene, predicted(scene, row_at(scene), [12000.0], [4000.0], *MIDDLE))
    place = np.array([2000.0, 2000.0]) + 2.2 * shift / np.hypot(*shift)
    whole = predicted(scene, row_at(scene), [12000.0], [4000.0], *MIDDLE)["dcrSnr"][0]
    for snr, flagged in [(0.6 * whole, True), (3.0 * whole, False)]:
        found = predicted(scene, row_at(scene, *place, snr=snr), [12000.0], [4000.0], *MIDDLE)
        assert found["dcrDipole"][0] == flagged


def test_a_faint_star_is_no_dipole_unless_the_threshold_is_low():
    scene = scene_of()
    shift = pixels_of(scene, predicted(scene, row_at(scene), [12000.0], [4000.0], *MIDDLE))
    place = np.array([2000.0, 2000.0]) + 2.2 * shift / np.hypot(*shift)
    faint = 4000.0 * 3.0 / predicted(scene, row_at(scene), [12000.0], [4000.0], *MIDDLE)["dcrSnr"][0]
    row = row_at(scene, *place, snr=2.0)
    assert not predicted(scene, row, [12000.0], [faint], *MIDDLE)["dcrDipole"][0]
    assert predicted(scene, row, [12000.0], [faint], *MIDDLE, DcrLimits(min_snr=2.0))["dcrDipole"][0]


def test_without_a_catalogue_only_what_lies_on_a_static_source_is_suspected():
    scene = scene_of()
    bare = predicted(scene, row_at(scene, template=2.0), [6000.0], [1e4], *MIDDLE, known=False)
    assert np.isnan(bare["dcrShift"][0])
    assert not bare["dcrDipole"][0]
    there = predicted(scene, row_at(scene), [6000.0], [1e4], *MIDDLE, known=False)
    assert there["dcrDipole"][0]
    assert np.isnan(there["dcrAngle"][0])
    axis = np.degrees(np.arctan2(*scene.vector))
    for turn, flagged in [(0.0, True), (180.0, True), (30.0, True), (90.0, False), (-70.0, False)]:
        row = row_at(scene, angle=(axis + turn) % 360.0)
        assert predicted(scene, row, [6000.0], [1e4], *MIDDLE, known=False)["dcrDipole"][0] == flagged
    alone = row_at(scene, attempted=False)
    assert not predicted(scene, alone, [6000.0], [1e4], *MIDDLE, known=False)["dcrDipole"][0]


def test_what_is_not_known_stays_unknown():
    scene = scene_of()
    nowhere = np.full(2, np.nan)
    stars = KnownStars(*(np.zeros(0) for _ in range(4)))
    found = predict_dipoles(row_at(scene), stars, nowhere, scene.response, PIVOT, scene.psf, scene.wcs)
    assert all(np.isnan(found[name][0]) for name in ("dcrShift", "dcrAngle", "dcrSnr"))
    assert not found["dcrDipole"][0]
    ra, dec = scene.wcs.pixel_to_sky(*MIDDLE)
    colorless = KnownStars(ra, dec, np.array([np.nan]), np.array([1e4]))
    found = predict_dipoles(row_at(scene), colorless, scene.vector, scene.response, PIVOT, scene.psf, scene.wcs)
    assert found["dcrDipole"][0]
    assert np.isnan(found["dcrAngle"][0])
    none = predict_dipoles(np.zeros(0, ROW), stars, scene.vector, scene.response, PIVOT, scene.psf, scene.wcs)
    assert len(none) == 0


def test_a_star_without_a_flux_of_its_own_takes_the_templates():
    scene = scene_of()
    row = row_at(scene, template=3000.0)
    told = predicted(scene, row, [12000.0], [3000.0], *MIDDLE)
    forced = predicted(scene, row, [12000.0], [np.nan], *MIDDLE)
    assert forced["dcrSnr"][0] == pytest.approx(told["dcrSnr"][0], rel=1e-6)


def test_each_source_may_have_a_template_of_its_own():
    scene = scene_of()
    rows = np.concatenate([row_at(scene), row_at(scene)])
    stars = KnownStars(*(np.zeros(0) for _ in range(4)))
    vectors = np.stack([scene.vector, 2.0 * scene.vector])
    found = predict_dipoles(rows, stars, vectors, scene.response, PIVOT, scene.psf, scene.wcs)
    assert found["dcrShift"][1] == pytest.approx(2.0 * found["dcrShift"][0])


def test_the_catalogues_colors_and_fluxes_come_along():
    flux = {"g": np.array([1000.0, 500.0]), "r": np.array([1000.0, np.nan])}
    catalogue = ReferenceCatalogue(np.zeros(2), np.zeros(2), flux, flux)
    assert color_pair(catalogue.bands) == ("g", "r")
    assert color_pair(("BP", "G", "RP")) == ("BP", "RP")
    assert color_pair(("g",)) is None
    stars = known_stars(catalogue, "g", "g", "r")
    np.testing.assert_array_equal(stars.color, [0.0, np.nan])
    np.testing.assert_array_equal(stars.flux, [1000.0, 500.0])
    assert np.isnan(known_stars(catalogue, "u", "g", "r").flux).all()


def test_an_oversampled_psf_predicts_the_same():
    scene = scene_of("g")
    axis = np.arange(-40, 41) / 2.0
    fine = moffat(*np.meshgrid(axis, axis), 4.5)
    coarse = fine[::2, ::2]
    stars = KnownStars(*(np.zeros(0) for _ in range(4)))
    given = [
        PsfModel(stamp[None].astype(np.float32) / stamp.sum() * over**2, 0, 4001, 4001, over)
        for stamp, over in ((fine, 2), (coarse, 1))
    ]
    one, two = (
        predict_dipoles(row_at(scene), stars, scene.vector, scene.response, PIVOT, psf, scene.wcs) for psf in given
    )
    assert one["dcrSnr"][0] == pytest.approx(two["dcrSnr"][0], rel=1e-3)


@pytest.fixture(scope="module")
def seen():
    """A picture in g at airmass 1.8, its subtraction, and which of the sources are new ones."""
    made = picture("g", 3)
    result = subtract(made.science, made.template, SubtractConfig())
    places = np.column_stack([result.sources["x"], result.sources["y"]])
    new = cKDTree(np.column_stack([made.x, made.y])).query(places)[0] < 3.0
    return made, result, new


def test_the_whole_subtraction_shows_dipoles_and_they_are_flagged(seen):
    made, result, new = seen
    assert new.sum() >= 11
    assert (~new).sum() >= 6
    for reference in (made.reference, None):
        found = dcr_of(result.sources, result.difference, made.inputs, SITE, {}, reference)
        assert not found["dcrDipole"][new].any()
        assert found["dcrDipole"][~new].mean() >= 0.75
        assert np.isfinite(found["dcrShift"][~new]).all()


def test_without_site_or_wavelengths_refraction_is_unknown_and_never_zero(seen):
    made, result, _ = seen
    given = result.sources, result.difference, made.inputs
    assert dcr_of(*given, None, {}, made.reference) is None
    narrow = result.difference.replaced(info=replace(result.difference.info, band="N501"))
    assert dcr_of(result.sources, narrow, made.inputs, SITE, {}, made.reference) is None
    told = dcr_of(result.sources, narrow, made.inputs, SITE, {"N501": Band(498.0, 504.0)}, made.reference)
    assert not told["dcrDipole"].any()
    assert np.nanmax(told["dcrShift"]) < 0.005


def test_a_catalogue_without_colors_is_none(seen):
    made, result, _ = seen
    only = ReferenceCatalogue(
        made.reference.ra, made.reference.dec, {"g": made.reference.flux["g"]}, {"g": made.reference.fluxErr["g"]}
    )
    without, bare = (
        dcr_of(result.sources, result.difference, made.inputs, SITE, {}, reference) for reference in (only, None)
    )
    np.testing.assert_array_equal(without["dcrDipole"], bare["dcrDipole"])
