"""The reference catalogue: stars with known positions and fluxes, which tie WCS and zero point to the sky."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from schemas.errors import ConfigurationError
from workers.imaging.exposure import frozen_array
from workers.imaging.proper_motion import JULIAN_YEAR, epoch_mjd, moved

__all__ = [
    "MOTION",
    "ReferenceCatalogue",
    "load_reference",
    "need_band",
    "rows_near",
    "save_reference",
    "separation",
    "table_columns",
]

_Float = NDArray[np.float64]
_PREFIX, _SUFFIX = "flux_", "_err"

MOTION = {
    "epoch": "d",
    "pmRa": "mas/yr",
    "pmDec": "mas/yr",
    "parallax": "mas",
    "raErr": "mas",
    "decErr": "mas",
    "pmRaErr": "mas/yr",
    "pmDecErr": "mas/yr",
}
"""What a catalogue may know of each star beyond position and fluxes, with its unit."""


def _unknown() -> _Float:
    return np.zeros(0)


@dataclass(frozen=True)
class ReferenceCatalogue:
    """n stars: positions float64 degrees ICRS; per band fluxes and errors, float64 nJy, NaN where not measured.

    The other columns, float64 of n stars, are NaN where not known, and all NaN where not given.
    """

    ra: _Float
    dec: _Float
    flux: Mapping[str, _Float]
    fluxErr: Mapping[str, _Float]
    name: str = "reference"
    """As provenance and errors call it: it holds 12 hexadecimal digits of the content's sha256."""
    epoch: _Float = field(default_factory=_unknown)
    """MJD at which the positions hold; one number may stand for all stars. Without it nothing moves."""
    pmRa: _Float = field(default_factory=_unknown)
    """Proper motion on RA·cos(Dec), mas per Julian year."""
    pmDec: _Float = field(default_factory=_unknown)
    parallax: _Float = field(default_factory=_unknown)
    """mas; carried, not applied: positions are barycentric."""
    raErr: _Float = field(default_factory=_unknown)
    """Standard error of RA·cos(Dec), mas."""
    decErr: _Float = field(default_factory=_unknown)
    pmRaErr: _Float = field(default_factory=_unknown)
    """Standard error of pmRa, mas per year."""
    pmDecErr: _Float = field(default_factory=_unknown)

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
        for name in MOTION:
            object.__setattr__(self, name, self._per_star(name, np.asarray(getattr(self, name), float)))

    def _per_star(self, name: str, value: _Float) -> _Float:
        """Return one number per star, read-only; what holds for all of them takes no memory."""
        if value.shape == self.ra.shape and value.size:
            return frozen_array(np.ascontiguousarray(value))
        if value.size > 1:
            raise ConfigurationError(f"reference catalogue {self.name}: {name} and ra differ in length")
        return np.broadcast_to(value.reshape(-1)[0] if value.size else np.float64(np.nan), self.ra.shape)

    def __len__(self) -> int:
        """Number of stars."""
        return len(self.ra)

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands with fluxes, sorted."""
        return tuple(sorted(self.flux))

    def in_band(self, band: str) -> tuple[_Float, _Float]:
        """Return (flux, error), nJy; raises ConfigurationError naming the bands there are."""
        need_band(self.name, self.bands, band)
        return self.flux[band], self.fluxErr[band]

    def color(self, blue: str, red: str) -> _Float:
        """Return the AB magnitude in `blue` less that in `red`, float64 per star; NaN where either flux is lacking.

        Raises ConfigurationError naming the bands there are.
        """
        one, other = self.in_band(blue)[0], self.in_band(red)[0]
        good = (one > 0.0) & (other > 0.0)
        ratio = np.divide(one, other, out=np.ones_like(one), where=good)
        return np.where(good, -2.5 * np.log10(ratio), np.nan)

    def chosen(self, rows: ArrayLike) -> ReferenceCatalogue:
        """Return the stars at `rows` (indices, or a boolean per star)."""
        at = np.asarray(rows)
        return ReferenceCatalogue(
            self.ra[at],
            self.dec[at],
            {band: column[at] for band, column in self.flux.items()},
            {band: column[at] for band, column in self.fluxErr.items()},
            self.name,
            **{name: _rows_of(getattr(self, name), at) for name in MOTION},
        )

    def rows_within(self, ra: float, dec: float, radius: float) -> NDArray[np.int64]:
        """Return the rows of the stars at most `radius` degrees from (ra, dec), degrees."""
        return rows_near(self.ra, self.dec, ra, dec, radius)

    def within(self, ra: float, dec: float, radius: float) -> ReferenceCatalogue:
        """Return the stars at most `radius` degrees from (ra, dec), degrees."""
        return self.chosen(self.rows_within(ra, dec, radius))

    def at(self, mjd: float) -> ReferenceCatalogue:
        """Return the same stars, row for row, with positions, motions and position errors of the date `mjd`.

        A star without epoch or motion stays where it is; its epoch stays too. An error of the motion that is known is
        added to that of the position, in quadrature. Source: `moved`.
        """
        still = ~(np.isfinite(self.pmRa) & np.isfinite(self.pmDec) & np.isfinite(self.epoch))
        if still.all():
            return self
        years = np.where(still, 0.0, (mjd - self.epoch) / JULIAN_YEAR)
        new = moved(self.ra, self.dec, np.where(still, 0.0, self.pmRa), np.where(still, 0.0, self.pmDec), years)
        ra, dec, pm_ra, pm_dec = (
            np.where(still, old, value)
            for old, value in zip((self.ra, self.dec, self.pmRa, self.pmDec), new, strict=True)
        )
        return ReferenceCatalogue(
            ra,
            dec,
            self.flux,
            self.fluxErr,
            self.name,
            epoch=np.where(still, self.epoch, mjd),
            pmRa=pm_ra,
            pmDec=pm_dec,
            parallax=self.parallax,
            raErr=np.hypot(self.raErr, np.nan_to_num(self.pmRaErr) * years),
            decErr=np.hypot(self.decErr, np.nan_to_num(self.pmDecErr) * years),
            pmRaErr=self.pmRaErr,
            pmDecErr=self.pmDecErr,
        )


def _rows_of(column: _Float, rows: NDArray[np.generic]) -> _Float:
    """Return the rows of a column; of one that is the same for all stars, that one number."""
    return column[:1].copy() if column.strides == (0,) and column.size else column[rows]


def rows_near(star_ra: _Float, star_dec: _Float, ra: float, dec: float, radius: float) -> NDArray[np.int64]:
    """Return the rows of the stars (n,) that lie at most `radius` from (ra, dec); all in degrees."""
    near = np.flatnonzero(np.abs(star_dec - dec) <= radius)
    return np.asarray(near[separation(star_ra[near], star_dec[near], ra, dec) <= radius])


def separation(star_ra: _Float, star_dec: _Float, ra: float, dec: float) -> _Float:
    """Return the angle between each star (n,) and (ra, dec), all in degrees, float64 (n,)."""
    lat, north, turn = np.radians(star_dec), np.radians(dec), np.radians(star_ra - ra)
    haversine = np.sin(0.5 * (lat - north)) ** 2 + np.cos(lat) * np.cos(north) * np.sin(0.5 * turn) ** 2
    return np.asarray(np.degrees(2.0 * np.arcsin(np.sqrt(np.minimum(haversine, 1.0)))))


def need_band(name: str, bands: tuple[str, ...], band: str) -> None:
    """Raise ConfigurationError where the catalogue `name` lacks `band`."""
    if band not in bands:
        raise ConfigurationError(
            f"reference catalogue {name} has no column flux_{band}; it has the bands {', '.join(bands) or '(none)'}. "
            "Add the column, or map the filter's name to one of these in [header.band] of camera.toml"
        )


def load_reference(path: Path) -> ReferenceCatalogue:
    """Read the first table of a FITS file: ra, dec (degrees ICRS), flux_<band>, flux_<band>_err (nJy), those of MOTION.

    Columns of MOTION may be absent, an epoch may be on any scale that `epoch_mjd` knows, units that the file states
    are converted. Raises ConfigurationError where the file is missing or not such a table.
    """
    try:
        with fits.open(path, memmap=False) as hdus:
            table = next((hdu.data for hdu in hdus if isinstance(hdu, fits.BinTableHDU)), None)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"the reference catalogue {path} does not exist: set [reference] path in survey.toml to a FITS table with "
            "ra, dec, flux_<band>, flux_<band>_err, or make one from a frame with `skydelta reference from-frame` "
            "or from a Gaia or PS1 extract with `skydelta reference build`"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"the reference catalogue {path} can't be read as FITS: {error}") from error
    if table is None:
        raise ConfigurationError(
            f"{path} holds no binary table, so it is no reference catalogue: [reference] path in survey.toml"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    catalogue = _from_table(table, str(path), f"{path.stem}-{digest[:12]}")
    finite = np.isfinite(catalogue.ra) & np.isfinite(catalogue.dec) & (np.abs(catalogue.dec) <= 90.0)
    return catalogue if finite.all() else catalogue.chosen(finite)


def _from_table(table: Any, label: str, name: str) -> ReferenceCatalogue:
    """Return the catalogue `name` that a FITS table holds; raises ConfigurationError, naming `label`, for another."""
    names = list(table.names)
    bands = [one[len(_PREFIX) :] for one in names if one.startswith(_PREFIX) and not one.endswith(_SUFFIX)]
    needed = ["ra", "dec", *(f"{_PREFIX}{band}{_SUFFIX}" for band in bands)]
    missing = [one for one in needed if one not in names]
    if missing or not bands:
        lacking = ", ".join(missing or ["flux_<band> of at least one band"])
        raise ConfigurationError(f"reference catalogue {label} lacks {lacking}; its columns are {', '.join(names)}")
    known = {one.lower(): one for one in names}
    motion = {
        key: _column(table, known[key.lower()], unit, label) for key, unit in MOTION.items() if key.lower() in known
    }
    if "epoch" in motion:
        motion["epoch"] = epoch_mjd(table[known["epoch"]])
    return ReferenceCatalogue(
        _column(table, "ra", "deg", label),
        _column(table, "dec", "deg", label),
        {band: _column(table, f"{_PREFIX}{band}", "nJy", label) for band in bands},
        {band: _column(table, f"{_PREFIX}{band}{_SUFFIX}", "nJy", label) for band in bands},
        name,
        **motion,
    )


def _column(table: Any, name: str, unit: str, label: str) -> _Float:
    """Return a column in `unit`; where the file states none it is taken to be in that unit."""
    values = np.asarray(table[name], float)
    stated = table.columns[name].unit
    if not stated or stated == unit or name.lower() == "epoch":
        return values
    try:
        return values * float(units.Unit(stated).to(unit))
    except (ValueError, units.UnitConversionError) as error:
        raise ConfigurationError(f"reference catalogue {label}: {name} is in {stated}, not in {unit}") from error


def table_columns(catalogue: ReferenceCatalogue) -> dict[str, tuple[str, _Float]]:
    """Return unit and values of each column of a catalogue's table, in order; what no star has is left out."""
    columns = {name: ("deg", getattr(catalogue, name)) for name in ("ra", "dec")}
    for name, unit in MOTION.items():
        if np.isfinite(getattr(catalogue, name)).any():
            columns[name] = (unit, getattr(catalogue, name))
    for band in catalogue.bands:
        columns[f"{_PREFIX}{band}"] = ("nJy", catalogue.flux[band])
        columns[f"{_PREFIX}{band}{_SUFFIX}"] = ("nJy", catalogue.fluxErr[band])
    return columns


def save_reference(path: Path, catalogue: ReferenceCatalogue) -> None:
    """Write `catalogue` as the FITS table that `load_reference` reads, replacing the file."""
    columns = [
        fits.Column(name, "D", unit=unit, array=np.array(values))
        for name, (unit, values) in table_columns(catalogue).items()
    ]
    fits.BinTableHDU.from_columns(columns, name="REFERENCE").writeto(path, overwrite=True)
