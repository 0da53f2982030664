"""The reference catalogue: stars with known positions and fluxes, which tie WCS and zero point to the sky."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from schemas.errors import ConfigurationError
from workers.imaging.exposure import frozen_array

__all__ = ["ReferenceCatalogue", "load_reference", "save_reference"]

_Float = NDArray[np.float64]
_PREFIX, _SUFFIX = "flux_", "_err"


@dataclass(frozen=True)
class ReferenceCatalogue:
    """n stars: positions float64 degrees ICRS; per band fluxes and errors, float64 nJy, NaN where not measured."""

    ra: _Float
    dec: _Float
    flux: Mapping[str, _Float]
    fluxErr: Mapping[str, _Float]
    name: str = "reference"
    """As provenance and errors call it: the file's stem and 12 hexadecimal digits of its content's sha256."""

    def __post_init__(self) -> None:
        """Check the lengths and make the arrays read-only."""
        for name in ("ra", "dec"):
            object.__setattr__(self, name, frozen_array(np.ascontiguousarray(getattr(self, name), float)))
        for name in ("flux", "fluxErr"):
            columns = {band: np.ascontiguousarray(value, float) for band, value in getattr(self, name).items()}
            if any(column.shape != self.ra.shape for column in columns.values()):
                raise ConfigurationError(f"reference catalogue {self.name}: {name} and ra differ in length")
            frozen = {band: frozen_array(column) for band, column in columns.items()}
            object.__setattr__(self, name, MappingProxyType(frozen))
        if self.dec.shape != self.ra.shape or set(self.flux) != set(self.fluxErr):
            raise ConfigurationError(
                f"reference catalogue {self.name}: positions, fluxes and errors must be of the same stars and bands"
            )

    def __len__(self) -> int:
        """Number of stars."""
        return len(self.ra)

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands with fluxes, sorted."""
        return tuple(sorted(self.flux))

    def in_band(self, band: str) -> tuple[_Float, _Float]:
        """Return (flux, error), nJy; raises ConfigurationError naming the bands there are."""
        if band not in self.flux:
            raise ConfigurationError(
                f"reference catalogue {self.name} has no column flux_{band}; it has the bands "
                f"{', '.join(self.bands) or '(none)'}. Add the column, or map the filter's name to one of these "
                "in [header.band] of camera.toml"
            )
        return self.flux[band], self.fluxErr[band]

    def chosen(self, rows: ArrayLike) -> ReferenceCatalogue:
        """Return the stars at `rows` (indices, or a boolean per star)."""
        at = np.asarray(rows)
        return ReferenceCatalogue(
            self.ra[at],
            self.dec[at],
            {band: column[at] for band, column in self.flux.items()},
            {band: column[at] for band, column in self.fluxErr.items()},
            self.name,
        )

    def rows_within(self, ra: float, dec: float, radius: float) -> NDArray[np.int64]:
        """Return the rows of the stars at most `radius` degrees from (ra, dec), degrees."""
        north = np.radians(dec)
        near = np.flatnonzero(np.abs(self.dec - dec) <= radius)
        lat, turn = np.radians(self.dec[near]), np.radians(self.ra[near] - ra)
        haversine = np.sin(0.5 * (lat - north)) ** 2 + np.cos(lat) * np.cos(north) * np.sin(0.5 * turn) ** 2
        return np.asarray(near[haversine <= np.sin(np.radians(0.5 * min(radius, 180.0))) ** 2])

    def within(self, ra: float, dec: float, radius: float) -> ReferenceCatalogue:
        """Return the stars at most `radius` degrees from (ra, dec), degrees."""
        return self.chosen(self.rows_within(ra, dec, radius))


def load_reference(path: Path) -> ReferenceCatalogue:
    """Read the first table of a FITS file: ra, dec (degrees ICRS), flux_<band>, flux_<band>_err (nJy).

    Raises ConfigurationError where the file is missing or not such a table.
    """
    try:
        with fits.open(path, memmap=False) as hdus:
            table = next((hdu.data for hdu in hdus if isinstance(hdu, fits.BinTableHDU)), None)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"the reference catalogue {path} does not exist: set [reference] path in survey.toml to a FITS table with "
            "ra, dec, flux_<band>, flux_<band>_err, or make one from a frame with `skydelta reference from-frame`"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"the reference catalogue {path} can't be read as FITS: {error}") from error
    if table is None:
        raise ConfigurationError(
            f"{path} holds no binary table, so it is no reference catalogue: [reference] path in survey.toml"
        )
    return _from_table(table, path)


def _from_table(table: Any, path: Path) -> ReferenceCatalogue:
    """Check the columns and take the finite positions."""
    names = list(table.names)
    bands = [name[len(_PREFIX) :] for name in names if name.startswith(_PREFIX) and not name.endswith(_SUFFIX)]
    needed = ["ra", "dec", *(f"{_PREFIX}{band}{_SUFFIX}" for band in bands)]
    missing = [name for name in needed if name not in names]
    if missing or not bands:
        lacking = ", ".join(missing or ["flux_<band> of at least one band"])
        raise ConfigurationError(f"reference catalogue {path} lacks {lacking}; its columns are {', '.join(names)}")
    catalogue = ReferenceCatalogue(
        table["ra"],
        table["dec"],
        {band: table[f"{_PREFIX}{band}"] for band in bands},
        {band: table[f"{_PREFIX}{band}{_SUFFIX}"] for band in bands},
        f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}",
    )
    finite = np.isfinite(catalogue.ra) & np.isfinite(catalogue.dec) & (np.abs(catalogue.dec) <= 90.0)
    return catalogue if finite.all() else catalogue.chosen(finite)


def save_reference(path: Path, catalogue: ReferenceCatalogue) -> None:
    """Write `catalogue` as the FITS table that `load_reference` reads, replacing the file."""
    columns = [
        fits.Column("ra", "D", unit="deg", array=np.array(catalogue.ra)),
        fits.Column("dec", "D", unit="deg", array=np.array(catalogue.dec)),
    ]
    for band in catalogue.bands:
        flux, error = f"{_PREFIX}{band}", f"{_PREFIX}{band}{_SUFFIX}"
        columns.append(fits.Column(flux, "D", unit="nJy", array=np.array(catalogue.flux[band])))
        columns.append(fits.Column(error, "D", unit="nJy", array=np.array(catalogue.fluxErr[band])))
    fits.BinTableHDU.from_columns(columns, name="REFERENCE").writeto(path, overwrite=True)
