"""Which pixels of the difference can be used, and what the mask says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.imaging.exposure import Exposure, FloatImage, MaskImage, frozen_array
from workers.imaging.flagged_pixels import usable_pixels
from workers.imaging.masks import BLOCKING, MaskPlane
from workers.subtract.convolve import VaryingKernel, grow, grow_bits

__all__ = ["DifferenceMask", "blocked_pixels", "combine_masks", "filled", "kernel_reach"]

_Bool = NDArray[np.bool_]
_HALO_FWHM = 1.5
"""Radius of the halo flagged round saturated pixels, in units of the PSF's FWHM."""
_COPIED = ~int(MaskPlane.DETECTED | MaskPlane.DETECTED_NEGATIVE)
_GROWN = int(MaskPlane.BAD | MaskPlane.CR | MaskPlane.SATURATED | MaskPlane.BLEED | MaskPlane.NO_DATA | MaskPlane.EDGE)
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
_TEMPLATE_GROWN = sum(set(map(int, _TEMPLATE_PLANES.values())))
_SATURATED = int(MaskPlane.SATURATED | MaskPlane.SATURATED_TEMPLATE)
_MANY = 0.05
"""Of the pixels blocked: from here it pays to look first which have a good one near."""
_LEAST_WEIGHT = 0.1
"""Of good pixels, the nearest of which would count 1."""


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
    return ~usable_pixels(exposure.image, exposure.variance, exposure.mask)


def filled(image: FloatImage, blocked: _Bool, sigma: float) -> FloatImage:
    """Return `image` with blocked pixels replaced by the Gaussian mean (`sigma` pixels) of others near, else 0.

    It limits what a kernel carries from a blocked pixel to its neighbours; the pixels stay masked.
    """
    clean = np.array(image, np.float32, order="C")
    if blocked.any():
        axis = np.arange(np.ceil(3 * sigma) + 1)
        near = grow(~blocked, axis[-1]) if blocked.mean() > _MANY else np.ones(image.shape, bool)
        _fill(frozen_array(np.ascontiguousarray(image)), blocked, near, np.exp(-0.5 * np.square(axis / sigma)), clean)
    return clean


def kernel_reach(kernel: VaryingKernel, leftover: float = 0.02) -> int:
    """Return the radius, pixels, outside which the middle kernel passes at most `leftover` of the noise of its input.

    By noise, since a masked pixel that was filled is wrong by about that much, by one sign or the other.
    """
    height, width = kernel.shape
    square = np.square(kernel.at(width / 2, height / 2)[0])
    axis = np.arange(-kernel.half, kernel.half + 1)
    radius = np.hypot(axis[:, None], axis[None, :])
    shares = [np.sqrt(square[radius > r].sum() / square.sum()) for r in range(kernel.half + 1)]
    return next((r for r, share in enumerate(shares) if share <= leftover), kernel.half)


def combine_masks(
    science: Exposure, template: Exposure, kernel: VaryingKernel, *, convolved_template: bool, fwhm: float
) -> DifferenceMask:
    """Return the mask of the difference: blocking planes of the convolved image grown by the kernel's reach.

    Saturated pixels, whose missing light is the brightest of all, are grown by the whole kernel. The border where the
    kernel leaves the image becomes EDGE. `fwhm` (pixels) sizes the halos.
    """
    reach, mask, theirs = kernel_reach(kernel), _carried(science, _COPIED, {}), _carried(template, 0, _TEMPLATE_PLANES)
    if convolved_template:
        grow_bits(theirs, _TEMPLATE_GROWN, reach)
        full = np.ascontiguousarray(template.mask)
        grow_bits(full, int(MaskPlane.SATURATED), kernel.half, theirs, int(MaskPlane.SATURATED_TEMPLATE))
    else:
        grow_bits(mask, _GROWN, reach)
        full = np.ascontiguousarray(science.mask)
        grow_bits(full, int(MaskPlane.SATURATED), kernel.half, mask, int(MaskPlane.SATURATED))
    mask |= theirs
    _mark_border(mask, reach)
    excluded = _flagged(mask, int(BLOCKING))
    grow_bits(mask, _SATURATED, np.ceil(_HALO_FWHM * fwhm))
    return DifferenceMask(mask, excluded, _flagged(mask, _SATURATED))


def _carried(exposure: Exposure, kept: int, renamed: Mapping[MaskPlane, MaskPlane]) -> MaskImage:
    """Return a mask with the planes `kept` of an exposure's, those `renamed`, and NO_DATA where it has no number."""
    pairs = np.array([(int(plane), int(name)) for plane, name in renamed.items()], np.int32).reshape(-1, 2)
    image, variance = (frozen_array(np.ascontiguousarray(plane)) for plane in (exposure.image, exposure.variance))
    mask, out = frozen_array(np.ascontiguousarray(exposure.mask)), np.empty(exposure.shape, np.int32)
    _carry(image, variance, mask, np.int32(kept), pairs, np.int32(MaskPlane.NO_DATA), out)
    return out


def _flagged(mask: MaskImage, planes: int) -> _Bool:
    """Return where a plane of `planes` is set."""
    flagged = np.empty(mask.shape, bool)
    _flag(mask.ravel(), np.int32(planes), flagged.ravel())
    return flagged


def _mark_border(mask: MaskImage, reach: int) -> None:
    """Set EDGE in the outer `reach` pixels."""
    if reach > 0:
        for part in (mask[:reach], mask[-reach:], mask[:, :reach], mask[:, -reach:]):
            part |= np.int32(MaskPlane.EDGE)


@njit(cache=True, nogil=True)
def _fill(image: Any, blocked: Any, near: Any, profile: Any, clean: Any) -> None:  # pragma: no cover - compiled
    """Write the weighted means into the blocked pixels of `clean` that have enough neighbours."""
    height, width = image.shape
    reach = profile.size - 1
    for y in range(height):
        for x in range(width):
            if not blocked[y, x]:
                continue
            clean[y, x] = 0.0
            if not near[y, x]:
                continue
            total, weight = 0.0, 0.0
            for row in range(max(y - reach, 0), min(y + reach + 1, height)):
                for column in range(max(x - reach, 0), min(x + reach + 1, width)):
                    if not blocked[row, column]:
                        share = profile[abs(row - y)] * profile[abs(column - x)]
                        total += share * image[row, column]
                        weight += share
            if weight > _LEAST_WEIGHT:
                clean[y, x] = total / weight


@njit(cache=True, nogil=True)
def _carry(
    image: Any, variance: Any, mask: Any, kept: Any, pairs: Any, missing: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """Most pixels have no plane; a difference with itself is zero for finite numbers alone."""
    for y in range(mask.shape[0]):
        values, noises, bits, line = image[y], variance[y], mask[y], out[y]
        for x in range(line.size):
            finite = (values[x] - values[x] == 0.0) & (noises[x] - noises[x] == 0.0) & (noises[x] > 0.0)
            line[x] = (bits[x] & kept) | (0 if finite else missing)
        if pairs.shape[0] > 0:
            for x in range(line.size):
                if bits[x] != 0:
                    for k in range(pairs.shape[0]):
                        if bits[x] & pairs[k, 0] != 0:
                            line[x] |= pairs[k, 1]


@njit(cache=True, nogil=True)
def _flag(mask: Any, planes: Any, flagged: Any) -> None:  # pragma: no cover - compiled
    """One pass, no temporary."""
    for index in range(mask.size):
        flagged[index] = mask[index] & planes != 0
