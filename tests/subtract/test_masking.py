from typing import Any

import numpy as np

from workers.imaging.masks import MaskPlane
from workers.subtract.convolve import VaryingKernel
from workers.subtract.flags import is_droppable, set_pixel_flags
from workers.subtract.masking import blocked_pixels, combine_masks, filled, kernel_reach
from workers.subtract.shapes import weighted_moments


def gaussian(sigma: float, n: int = 21) -> np.ndarray:
    axis = np.arange(n) - n // 2
    out = np.exp(-0.5 * np.add.outer(axis**2, axis**2) / sigma**2)
    return out / out.sum()


def test_fill_and_reach() -> None:
    image = np.full((60, 60), 5.0, np.float32)
    blocked = np.zeros((60, 60), bool)
    blocked[30, 30] = blocked[0:20, 0:20] = True
    image[blocked] = np.nan
    out = filled(image, blocked, 1.5)
    assert np.isfinite(out).all()
    assert abs(out[30, 30] - 5.0) < 1e-3
    assert out[5, 5] == 0.0
    shape = (60, 60)
    assert kernel_reach(VaryingKernel.constant(gaussian(1.0), shape)) == 3
    assert kernel_reach(VaryingKernel.constant(np.eye(1), shape)) == 0


def test_planes_of_the_convolved_image_grow(small_pair: Any) -> None:
    mask = np.zeros(small_pair.science.shape, np.int32)
    mask[100, 100] = int(MaskPlane.NO_DATA)
    mask[200, 200] = int(MaskPlane.SATURATED)
    kernel = VaryingKernel.constant(gaussian(1.35, 15), mask.shape)
    assert (kernel_reach(kernel), kernel.half) == (4, 7)
    plain = np.zeros_like(mask)
    plain[50, 60] = int(MaskPlane.CR | MaskPlane.DETECTED)
    science, template = small_pair.science.replaced(mask=plain), small_pair.template.replaced(mask=mask)
    planes = combine_masks(science, template, kernel, convolved_template=True, fwhm=3.0)
    assert planes.mask[50, 60] == int(MaskPlane.CR)
    assert planes.mask[50, 61] == 0
    assert planes.mask[104, 100] & int(MaskPlane.NO_DATA)
    assert planes.mask[3, 100] == int(MaskPlane.EDGE)
    assert planes.mask[4, 100] == 0
    assert planes.mask[200, 207] & int(MaskPlane.SATURATED_TEMPLATE)
    assert planes.excluded[200, 207]
    assert planes.halo[200, 211]
    assert planes.mask[200, 211] & int(MaskPlane.SATURATED_TEMPLATE)
    assert not planes.excluded[200, 208]
    assert blocked_pixels(template)[100, 100]
    swapped = combine_masks(science, template, kernel, convolved_template=False, fwhm=3.0)
    assert swapped.mask[50, 64] & int(MaskPlane.CR)
    assert swapped.mask[104, 100] == 0


def test_flags_from_stamps() -> None:
    names = [f"pixelFlags_{n}" for n in "bad cr edge nodata interpolated saturated suspect streak injected".split()]
    names += [f"{n}Center" for n in names] + ["pixelFlags_injected_template", "pixelFlags_injected_templateCenter"]
    names += ["pixelFlags", "pixelFlags_offimage"]
    rows = np.zeros(3, [(name, "?") for name in names])
    masks = np.zeros((3, 31, 31), np.int32)
    masks[0, 15, 16] = int(MaskPlane.CR)
    masks[1, 15, 19] = int(MaskPlane.SATURATED_TEMPLATE)
    masks[2, 15, 30] = int(MaskPlane.BAD)
    set_pixel_flags(rows, masks, 4.0)
    assert rows["pixelFlags_crCenter"].tolist() == [True, False, False]
    assert rows["pixelFlags_saturated"].tolist() == [False, True, False]
    assert not rows["pixelFlags_saturatedCenter"].any()
    assert not rows["pixelFlags_bad"].any()


def test_positions_without_data_are_dropped() -> None:
    mask = np.zeros((20, 30), np.int32)
    mask[5, 6], mask[0] = int(MaskPlane.NO_DATA), int(MaskPlane.EDGE)
    x, y = np.array([6.2, 8.0, -1.0, 29.6, 3.0]), np.array([4.8, 9.0, 3.0, 3.0, 0.2])
    assert is_droppable(mask, x, y).tolist() == [True, False, True, True, True]


def test_moments_of_a_gaussian_are_exact() -> None:
    axis = np.arange(31) - 15
    u, v = np.meshgrid(axis - 0.3, axis + 0.2)
    xx, yy, xy = 4.0, 3.0, 0.8
    determinant = xx * yy - xy**2
    stamp = np.exp(-0.5 * (u * u * yy + v * v * xx - 2 * u * v * xy) / determinant)
    moments = weighted_moments(np.stack([stamp, -stamp]), np.array([0.3, 0.3]), np.array([-0.2, -0.2]), 1.8)
    np.testing.assert_allclose(moments[0], [xx, yy, xy], rtol=1e-3)
    assert np.isnan(moments[1]).all()
