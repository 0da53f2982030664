"""Lanczos-3 warp: fluxes, positions, variance, masks and PSF against truth, and against reproject."""

from __future__ import annotations

import numpy as np
import pytest

from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.masks import BLOCKING, MaskPlane
from workers.imaging.psf import FWHM_PER_SIGMA, PsfModel
from workers.imaging.warp import node_grid, pixel_map, warp_exposure, warp_planes, warp_psf
from workers.imaging.wcs import SkyWcs

INFO = ExposureInfo("cam", 1, 0, "r", 60000.0, 30.0, 40.0, -20.0, 20230225, "science", "0" * 64, "f")
SHAPE = (240, 260)


def tangent(rotation=0.0, scale=1.0, shift=0.0):
    return SkyWcs.tangent(40.0, -20.0, (130.0 + shift, 120.0 + shift), scale, rotation=rotation)


def distorted(strength=4e-6):
    """A TAN-SIP WCS: 10 pixels of distortion at 1500 pixels from its centre."""
    header = tangent().header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header["A_ORDER"], header["B_ORDER"] = 2, 2
    header["A_2_0"], header["A_0_2"], header["A_1_1"] = strength, 0.5 * strength, -0.3 * strength
    header["B_0_2"], header["B_2_0"], header["B_1_1"] = -strength, 0.2 * strength, 0.4 * strength
    return SkyWcs(header)


def gaussians(shape, x, y, fluxes, fwhm):
    """Stars sampled at pixel centres: a band-limited image for FWHM >= 2.5."""
    sigma = fwhm / FWHM_PER_SIGMA
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for x0, y0, flux in zip(x, y, fluxes, strict=True):
        image += flux * np.exp(-0.5 * ((xx - x0) ** 2 + (yy - y0) ** 2) / sigma**2) / (2 * np.pi * sigma**2)
    return image


def exposure(image, wcs, variance=None, mask=None, psf=None):
    return Exposure(
        info=INFO,
        image=image,
        mask=np.zeros(image.shape, np.int32) if mask is None else mask,
        variance=np.ones(image.shape, np.float32) if variance is None else variance,
        unit="nJy",
        wcs=wcs,
        psf=psf,
    )


def moments(image, x, y, radius=11):
    x0, y0 = round(float(x)), round(float(y))
    cut = image[y0 - radius : y0 + radius + 1, x0 - radius : x0 + radius + 1].astype(float)
    yy, xx = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    flux = cut.sum()
    return flux, x0 + (xx * cut).sum() / flux, y0 + (yy * cut).sum() / flux


@pytest.mark.parametrize("fwhm", [2.5, 4.0])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        (tangent(), tangent(rotation=37.0)),
        (tangent(rotation=10.0), tangent(scale=0.95, shift=0.37)),
        (distorted(2e-5), tangent(rotation=-120.0, shift=0.5)),
    ],
)
def test_flux_and_centroid_are_kept(fwhm, source, target):
    grid = np.arange(60.0, 190.0, 21.0)
    x, y = (axis.ravel() for axis in np.meshgrid(grid + 0.3 * np.sin(grid), grid + 0.4 * np.cos(grid)))
    fluxes = np.linspace(1e3, 1e5, len(x))
    image = gaussians(SHAPE, x, y, fluxes, fwhm).astype(np.float32)
    warped = warp_exposure(exposure(image, source), target, SHAPE)
    tx, ty = target.sky_to_pixel(*source.pixel_to_sky(x, y))
    found = [
        (flux / truth - 1.0, cx - a, cy - b)
        for a, b, truth in zip(tx, ty, fluxes, strict=True)
        if 20 < a < SHAPE[1] - 20 and 20 < b < SHAPE[0] - 20
        for flux, cx, cy in [moments(warped.image, a, b, radius=9)]
    ]
    errors = np.array(found)
    assert len(errors) > 20
    assert np.abs(np.median(errors[:, 0])) < 2e-4
    assert np.abs(errors[:, 0]).max() < 1e-3
    assert np.abs(errors[:, 1:]).max() < 0.01
    assert np.abs(errors[:, 1:].mean(axis=0)).max() < 1e-3


def test_the_interpolated_wcs_is_exact_to_a_hundredth_of_a_pixel():
    source, target, shape = distorted(), tangent(rotation=25.0), (2000, 2000)
    grid = node_grid(source, target, shape)
    rng = np.random.default_rng(3)
    rows, columns = rng.integers(0, 2000, 300), rng.integers(0, 2000, 300)
    exact = pixel_map(source, target, columns, rows)
    patch = grid.maps[
        :,
        (grid.row[rows][:, None] + np.arange(4))[:, :, None],
        (grid.column[columns][:, None] + np.arange(4))[:, None, :],
    ]
    x, y, area = np.einsum("kmij,mi,mj->km", patch, grid.row_weights[rows], grid.column_weights[columns])
    assert max(np.abs(x - exact.x).max(), np.abs(y - exact.y).max()) < 1e-3
    assert np.abs(area / np.abs(np.linalg.det(exact.matrix)) - 1).max() < 1e-3


def test_agrees_with_reproject():
    reproject = pytest.importorskip("reproject")
    source, target = tangent(rotation=12.0), tangent(rotation=55.0, scale=0.8)
    rng = np.random.default_rng(4)
    image = gaussians(SHAPE, rng.uniform(40, 220, 30), rng.uniform(40, 200, 30), np.full(30, 1e4), 4.0)
    ours = warp_exposure(exposure(image.astype(np.float32), source), target, SHAPE)
    theirs, _ = reproject.reproject_interp((image, source._wcs), target._wcs, SHAPE, order="bicubic")
    good = np.isfinite(theirs) & (ours.mask == 0)
    difference = ours.image[good] - 0.64 * theirs[good]  # surface brightness there, flux per pixel here
    assert good.mean() > 0.7
    assert np.abs(difference).max() < 0.02 * ours.image.max()


def test_variance_is_that_of_the_scatter_and_the_correlation_is_known():
    source, target = tangent(rotation=5.0), tangent(rotation=40.0, shift=0.2)
    rng = np.random.default_rng(5)
    variance = np.linspace(1.0, 9.0, SHAPE[1])[None, :] * np.ones((SHAPE[0], 1))
    image = rng.normal(0.0, np.sqrt(variance))
    big = exposure(image.astype(np.float32), source, variance=variance.astype(np.float32))
    warped = warp_exposure(big, target, SHAPE)
    good = warped.mask == 0
    pulls = warped.image[good] / np.sqrt(warped.variance[good])
    assert abs(pulls.mean()) < 0.02
    assert pulls.std() == pytest.approx(1.0, abs=0.02)
    block = 8
    rows, columns = (side // block * block for side in SHAPE)
    tile = (rows // block, block, columns // block, block)
    whole = good[:rows, :columns].reshape(tile).all(axis=(1, 3))
    total = warped.image[:rows, :columns].reshape(tile).sum(axis=(1, 3))[whole]
    expected = warped.variance[:rows, :columns].reshape(tile).sum(axis=(1, 3))[whole]
    excess = np.mean(total**2 / expected)
    assert 1.2 < warped.metrics["noiseCorrelation"] < 1.4
    assert excess == pytest.approx(warped.metrics["noiseCorrelation"], rel=0.15)


def test_identity_changes_nothing():
    rng = np.random.default_rng(6)
    image = rng.normal(10.0, 1.0, SHAPE).astype(np.float32)
    warped = warp_exposure(exposure(image, tangent()), tangent(), SHAPE)
    np.testing.assert_allclose(warped.image, image, rtol=1e-5, atol=1e-5)
    assert not warped.mask.any()
    assert warped.metrics["noiseCorrelation"] == pytest.approx(1.0, abs=1e-5)


def test_pixels_outside_are_no_data_and_the_rim_is_edge():
    shifted = SkyWcs.tangent(40.0, -20.0, (130.0 + 30.5, 120.0), 1.0)
    warped = warp_exposure(exposure(np.ones(SHAPE, np.float32), tangent()), shifted, SHAPE)
    assert (warped.mask[:, :30] & MaskPlane.NO_DATA).all()
    assert (warped.image[:, :30] == 0).all()
    assert (warped.mask[:, 31] & MaskPlane.EDGE).all()
    assert not warped.mask[:, 33:].any()
    np.testing.assert_allclose(warped.image[:, 31:], 1.0, atol=1e-5)
    far = SkyWcs.tangent(140.0, 50.0, (130.0, 120.0), 1.0)
    assert (warp_exposure(exposure(np.ones(SHAPE, np.float32), tangent()), far, SHAPE).mask & MaskPlane.NO_DATA).all()


def test_masked_pixels_lend_no_value_and_keep_their_plane():
    image = np.full(SHAPE, 5.0, np.float32)
    mask = np.zeros(SHAPE, np.int32)
    image[100, 100], mask[100, 100] = 1e5, MaskPlane.CR
    image[50:60, 50:60], mask[50:60, 50:60] = 7e4, MaskPlane.SATURATED
    image[150, 150] = np.nan
    mask[20, 30] = MaskPlane.SUSPECT
    warped = warp_exposure(exposure(image, tangent(), mask=mask), tangent(shift=0.37), SHAPE)
    clear = (warped.mask & int(BLOCKING)) == 0
    np.testing.assert_allclose(warped.image[clear], 5.0, rtol=1e-4)
    assert np.isfinite(warped.image).all()
    assert 4 <= np.count_nonzero(warped.mask & MaskPlane.CR) <= 16
    assert (warped.mask[52:58, 52:58] & MaskPlane.SATURATED).all()
    assert not (warped.mask[52:58, 52:58] & MaskPlane.NO_DATA).any()
    assert 4 <= np.count_nonzero(warped.mask[145:156, 145:156] & MaskPlane.EDGE) <= 16
    soft = np.argwhere(warped.mask & MaskPlane.SUSPECT)
    assert len(soft) == 4
    assert (abs(soft - [20.37, 30.37]) <= 1.0).all()


def test_the_psf_follows_scale_and_rotation():
    size, fwhm, source, target = 25, (3.0, 5.0), tangent(rotation=0.0), tangent(rotation=90.0, scale=0.8)
    axis = np.arange(size) - size // 2
    sx, sy = (width / FWHM_PER_SIGMA for width in fwhm)
    stamp = np.exp(-0.5 * (axis[None, :] / sx) ** 2 - 0.5 * (axis[:, None] / sy) ** 2)
    psf = PsfModel((stamp / stamp.sum())[None].astype(np.float32), 0, SHAPE[1], SHAPE[0])
    warped = warp_psf(psf, source, target, SHAPE)
    found = warped.stamps(100.0, 100.0)[0]
    wide = np.arange(warped.size) - warped.size // 2
    second = [(found.sum(axis=k) * wide**2).sum() for k in (0, 1)]
    assert second[0] == pytest.approx((sy / 0.8) ** 2, rel=0.01)  # x and y have changed places
    assert second[1] == pytest.approx((sx / 0.8) ** 2, rel=0.01)
    assert found.sum() == pytest.approx(1.0)


def test_the_warped_psf_is_that_of_a_warped_star():
    source, target = distorted(2e-5), tangent(rotation=33.0, scale=1.05)
    fwhm = 2.8
    psf = PsfModel.gaussian(fwhm, size=25, width=SHAPE[1], height=SHAPE[0])
    x, y = source.sky_to_pixel(*target.pixel_to_sky(120.0, 110.0))
    star = exposure(gaussians(SHAPE, [x], [y], [1e4], fwhm).astype(np.float32), source, psf=psf)
    warped = warp_exposure(star, target, SHAPE)
    half = warped.need_psf().size // 2
    cut = warped.image[110 - half : 111 + half, 120 - half : 121 + half] / 1e4
    model = warped.need_psf().stamps_at(120.0, 110.0)[0] * cut.sum()
    assert np.abs(cut - model).max() < 0.012 * model.max()
    assert (cut * model).sum() == pytest.approx((model**2).sum(), rel=2e-3)  # the flux that a PSF fit finds


def test_planes_are_not_changed_and_the_result_repeats():
    rng = np.random.default_rng(7)
    planes = rng.normal(size=(60, 60)).astype(np.float32), np.zeros((60, 60), np.int32), np.ones((60, 60), np.float32)
    before = [plane.copy() for plane in planes]
    grid = node_grid(tangent(shift=-95.0), tangent(rotation=20.0, shift=-95.0), (60, 60))
    first, second = warp_planes(*planes, grid), warp_planes(*planes, grid)
    assert all(np.array_equal(a, b) for a, b in zip(planes, before, strict=True))
    assert first.image.tobytes() == second.image.tobytes()
    assert (first.mask == 0).any()
