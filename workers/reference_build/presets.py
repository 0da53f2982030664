"""How Gaia, Pan-STARRS and Rubin's reference catalogues name their columns, and what their magnitudes mean.

Gaia: the archive's gaia_source and VizieR I/355; magnitudes are Vega's, turned to AB with the zero points of Gaia DR3
(Gaia DR3 documentation, section 5.4.1, table 5.4). PS1: MAST's mean objects and VizieR II/349, AB. lsst: tables of
Rubin's pipelines (coord_ra in radians, <band>_flux).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from workers.imaging.bright_stars import AB_NJY
from workers.reference_build.tables import InputTable

__all__ = ["GAIA_TO_AB", "KINDS", "BandColumn", "Kind", "guess_kind", "preset_bands"]

GAIA_AB = {"G": 25.8010446445, "BP": 25.3539555559, "RP": 25.1039837393}
"""AB magnitude of one electron per second."""
GAIA_VEGA = {"G": 25.6873668671, "BP": 25.3385422158, "RP": 24.7478955012}
GAIA_TO_AB = {band: GAIA_AB[band] - GAIA_VEGA[band] for band in GAIA_AB}
"""AB less Vega magnitude."""


@dataclass(frozen=True)
class BandColumn:
    """Where a band's fluxes are in a table."""

    band: str
    column: str
    error: str
    """Empty where there is none."""
    magnitude: bool
    factor: float = 1.0
    """nJy are this times the column, or times 10^(0.4 (31.4 - column)) for a magnitude."""
    ratio: bool = False
    """The error column holds flux over error."""


@dataclass(frozen=True)
class Kind:
    """One way to name columns."""

    names: dict[str, tuple[str, ...]]
    """By quantity, the column names that mean it."""
    units: dict[str, str]
    """Of columns whose unit the file does not state."""
    epoch: float | None = None
    """Julian year of positions in a table without epochs."""


_MAS = {key: "mas" for key in ("raErr", "decErr", "parallax")}
_MAS |= {key: "mas/yr" for key in ("pmRa", "pmDec", "pmRaErr", "pmDecErr")}
_DEGREES = {"ra": "deg", "dec": "deg"}
_ARCSEC = {key: unit.replace("mas", "arcsec") for key, unit in _MAS.items()}

KINDS = {
    "gaia": Kind(
        {
            "ra": ("ra", "RA_ICRS"),
            "dec": ("dec", "DE_ICRS"),
            "epoch": ("ref_epoch", "RefEpoch"),
            "pmRa": ("pmra", "pmRA"),
            "pmDec": ("pmdec", "pmDE"),
            "parallax": ("parallax", "Plx"),
            "raErr": ("ra_error", "e_RA_ICRS"),
            "decErr": ("dec_error", "e_DE_ICRS"),
            "pmRaErr": ("pmra_error", "e_pmRA"),
            "pmDecErr": ("pmdec_error", "e_pmDE"),
        },
        _DEGREES | _MAS,
        2016.0,
    ),
    "ps1": Kind(
        {
            "ra": ("raMean", "RAJ2000"),
            "dec": ("decMean", "DEJ2000"),
            "epoch": ("epochMean", "Epoch"),
            "raErr": ("raMeanErr", "e_RAJ2000"),
            "decErr": ("decMeanErr", "e_DEJ2000"),
        },
        _DEGREES | _ARCSEC,
        2012.5,
    ),
    "lsst": Kind(
        {
            "ra": ("coord_ra",),
            "dec": ("coord_dec",),
            "epoch": ("epoch",),
            "pmRa": ("pm_ra",),
            "pmDec": ("pm_dec",),
            "parallax": ("parallax",),
            "raErr": ("coord_ra_err", "coord_raErr"),
            "decErr": ("coord_dec_err", "coord_decErr"),
            "pmRaErr": ("pm_ra_err", "pm_raErr"),
            "pmDecErr": ("pm_dec_err", "pm_decErr"),
        },
        {"ra": "rad", "dec": "rad"} | _ARCSEC | {"raErr": "rad", "decErr": "rad"},
    ),
    "generic": Kind(
        {
            "ra": ("ra",),
            "dec": ("dec",),
            "epoch": ("epoch", "ref_epoch"),
            "pmRa": ("pmRa", "pm_ra"),
            "pmDec": ("pmDec", "pm_dec"),
            "parallax": ("parallax",),
            "raErr": ("raErr", "ra_err", "ra_error"),
            "decErr": ("decErr", "dec_err", "dec_error"),
            "pmRaErr": ("pmRaErr", "pmra_err", "pmra_error"),
            "pmDecErr": ("pmDecErr", "pmdec_err", "pmdec_error"),
        },
        _DEGREES | _MAS,
    ),
}


def guess_kind(table: InputTable) -> str:
    """Return the key of `KINDS` that fits the table's columns best; generic where none does."""
    if table.column("coord_ra"):
        return "lsst"
    if table.column("raMean") or ("RAJ2000" in table.units and "gmag" in table.units):
        return "ps1"
    if table.column("phot_g_mean_mag", "phot_g_mean_flux") or "RA_ICRS" in table.units:
        return "gaia"
    return "generic"


def preset_bands(kind: str, table: InputTable) -> list[BandColumn]:
    """Return the bands that a table of `kind` has, sorted."""
    found = {"gaia": _gaia, "ps1": _ps1, "lsst": _lsst, "generic": _generic}[kind](table)
    first: dict[str, BandColumn] = {}
    for one in found:
        first.setdefault(one.band, one)
    return [first[band] for band in sorted(first)]


def _gaia(table: InputTable) -> Iterator[BandColumn]:
    """Fluxes in electrons per second before magnitudes: they have errors."""
    for band in GAIA_AB:
        stem = f"phot_{band.lower()}_mean"
        ratio = table.column(f"{stem}_flux_over_error")
        if flux := table.column(f"{stem}_flux", f"F{band}"):
            error = table.column(f"{stem}_flux_error", f"e_F{band}")
            factor = 10.0 ** (0.4 * (AB_NJY - GAIA_AB[band]))
            yield BandColumn(band, flux, error or ratio or "", False, factor, ratio=not error and bool(ratio))
        vega = 10.0 ** (-0.4 * GAIA_TO_AB[band])
        if magnitude := table.column(f"{stem}_mag", f"{band}mag"):
            error = table.column(f"{stem}_mag_error", f"e_{band}mag")
            yield BandColumn(band, magnitude, error or ratio or "", True, vega, ratio=not error and bool(ratio))


def _ps1(table: InputTable) -> Iterator[BandColumn]:
    for band in "grizy":
        if magnitude := table.column(f"{band}MeanPSFMag", f"{band}mag"):
            error = table.column(f"{band}MeanPSFMagErr", f"e_{band}mag")
            yield BandColumn(band, magnitude, error or "", True)


def _lsst(table: InputTable) -> Iterator[BandColumn]:
    """Gaia's <magnitude>_flux is a Vega magnitude that was turned to a flux as if it were AB."""
    for name, unit in table.units.items():
        if not (match := re.fullmatch(r"(.+)_flux", name)):
            continue
        gaia = re.fullmatch(r"phot_(g|bp|rp)_mean(_mag)?", match[1])
        band = gaia[1].upper() if gaia else match[1]
        factor = flux_factor(unit or "Jy") * (10.0 ** (-0.4 * GAIA_TO_AB[band]) if gaia and gaia[2] else 1.0)
        yield BandColumn(band, name, table.column(f"{name}Err", f"{name}Sigma") or "", False, factor)


def _generic(table: InputTable) -> Iterator[BandColumn]:
    for name, unit in table.units.items():
        match = re.fullmatch(r"(flux|mag)_(.+?)", name)
        if match and not name.endswith("_err"):
            magnitude = match[1] == "mag"
            factor = 1.0 if magnitude else flux_factor(unit or "nJy")
            yield BandColumn(match[2], name, table.column(f"{name}_err") or "", magnitude, factor)


def flux_factor(unit: str) -> float:
    """Return how many nJy a flux unit is; raises ValueError for what is none."""
    from astropy import units

    return float(units.Unit(unit).to("nJy"))
