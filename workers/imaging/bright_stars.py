"""The bright stars in and round a field: what throws ghosts, glints, spikes and bleeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.errors import ConfigurationError
from workers.imaging.exposure import frozen_array
from workers.imaging.reference import ReferenceCatalogue, separation

__all__ = ["AB_NJY", "BrightStars", "bright_stars", "separation"]

AB_NJY = 31.4
"""AB magnitude of one nJy."""


@dataclass(frozen=True)
class BrightStars:
    """n stars in one band: float64 arrays of shape (n,), all finite."""

    ra: NDArray[np.float64]
    """Degrees ICRS."""
    dec: NDArray[np.float64]
    """Degrees ICRS."""
    magnitude: NDArray[np.float64]
    """AB."""

    def __post_init__(self) -> None:
        """Check the arrays and make them read-only; raises ConfigurationError."""
        for name in ("ra", "dec", "magnitude"):
            column = np.ascontiguousarray(getattr(self, name), float)
            if column.shape != np.shape(self.ra) or column.ndim != 1 or not np.isfinite(column).all():
                raise ConfigurationError(
                    f"bright stars: {name} must be finite numbers, one per star; leave out what has no {name}"
                )
            object.__setattr__(self, name, frozen_array(column))

    def __len__(self) -> int:
        """Number of stars."""
        return len(self.ra)

    @property
    def flux(self) -> NDArray[np.float64]:
        """Fluxes, nJy, shape (n,)."""
        return np.asarray(10.0 ** (0.4 * (AB_NJY - self.magnitude)))

    def chosen(self, rows: ArrayLike) -> BrightStars:
        """Return the stars at `rows` (indices, or a boolean per star)."""
        at = np.asarray(rows)
        return BrightStars(self.ra[at], self.dec[at], self.magnitude[at])

    def separation(self, ra: float, dec: float) -> NDArray[np.float64]:
        """Return the angle between each star and (ra, dec), all in degrees, shape (n,)."""
        return separation(self.ra, self.dec, ra, dec)


def bright_stars(
    catalogue: ReferenceCatalogue, band: str, ra: float, dec: float, radius: float, limit: float
) -> BrightStars:
    """Return the stars brighter than AB magnitude `limit` in `band`, at most `radius` degrees from (ra, dec), degrees.

    Stars without a positive flux in the band are left out. Raises ConfigurationError where the catalogue lacks the
    band. Survey catalogues often miss what saturates: take one that holds the naked-eye stars as well.
    """
    flux, _ = catalogue.in_band(band)
    rows = catalogue.rows_within(ra, dec, radius)
    rows = rows[flux[rows] >= 10.0 ** (0.4 * (AB_NJY - limit))]  # false for NaN
    return BrightStars(catalogue.ra[rows], catalogue.dec[rows], AB_NJY - 2.5 * np.log10(flux[rows]))
