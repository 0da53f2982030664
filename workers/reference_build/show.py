"""What a reference catalogue holds, and its stars near a place."""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.imaging.bright_stars import AB_NJY, separation
from workers.imaging.reference import MOTION, ReferenceCatalogue
from workers.imaging.reference_store import Reference, ReferenceStore

__all__ = ["near_place", "reference_summary"]

_FARTHEST = 300.0
"""Arcsec that the fastest star moves in 29 years."""


def reference_summary(reference: Reference) -> dict[str, Any]:
    """Return what a catalogue holds: name, stars, measured (by band), moving, epoch (first and last MJD), columns.

    A store adds nside, order and shards.
    """
    if isinstance(reference, ReferenceStore):
        index = reference.index
        return {
            "name": index.name,
            "stars": index.stars,
            "measured": index.measured,
            "moving": index.moving,
            "epoch": index.epoch,
            "columns": index.columns,
            "nside": index.nside,
            "order": "nested",
            "shards": len(index.shards),
        }
    stars = reference.within(0.0, 0.0, 180.0)
    epochs = stars.epoch[np.isfinite(stars.epoch)]
    return {
        "name": stars.name,
        "stars": len(stars),
        "measured": {band: int(np.count_nonzero(np.isfinite(stars.flux[band]))) for band in stars.bands},
        "moving": int(np.count_nonzero(np.isfinite(stars.pmRa) & np.isfinite(stars.pmDec))),
        "epoch": (float(epochs.min()), float(epochs.max())) if epochs.size else None,
        "columns": tuple(name for name in MOTION if np.isfinite(getattr(stars, name)).any()),
    }


def near_place(reference: Reference, ra: float, dec: float, radius: float, mjd: float | None) -> list[dict[str, Any]]:
    """Return the stars within `radius` arcsec of (ra, dec), degrees ICRS, nearest first.

    At the catalogue's epoch, or moved to `mjd` (then those that move in or out count as they are at that date).
    Each with distance (arcsec), ra, dec, those of MOTION, and by band flux, fluxErr (nJy) and magnitude (AB).
    """
    stars = reference.within(ra, dec, (radius + (0.0 if mjd is None else _FARTHEST)) / 3600.0)
    if mjd is not None:
        stars = stars.at(mjd).within(ra, dec, radius / 3600.0)
    distance = separation(stars.ra, stars.dec, ra, dec) * 3600.0
    return [_star(stars, int(row), float(distance[row])) for row in np.argsort(distance, kind="stable")]


def _star(stars: ReferenceCatalogue, row: int, distance: float) -> dict[str, Any]:
    flux = {band: float(stars.flux[band][row]) for band in stars.bands}
    star = {"distance": distance, "ra": float(stars.ra[row]), "dec": float(stars.dec[row])}
    return {
        **star,
        **{name: float(getattr(stars, name)[row]) for name in MOTION},
        "flux": flux,
        "fluxErr": {band: float(stars.fluxErr[band][row]) for band in stars.bands},
        "magnitude": {
            band: AB_NJY - 2.5 * float(np.log10(value)) if value > 0.0 else np.nan for band, value in flux.items()
        },
    }
