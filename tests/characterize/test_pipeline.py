"""The whole of characterize on simulated exposures, against truth."""

import numpy as np
import pytest

from schemas.errors import ConfigurationError, DataError
from workers.characterize.pipeline import Options, characterize, measure_frame
from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.horizon import look_up
from workers.imaging.masks import MaskPlane
from workers.imaging.photometry import psf_fluxes
from workers.imaging.reference import ReferenceCatalogue
from workers.survey.camera import Site
from workers.survey.characterize_config import CharacterizeConfig

CONFIG = Options(CharacterizeConfig())


def wcs_error(found, field, edge=20):
    """Return rms per coordinate and worst distance, pixels, over the detector."""
    height, width = field.exposure.shape
    axes = np.meshgrid(np.linspace(edge, width - edge, 10), np.linspace(edge, height - edge, 10))
    x, y = (axis.ravel() for axis in axes)
    fx, fy = found.sky_to_pixel(*field.wcs.pixel_to_sky(x, y))
    distance = np.hypot(fx - x, fy - y)
    return float(np.sqrt(np.mean(distance**2) / 2)), float(distance.max())


def bright_ratio(found, field, snr=100.0):
    """Return measured over true flux (nJy) of the isolated bright stars, at their true places, and its error."""
    apart = np.hypot(field.x[:, None] - field.x, field.y[:, None] - field.y)
    spill = np.where((apart > 0) & (apart < 12), field.electrons, 0.0).sum(axis=1)
    height, width = found.shape
    clear = (spill < 0.01 * field.electrons) & (field.x > 15) & (field.x < width - 15)
    clear &= (field.y > 15) & (field.y < height - 15)
    usable = usable_pixels(found.image, found.variance, found.mask)
    rows = psf_fluxes(found.image, found.variance, usable, found.psf, field.x[clear], field.y[clear])
    true = field.electrons[clear] * field.zero_point
    bright = rows["flux"] > snr * rows["fluxErr"]
    return rows["flux"][bright] / true[bright], rows["fluxErr"][bright] / true[bright]


@pytest.fixture(scope="module")
def calibrated(draw_field):
    fields = [draw_field(seed, faintest=2000.0) for seed in range(3)]
    return [(field, characterize(field.exposure, field.reference, CONFIG)) for field in fields]


def test_wcs(calibrated):
    for field, found in calibrated:
        rms, worst = wcs_error(found.wcs, field)
        assert rms < 0.03
        assert worst < 0.15
        assert found.metrics["astrometricRms"] / 0.4 < 0.05


def test_fluxes_are_nanojansky(calibrated):
    biases = []
    for field, found in calibrated:
        ratio, _ = bright_ratio(found, field)
        assert len(ratio) > 10
        biases.append(np.median(ratio) - 1.0)
        assert abs(biases[-1]) < 0.01
        assert found.photo.relativeError < 0.005
    assert abs(np.mean(biases)) < 0.005


def test_seeing_and_depth(calibrated):
    for field, found in calibrated:
        assert found.metrics["seeingFwhm"] == pytest.approx(3.75, rel=0.02)  # 3.6 and the pixel
        assert found.metrics["seeingArcsec"] == pytest.approx(0.4 * found.metrics["seeingFwhm"], rel=0.01)
        sky = np.sqrt(425.0 * found.psf.noise_area(384, 384)[0])
        assert found.metrics["psfLimit"] == pytest.approx(5.0 * sky * field.zero_point, rel=0.03)
        assert found.metrics["background"] == pytest.approx(400.0, abs=2.0)
        assert found.metrics["backgroundRms"] == pytest.approx(np.sqrt(425.0), rel=0.05)


def test_the_record_is_complete(calibrated):
    field, found = calibrated[0]
    assert found.unit == "nJy"
    assert found.provenance["reference"] == "reference.fits"
    assert found.photo.nStars <= found.metrics["nMatched"]
    np.testing.assert_allclose(found.variance, field.exposure.variance * found.photo.nJyPerElectron**2, rtol=1e-5)
    assert abs(float(np.median(found.image))) < 0.1 * found.photo.nJyPerElectron * 20.6
    brightest = np.argmax(
        np.where((field.x > 5) & (field.x < 760) & (field.y > 5) & (field.y < 760), field.electrons, 0)
    )
    assert found.mask[round(field.y[brightest]), round(field.x[brightest])] & MaskPlane.DETECTED
    assert 0.005 < ((found.mask & MaskPlane.DETECTED) != 0).mean() < 0.3


def test_noise_of_empty_sky_is_the_variances(calibrated):
    for _, found in calibrated:
        sky = (found.mask & MaskPlane.DETECTED) == 0
        pull = found.image[sky] / np.sqrt(found.variance[sky])
        assert 1.4826 * np.median(np.abs(pull)) == pytest.approx(1.0, abs=0.04)


def test_the_same_input_gives_the_same_bytes(draw_field):
    field = draw_field(1, stars=100, faintest=3000.0, shape=(384, 384))
    one, two = (characterize(field.exposure, field.reference, CONFIG) for _ in range(2))
    assert one.image.tobytes() == two.image.tobytes()
    assert one.wcs.header().tostring() == two.wcs.header().tostring()
    assert dict(one.metrics) == dict(two.metrics)


def test_a_sparse_field_is_solved(draw_field):
    for seed in range(2):
        field = draw_field(seed, stars=40, faintest=4000.0)
        found = characterize(field.exposure, field.reference, CONFIG)
        assert wcs_error(found.wcs, field)[0] < 0.06
        assert abs(np.median(bright_ratio(found, field)[0]) - 1.0) < 0.015


def test_saturated_stars_and_bad_columns_do_not_hurt(draw_field):
    field = draw_field(6, faintest=2000.0)
    image, mask = np.array(field.exposure.image), np.array(field.exposure.mask)
    mask[image > 12000.0] |= MaskPlane.SATURATED
    image[image > 12000.0] = 12000.0
    mask[:, 200:203] |= MaskPlane.BAD
    image[:, 200:203] = 60000.0
    found = characterize(field.exposure.replaced(image=image, mask=mask), field.reference, CONFIG)
    assert wcs_error(found.wcs, field)[0] < 0.04
    assert abs(np.median(bright_ratio(found, field)[0]) - 1.0) < 0.01


def test_unmasked_hot_pixels_are_no_stars(draw_field):
    field = draw_field(7, stars=60, faintest=4000.0)
    rng, image = np.random.default_rng(7), np.array(field.exposure.image)
    image[rng.integers(0, 768, 150), rng.integers(0, 768, 150)] += 20000.0
    noisy = field.exposure.replaced(image=image)
    found = characterize(noisy, field.reference, CONFIG)
    assert wcs_error(found.wcs, field)[0] < 0.06
    assert len(measure_frame(noisy, CONFIG).sources) < found.metrics["nDetected"] - 120


def test_wrong_unit(calibrated):
    field, found = calibrated[0]
    with pytest.raises(DataError, match="exposure 7:3 is in nJy, not electrons"):
        characterize(found, field.reference, CONFIG)


def test_no_wcs(draw_field):
    field = draw_field(1, stars=20, shape=(128, 128))
    with pytest.raises(DataError, match="has no WCS"):
        characterize(field.exposure.replaced(wcs=None), field.reference, CONFIG)


def test_band_missing(draw_field):
    field = draw_field(1, stars=20, shape=(128, 128))
    other = ReferenceCatalogue(field.reference.ra, field.reference.dec, {}, {})
    with pytest.raises(ConfigurationError, match="no column flux_r"):
        characterize(field.exposure, other, CONFIG)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (lambda rng: np.zeros((200, 200)), "the image is empty"),
        (lambda rng: np.full((200, 200), np.nan), "pixels are usable"),
        (lambda rng: rng.normal(400, 20, (200, 200)), "no source above 5 sigma"),
    ],
)
def test_empty_images(draw_field, image, text):
    field = draw_field(1, stars=20, shape=(200, 200))
    blank = field.exposure.replaced(image=image(np.random.default_rng(1)).astype(np.float32))
    with pytest.raises(DataError, match=f"exposure 7:3 .*{text}"):
        characterize(blank, field.reference, CONFIG)


def test_a_catalogue_of_another_field(draw_field):
    field = draw_field(2, faintest=3000.0)
    far = ReferenceCatalogue(
        field.reference.ra, field.reference.dec - 5.0, field.reference.flux, field.reference.fluxErr
    )
    with pytest.raises(DataError, match=r"has no star with a flux in this band within 0\.\d+ degrees"):
        characterize(field.exposure, far, CONFIG)
    shuffled = ReferenceCatalogue(
        field.reference.ra[::-1], field.reference.dec, field.reference.flux, field.reference.fluxErr
    )
    with pytest.raises(DataError, match=r"astrometry failed: .*search_radius_pixels"):
        characterize(field.exposure, shuffled, CONFIG)


@pytest.mark.slow
@pytest.mark.parametrize("stars", [40, 100, 300])
def test_every_random_exposure_is_solved(draw_field, stars):
    for seed in range(30):
        field = draw_field(100 + seed, stars=stars, faintest=3000.0)
        found = characterize(field.exposure, field.reference, CONFIG)
        assert wcs_error(found.wcs, field)[0] < 0.08
        assert abs(np.median(bright_ratio(found, field)[0]) - 1.0) < 0.02


def test_the_site_gives_airmass_and_with_it_transparency(draw_field):
    field, terms = draw_field(2, faintest=3000.0), {"zero_point": {"r": 24.0}, "extinction": {"r": 0.5}}
    config = CharacterizeConfig.model_validate({"photometry": terms})
    site = Site(longitude=150.0, latitude=-30.24, height=2663.0)
    low = characterize(field.exposure, field.reference, Options(config, site=site)).metrics
    high = characterize(field.exposure, field.reference, Options(config)).metrics
    assert "airmass" not in high
    seen = look_up(field.exposure.info.ra, field.exposure.info.dec, field.exposure.info.midpointMjdTai, **vars(site))
    assert low["altitude"] == pytest.approx(seen.altitude)
    assert low["airmass"] == pytest.approx(seen.airmass)
    gained = 2.5 * np.log10(low["transparency"] / high["transparency"])
    assert gained == pytest.approx(0.5 * (seen.airmass - 1.0), abs=1e-6)
