"""Which pixels of the difference can be used, and what the mask says of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.imaging.exposure import Exposure, FloatImage, MaskImage
from workers.imaging.masks import BLOCKING, MaskPlane
from workers.subtract.convolve import VaryingKernel, convolve, grow

__all__ = ["DifferenceMask", "blocked_pixels", "combine_masks", "filled", "kernel_reach"]

_Bool = NDArray[np.bool_]
_HALO_FWHM = 1.5
"""Radius of the halo flagged round saturated pixels, in units of the PSF's FWHM."""
_COPIED = ~int(MaskPlane.DETECTED | MaskPlane.DETECTED_NEGATIVE)
_GROWN = (
    MaskPlane.BAD,
    MaskPlane.CR,
    MaskPlane.SATURATED,
    MaskPlane.BLEED,
    MaskPlane.NO_DATA,
    MaskPlane.EDGE,
)
_TEMPLATE_PLANES = {
    MaskPlane.BAD: MaskPlane.BAD,
    MaskPlane.CR: MaskPlane.BAD,
    MaskPlane.NO_DATA: MaskPlane.NO_DATA,
    MaskPlane.EDGE: MaskPlane.EDGE,
    MaskPlane.SATURATED: MaskPlane.SATURATED_TEMPLATE,
    MaskPlane.BLEED: MaskPlane.SATURATED_TEMPLATE,
    MaskPlane.SATURATED_TEMPLATE: MaskPlane.SATURATED_TEMPLATE,
    MaskPlane.INJECTED: MaskPlane.INJECTED_TEMPLATE,
    MaskPlane.INJECTED_TEMPLATE: MaskPlane.INJECTED_TEMPLATE,
}
"""What a plane of the template is called in the difference."""


@dataclass(frozen=True)
class DifferenceMask:
    """The mask of the difference and the pixels that carry no weight; bool and int32 of one shape."""

    mask: MaskImage
    excluded: _Bool
    """No valid difference here. Halos of saturated stars are flagged in `mask` but not excluded."""
    halo: _Bool
    """Saturated in either image, grown by the halo's radius."""


def blocked_pixels(exposure: Exposure) -> _Bool:
    """Return true where a plane of BLOCKING is set, or image or variance is not a usable number."""
    usable = np.isfinite(exposure.image) & np.isfinite(exposure.variance) & (exposure.variance > 0.0)
    return np.asarray(~usable | ((exposure.mask & int(BLOCKING)) != 0))


def filled(image: FloatImage, blocked: _Bool, sigma: float) -> FloatImage:
    """Return `image` with blocked pixels replaced by the Gaussian mean (`sigma` pixels) of others near, else 0.

    It limits what a kernel carries from a blocked pixel to its neighbours; the pixels stay masked.
    """
    clean = np.where(blocked, np.float32(0.0), image)
    if not blocked.any():
        return clean
    axis = np.arange(-np.ceil(3 * sigma), np.ceil(3 * sigma) + 1)
    profile = np.exp(-0.5 * np.square(axis / sigma))
    gauss = VaryingKernel.constant(np.outer(profile, profile), (image.shape[0], image.shape[1]))
    weight = convolve(~blocked, gauss)
    total = convolve(clean, gauss)
    near = blocked & (weight > 0.1)
    clean[near] = total[near] / weight[near]
    return clean


def kernel_reach(kernel: VaryingKernel, leftover: float = 0.02) -> int:
    """Return the radius, pixels, of the circle outside which the middle kernel has at most `leftover` of its weight."""
    height, width = kernel.shape
    weight = np.abs(kernel.at(width / 2, height / 2)[0])
    axis = np.arange(-kernel.half, kernel.half + 1)
    radius = np.hypot(axis[:, None], axis[None, :])
    shares = [weight[radius > r].sum() / weight.sum() for r in range(kernel.half + 1)]
    return next((r for r, share in enumerate(shares) if share <= leftover), kernel.half)


def combine_masks(
    science: Exposure, template: Exposure, *, convolved_template: bool, reach: int, fwhm: float
) -> DifferenceMask:
    """Return the mask of the difference: blocking planes of the convolved image grown by the kernel's `reach` (pixels).

    The border of `reach` pixels, where the kernel leaves the image, becomes EDGE. `fwhm` (pixels) sizes the halos.
    """
    grown_by = (0, reach) if convolved_template else (reach, 0)
    mask = science.mask & np.int32(_COPIED)
    for plane in _GROWN:
        mask[grow((science.mask & int(plane)) != 0, grown_by[0])] |= int(plane)
    for plane, name in _TEMPLATE_PLANES.items():
        mask[grow((template.mask & int(plane)) != 0, grown_by[1])] |= int(name)
    for exposure, radius in zip((science, template), grown_by, strict=True):
        usable = np.isfinite(exposure.image) & np.isfinite(exposure.variance) & (exposure.variance > 0.0)
        mask[grow(~usable, radius)] |= int(MaskPlane.NO_DATA)
    mask |= _border(mask.shape, reach)
    excluded = (mask & int(BLOCKING)) != 0
    saturated = (mask & int(MaskPlane.SATURATED)) != 0, (mask & int(MaskPlane.SATURATED_TEMPLATE)) != 0
    halos = [grow(plane, np.ceil(_HALO_FWHM * fwhm)) for plane in saturated]
    mask[halos[0]] |= int(MaskPlane.SATURATED)
    mask[halos[1]] |= int(MaskPlane.SATURATED_TEMPLATE)
    return DifferenceMask(mask, excluded, halos[0] | halos[1])


def _border(shape: tuple[int, ...], reach: int) -> MaskImage:
    """Return an EDGE mask of the outer `reach` pixels."""
    edge = np.full(shape, int(MaskPlane.EDGE), np.int32)
    edge[reach : shape[0] - reach, reach : shape[1] - reach] = 0
    return edge
