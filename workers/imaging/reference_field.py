"""The reference stars of one exposure: those that its detector may see, where they are on its date."""

from __future__ import annotations

import numpy as np

from workers.imaging.reference import ReferenceCatalogue, separation
from workers.imaging.reference_store import Reference
from workers.imaging.wcs import SkyWcs

__all__ = ["MOTION", "field_cone", "field_stars"]

_WIDER = 1.12
"""A field is seen this much wider than its corners: the header's scale and rotation are not exact."""
MOTION = 120.0
"""Arcsec; the fastest star moves it in twelve years."""


def field_cone(wcs: SkyWcs, shape: tuple[int, int], slack: float) -> tuple[float, float, float]:
    """Return (ra, dec, radius), degrees, of a cone that holds a detector of `shape` (height, width).

    `slack` pixels: how far `wcs`, the header's, may be off. Right at the poles and at RA 0.
    """
    height, width = shape
    low, right, top = -0.5 - slack, width - 0.5 + slack, height - 0.5 + slack
    x = np.array([0.5 * (width - 1), low, right, low, right])
    y = np.array([0.5 * (height - 1), low, low, top, top])
    ra, dec = wcs.pixel_to_sky(x, y)
    corner = separation(ra[1:], dec[1:], float(ra[0]), float(dec[0])).max()
    return float(ra[0]), float(dec[0]), float(_WIDER * corner)


def field_stars(
    reference: Reference, wcs: SkyWcs, shape: tuple[int, int], slack: float, mjd: float
) -> ReferenceCatalogue:
    """Return the stars in the cone of `field_cone`, at the date `mjd`, with their errors then.

    Of a sharded catalogue only the shards that the cone touches are read; raises ConfigurationError where one is
    damaged.
    """
    ra, dec, radius = field_cone(wcs, shape, slack)
    return reference.within(ra, dec, radius + MOTION / 3600.0).at(mjd)
