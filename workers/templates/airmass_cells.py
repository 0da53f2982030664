"""Which cells have templates in airmass bins, and which of its templates a cell lends to an exposure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigurationError
from workers.imaging.refraction import Air, Band, band_refractivity, known_band, mean_vector, refraction_vector
from workers.imaging.wcs import SkyWcs
from workers.survey.camera import Camera, Site
from workers.survey.config import TemplatesConfig
from workers.templates.airmass import AirmassBin, BinRules, bin_for, split_inputs
from workers.templates.calexps import CalexpEntry
from workers.templates.cell import CellRecord, TemplateCell
from workers.templates.selection import input_weight
from workers.templates.store import Manifest, TemplateStore

__all__ = [
    "BinnedInputs",
    "Telescope",
    "binned_bands",
    "bins_of",
    "cell_at_source",
    "cell_seen",
    "chosen_record",
    "telescope_of",
]

_Float = NDArray[np.float64]
_USUAL, _SERVED = 5200.0, 12000.0
"""K: of the stars that set the WCS, and of those that bins are to serve; one of 3,200 K is as far off to the red."""
_UNKNOWN = (float("nan"), float("nan"))
_DIGITS = 6
"""Of vectors kept: a microarcsecond, and the same on all machines."""
_LACKING = 0.01
"""Of a cell's pixels, that a bin may leave without data."""
_NAMES = "abcdefghij"


@dataclass(frozen=True)
class Telescope:
    """What refraction depends on besides time and place, and how much of it a template may have."""

    site: Site
    passbands: Mapping[str, Band]
    """The camera's own."""
    max_spread: float = 0.05
    """Arcsec, as of `BinRules`."""

    def vector(self, wcs: SkyWcs, shape: tuple[int, int], mjd_tai: float) -> _Float:
        """Return the `refraction_vector` of an exposure's middle, float64 (2,); NaN near the horizon."""
        height, width = shape
        ra, dec = (float(axis) for axis in wcs.pixel_to_sky(0.5 * (width - 1), 0.5 * (height - 1)))
        return self.vector_at(ra, dec, mjd_tai)

    def vector_at(self, ra: float, dec: float, mjd_tai: float) -> _Float:
        """Return the `refraction_vector` of a position, degrees ICRS, at a time, as `vector`."""
        place = {"longitude": self.site.longitude, "latitude": self.site.latitude, "height": self.site.height}
        return refraction_vector(ra, dec, mjd_tai, self._air, **place)

    def rules(self, band: str, min_epochs: int = 1) -> BinRules | None:
        """Return the rules of a band's bins; None where its wavelengths are not known."""
        passband = known_band(band, self.passbands)
        if passband is None:
            return None
        usual, served = band_refractivity([_USUAL, _SERVED], passband, self._air)
        return BinRules(contrast=float(served - usual), max_spread=self.max_spread, min_epochs=min_epochs)

    @property
    def _air(self) -> Air:
        return Air.at_height(self.site.height)


def telescope_of(camera: Camera, config: TemplatesConfig) -> Telescope | None:
    """Return the telescope of a camera, None where camera.toml has no [site]."""
    return None if camera.site is None else Telescope(camera.site, camera.passbands, config.airmass_spread_arcsec)


def binned_bands(config: TemplatesConfig, telescope: Telescope | None) -> dict[str, BinRules]:
    """Return the rules of the bands that are to have bins; ConfigurationError where refraction isn't known in one."""
    if not config.airmass_bands:
        return {}
    if telescope is None:
        raise ConfigurationError(
            f"templates.airmass_bands = {list(config.airmass_bands)} in survey.toml needs the telescope's place: add "
            "[site] with longitude, latitude (degrees) and height (metres) to camera.toml, or take airmass_bands out"
        )
    found = {band: telescope.rules(band, config.min_epochs) for band in config.airmass_bands}
    unknown = [band for band, rules in found.items() if rules is None]
    if unknown:
        raise ConfigurationError(
            f"templates.airmass_bands in survey.toml: the wavelengths of {', '.join(unknown)} are not known; add "
            f"[bands.{unknown[0]}] with wavelength_nm = [shortest, longest] to camera.toml, or take it out"
        )
    return {band: rules for band, rules in found.items() if rules is not None}


@dataclass(frozen=True)
class BinnedInputs:
    """Inputs of one of a cell's templates."""

    name: str
    """Empty for the whole cell's."""
    entries: tuple[CalexpEntry, ...]
    vector: tuple[float, float]
    """Weighted mean of theirs where it is known, (east, north)."""


def bins_of(entries: Sequence[CalexpEntry], vectors: Mapping[str, _Float], rules: BinRules) -> tuple[BinnedInputs, ...]:
    """Return what a cell's templates are made of: all of its inputs first, then the bins; nothing where it has none.

    `vectors` gives each input's (2,) by `CalexpEntry.label`.
    """
    places = np.array([vectors[entry.label] for entry in entries]).reshape(-1, 2)
    weights = np.array([input_weight(entry) for entry in entries])
    bins = split_inputs(places, weights, [entry.visit for entry in entries], rules)
    if not bins:
        return ()
    known = np.isfinite(places).all(axis=1)
    whole = BinnedInputs("", tuple(entries), _rounded(mean_vector(places[known], weights[known])))
    parts = [
        BinnedInputs(name, tuple(entries[row] for row in one.rows), _rounded(one.vector))
        for name, one in zip(_NAMES, bins, strict=False)
    ]
    return whole, *parts


def _rounded(vector: Sequence[float] | _Float) -> tuple[float, float]:
    return round(float(vector[0]), _DIGITS), round(float(vector[1]), _DIGITS)


def cell_seen(
    store: TemplateStore, manifest: Manifest, whole: CellRecord, vector: _Float, rules: BinRules
) -> TemplateCell:
    """Return what an exposure with `vector` (2,) is compared with in a cell: a bin, or the `whole` cell.

    A bin's fewer inputs may leave pixels without data: then the whole cell serves. Raises DataError where a file is
    damaged.
    """
    record = chosen_record(whole, manifest.bins_of_band(whole.band).get(whole.cell, ()), vector, rules)
    built = store.read(record)
    if not record.bin:
        return built
    full = store.read(whole)
    lacking = (built.nEpochs == 0) & (full.nEpochs > 0)
    return built if lacking.mean() <= _LACKING else full


def cell_at_source(
    store: TemplateStore,
    manifest: Manifest,
    whole: CellRecord,
    telescope: Telescope | None,
    where: tuple[float, float, float],
) -> TemplateCell:
    """Return the cell, or the airmass bin of it, that a source was compared with: `where` is (ra, dec, MJD TAI).

    The whole cell without `telescope`. Raises DataError where a file is damaged.
    """
    binned = telescope is not None and whole.cell in manifest.bins_of_band(whole.band)
    rules = telescope.rules(whole.band) if telescope is not None and binned else None
    if telescope is None or rules is None:
        return store.read(whole)
    return cell_seen(store, manifest, whole, telescope.vector_at(*where), rules)


def chosen_record(whole: CellRecord, bins: Sequence[CellRecord], vector: _Float, rules: BinRules) -> CellRecord:
    """Return the bin of a cell that shows a star where an exposure with `vector` (2,) does, or the whole cell."""
    there = [one for one in bins if one.vector is not None]
    places = tuple(AirmassBin((), one.vector or _UNKNOWN, 0.0) for one in there)
    found = bin_for(vector, places, whole.vector or _UNKNOWN, rules)
    return whole if found is None else there[places.index(found)]
