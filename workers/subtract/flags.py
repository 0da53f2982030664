"""What the mask says about each source: the pixelFlags of the alert's diaSource record."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.imaging.masks import MaskPlane
from workers.imaging.photometry import PhotometryFlag

__all__ = ["is_droppable", "set_photometry_flags", "set_pixel_flags"]

_Rows = NDArray[Any]
_Bool = NDArray[np.bool_]
_ANY_SATURATED = MaskPlane.SATURATED | MaskPlane.SATURATED_TEMPLATE | MaskPlane.BLEED
_ANY_SUSPECT = MaskPlane.SUSPECT | MaskPlane.GHOST
_FOOTPRINT_FLAGS = {
    "pixelFlags_bad": MaskPlane.BAD,
    "pixelFlags_cr": MaskPlane.CR,
    "pixelFlags_edge": MaskPlane.EDGE,
    "pixelFlags_nodata": MaskPlane.NO_DATA,
    "pixelFlags_interpolated": MaskPlane.INTERPOLATED,
    "pixelFlags_saturated": _ANY_SATURATED,
    "pixelFlags_suspect": _ANY_SUSPECT,
    "pixelFlags_streak": MaskPlane.STREAK,
    "pixelFlags_injected": MaskPlane.INJECTED,
    "pixelFlags_injected_template": MaskPlane.INJECTED_TEMPLATE,
}
_CENTRE_FLAGS = {
    "pixelFlags_crCenter": MaskPlane.CR,
    "pixelFlags_nodataCenter": MaskPlane.NO_DATA,
    "pixelFlags_interpolatedCenter": MaskPlane.INTERPOLATED,
    "pixelFlags_saturatedCenter": _ANY_SATURATED,
    "pixelFlags_suspectCenter": _ANY_SUSPECT,
    "pixelFlags_streakCenter": MaskPlane.STREAK,
    "pixelFlags_injectedCenter": MaskPlane.INJECTED,
    "pixelFlags_injected_templateCenter": MaskPlane.INJECTED_TEMPLATE,
}
_DROPPED = MaskPlane.NO_DATA | MaskPlane.EDGE


def is_droppable(mask: NDArray[np.int32], x: NDArray[np.floating], y: NDArray[np.floating]) -> _Bool:
    """Return which positions lie off the image or on a pixel without data or too near its edge."""
    height, width = mask.shape
    column, row = np.round(x).astype(int), np.round(y).astype(int)
    off = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    at = mask[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    return np.asarray(off | ((at & int(_DROPPED)) != 0))


def set_pixel_flags(rows: _Rows, masks: NDArray[np.int32], radius: float) -> None:
    """Fill the pixelFlags columns of `rows` from their mask stamps (n, s, s).

    A footprint is the disc of `radius` pixels about the middle pixel, a centre its 3 x 3 pixels. Outside the image the
    stamps carry NO_DATA, which counts as edge too.
    """
    axis = np.arange(masks.shape[1]) - masks.shape[1] // 2
    disc = np.hypot(axis[:, None], axis[None, :]) <= radius
    square = np.maximum(np.abs(axis[:, None]), np.abs(axis[None, :])) <= 1
    footprint = np.bitwise_or.reduce(masks[:, disc], axis=1)
    centre = np.bitwise_or.reduce(masks[:, square], axis=1)
    for name, planes in _FOOTPRINT_FLAGS.items():
        rows[name] = (footprint & int(planes)) != 0
    for name, planes in _CENTRE_FLAGS.items():
        rows[name] = (centre & int(planes)) != 0
    rows["pixelFlags_edge"] |= rows["pixelFlags_nodata"]
    rows["pixelFlags_offimage"] = False
    rows["pixelFlags"] = False  # would mean that these flags could not be set


def set_photometry_flags(rows: _Rows, prefix: str, flags: NDArray[np.int32]) -> None:
    """Fill ``<prefix>_flag``, ``_edge`` and ``_noGoodPixels`` of `rows` from PhotometryFlag bits."""
    rows[f"{prefix}_flag_edge"] = (flags & int(PhotometryFlag.EDGE)) != 0
    rows[f"{prefix}_flag_noGoodPixels"] = (flags & int(PhotometryFlag.NO_SUPPORT)) != 0
    rows[f"{prefix}_flag"] = (flags & int(PhotometryFlag.EDGE | PhotometryFlag.NO_SUPPORT)) != 0
