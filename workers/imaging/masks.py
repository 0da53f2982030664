"""The mask planes: one IntFlag for every pixel mask and stamp in the product."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag

__all__ = ["BLOCKING", "MaskPlane", "header_cards", "planes_from_header"]


class MaskPlane(IntFlag):
    """Bit of each mask plane; the FITS keyword ``MP_<NAME>`` carries the bit number."""

    BAD = 1 << 0
    """Defect of the detector, or a calibration could not be made there."""
    SATURATED = 1 << 1
    CR = 1 << 2
    """Cosmic ray."""
    EDGE = 1 << 3
    """Too near the edge of the image for a full convolution kernel."""
    NO_DATA = 1 << 4
    """No input pixel contributed."""
    SUSPECT = 1 << 5
    """Above the level where the response is trusted."""
    INTERPOLATED = 1 << 6
    """The value was filled from neighbours, for display only."""
    DETECTED = 1 << 7
    DETECTED_NEGATIVE = 1 << 8
    STREAK = 1 << 9
    CROSSTALK = 1 << 10
    HIGH_VARIANCE = 1 << 11
    SATURATED_TEMPLATE = 1 << 12
    INJECTED = 1 << 13
    INJECTED_TEMPLATE = 1 << 14
    SPIKE = 1 << 15
    BLEED = 1 << 16
    """Charge that ran along a column from a saturated pixel."""
    GHOST = 1 << 17
    """Light of a bright star that came by reflections: a ghost or a glint."""
    INEXACT_PSF = 1 << 18
    """A mean that lacks some of its inputs here: its PSF is not the one given for it."""


BLOCKING = (
    MaskPlane.BAD
    | MaskPlane.SATURATED
    | MaskPlane.CR
    | MaskPlane.EDGE
    | MaskPlane.NO_DATA
    | MaskPlane.SATURATED_TEMPLATE
    | MaskPlane.BLEED
)
"""Planes whose pixels enter no fit."""


def header_cards() -> dict[str, int]:
    """FITS cards that name the bit number of each plane, e.g. ``{"MP_BAD": 0}``."""
    return {f"HIERARCH MP_{plane.name}": plane.bit_length() - 1 for plane in MaskPlane}


def planes_from_header(header: Mapping[str, object]) -> dict[str, int]:
    """Bit number by plane name, read back from the ``MP_`` cards of a mask HDU."""
    return {key[3:]: int(str(value)) for key, value in header.items() if key.startswith("MP_")}
