"""The template on a science exposure's pixels: position, flux, PSF, noise, provenance; the outcome "no template"."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.templates.synthetic import CONFIG, RA, SIDE, Sky, nights
from workers.imaging.fits import write_exposure
from workers.imaging.masks import BLOCKING, MaskPlane
from workers.imaging.tracts import tract_of
from workers.imaging.wcs import SkyWcs
from workers.templates.pipeline import build, template_for
from workers.templates.store import TemplateStore


@pytest.fixture(scope="module")
def science(sky):
    """A noiseless exposure of the stars alone, turned and shifted, after the window."""
    return sky.expose(9000, 60500.3, fwhm=3.1, rotation=27.0, dither=(6.3, -4.7), noise=False)


@pytest.fixture(scope="module")
def match(science, built):
    return template_for(science, built[0], 0.2)


def stars(sky, exposure, margin=14):
    x, y = exposure.wcs.sky_to_pixel(sky.ra, sky.dec)
    for x0, y0, flux in zip(x, y, sky.flux, strict=True):
        cut = (
            slice(round(y0) - margin, round(y0) + margin + 1),
            slice(round(x0) - margin, round(x0) + margin + 1),
        )
        if margin < min(x0, y0) and max(x0, y0) < SIDE - margin and not exposure.mask[cut].any():
            yield x0, y0, flux, cut


def test_stars_lie_where_the_exposure_has_them(match, sky):
    template = match.exposure
    offsets = []
    for x0, y0, flux, cut in stars(sky, template):
        if flux < 2e4:
            continue
        psf = template.psf.stamps(x0, y0)[0]
        yy, xx = np.mgrid[cut]
        half = (len(psf) - 1) // 2
        near = np.hypot(xx - x0, yy - y0) < min(half, 7)
        weights = np.exp(-0.5 * ((xx - x0) ** 2 + (yy - y0) ** 2) / 1.5**2) * near
        pixels = template.image[cut] * weights
        offsets.append((2 * ((xx - x0) * pixels).sum() / pixels.sum(), 2 * ((yy - y0) * pixels).sum() / pixels.sum()))
    offsets = np.array(offsets)
    assert len(offsets) >= 8
    assert np.abs(offsets.mean(axis=0)).max() < 0.01
    assert np.hypot(*offsets.T).max() < 0.02


def test_psf_fluxes_on_the_template_are_the_stars(match, sky):
    template = match.exposure
    half = template.psf.size // 2
    ratios = []
    for x0, y0, flux, _ in stars(sky, template):
        if flux > 2e4:
            stamp = template.psf.stamps_at(x0, y0)[0]
            x, y = round(x0), round(y0)
            cut = template.image[y - half : y + half + 1, x - half : x + half + 1]
            ratios.append((stamp * cut).sum() / np.square(stamp).sum() / flux)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.005)


def test_noise_and_depth_carry_over(match, built, sky):
    template = match.exposure
    blank = (template.mask == 0) & (np.abs(template.image) < 4 * np.sqrt(template.variance))
    pulls = template.image[blank] / np.sqrt(template.variance[blank])
    assert 1.4826 * np.median(np.abs(pulls - np.median(pulls))) == pytest.approx(1.0, abs=0.1)
    depths = [record.depth for record in built[1].cells]
    assert min(depths) <= match.depth <= max(depths)
    assert 1.3 < template.metrics["noiseCorrelation"] < 2.2


def test_provenance_is_complete(match, built, science):
    _, manifest = built
    assert match.version == manifest.version
    assert set(match.cells) <= {record.templateId for record in manifest.cells}
    assert (match.firstEpochMjdTai, match.lastEpochMjdTai, match.nEpochs) == (60010.0, 60130.0, 7)
    assert match.exposure.info == science.info
    assert match.exposure.provenance == {"template": match.templateId, "templateVersion": match.version}
    assert match.templateId.startswith("T")
    covered = (match.exposure.mask & MaskPlane.NO_DATA) == 0
    assert match.coverage == pytest.approx(covered.mean())
    assert 0.7 < match.coverage < 1.0
    assert match.exposure.psf.degree == 1


def test_the_shares_are_those_of_the_pixels(match, built):
    """Each input's weight counts by the pixels it is in, and every cell as much as the next."""
    store, manifest = built
    cells = [store.read(record) for record in manifest.cells if record.templateId in match.cells]
    assert len(cells) > 1
    times = sorted({item.midpointMjdTai for cell in cells for item in cell.plan.inputs})
    assert [mjd for mjd, _ in match.inputs] == times
    assert sum(share for _, share in match.inputs) == pytest.approx(1.0)
    expected = dict.fromkeys(times, 0.0)
    for cell in cells:
        weights = np.array([item.weight for item in cell.plan.inputs])
        given = np.unpackbits(cell.given, axis=0, bitorder="little")[: len(weights)].mean(axis=(1, 2)) * weights
        for item, share in zip(cell.plan.inputs, given / given.sum(), strict=True):
            expected[item.midpointMjdTai] += share / len(cells)
    assert dict(match.inputs) == pytest.approx(expected, rel=1e-6)
    assert min(expected.values()) < 0.95 * max(expected.values())


def test_the_same_exposure_gets_the_same_template(science, built, match):
    again = template_for(science, TemplateStore(built[0].root), 0.2)
    assert again.templateId == match.templateId
    assert again.exposure.image.tobytes() == match.exposure.image.tobytes()


def test_no_template_where_there_is_none(science, built, tmp_path):
    store, _ = built
    assert template_for(science, TemplateStore(tmp_path), 0.2) is None
    away = science.replaced(wcs=SkyWcs.tangent(10.0, 50.0, (140.0, 140.0), 1.0))
    assert template_for(away, store, 0.0) is None
    other_band = science.replaced(info=replace(science.info, band="g"))
    assert template_for(other_band, store, 0.0) is None
    beside = science.replaced(wcs=SkyWcs.tangent(RA + 200 / 3600, 2.2, (140.0, 140.0), 1.0))
    found = template_for(beside, store, 0.0)
    assert 0.05 < found.coverage < 0.6
    assert template_for(beside, store, found.coverage + 0.01) is None
    blank = (found.exposure.mask & MaskPlane.NO_DATA) != 0
    assert (found.exposure.image[blank] == 0).all()
    assert np.isfinite(found.exposure.image).all()


def test_a_border_between_tracts_is_seamless(tmp_path):
    step = np.linspace(0, 3, 3001)
    change = np.flatnonzero(np.diff(tract_of(45.0 + step, np.full_like(step, 3.0))))[0]
    ra = 45.0 + step[change]
    east, north = (axis.ravel() for axis in np.meshgrid(np.linspace(-100, 100, 6), np.linspace(-100, 100, 6)))
    sky = Sky(ra + east / 3600 / np.cos(np.radians(3.0)), 3.0 + north / 3600, np.full(36, 1e5))
    for night in nights(3):
        exposure = sky.expose(**{**night, "dither": ((ra - RA) * 3600, 0.8 * 3600)}, noise=False)
        write_exposure(tmp_path / "calexps" / f"{night['visit']}.fits", exposure)
    store = TemplateStore(tmp_path / "templates")
    manifest = build(tmp_path / "calexps", store, CONFIG)
    assert len({record.tract for record in manifest.cells}) >= 2
    found = template_for(sky.expose(9, 60500.0, dither=((ra - RA) * 3600, 0.8 * 3600), noise=False), store, 0.2)
    inner = found.exposure.mask[40:-40, 40:-40]
    assert (inner & int(BLOCKING) == 0).mean() > 0.98  # the kernels cut at the border are filled from the other tract
    sums = [found.exposure.image[cut].sum() / flux for _, _, flux, cut in stars(sky, found.exposure, margin=10)]
    assert len(sums) > 15
    assert np.abs(np.array(sums) - 1.0).max() < 0.003
