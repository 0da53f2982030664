"""A reference catalogue in shards: one FITS table per HEALPix pixel, of which a cone reads the few that it touches.

::

    <folder>/catalogue.json               what the catalogue holds, and the list of shards; written last
    <folder>/shards/007/007042.fits       stars of nested pixel 7042, in the columns of `table_columns`

The stars of a shard are in one order whatever order they came in, so that equal stars give equal bytes and one name.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from astropy import units
from astropy.io import fits
from astropy_healpix import HEALPix
from numpy.typing import NDArray

from schemas.errors import ConfigurationError
from workers.imaging.reference import MOTION, ReferenceCatalogue, load_reference, need_band, rows_near

__all__ = [
    "FITS_CODES",
    "INDEX",
    "Reference",
    "ReferenceStore",
    "Shard",
    "StoreIndex",
    "joined",
    "open_reference",
    "shard_path",
]

INDEX = "catalogue.json"
_FORMAT, _VERSION = "skydelta reference", 1
CACHED_STARS = 500_000
"""Kept in memory between cones, about 100 bytes each."""
FITS_CODES = {"D": ">f8", "E": ">f4"}
"""dtypes by FITS format."""


class Reference(Protocol):
    """What a stage asks of a reference catalogue, be it one table or a folder of shards."""

    @property
    def name(self) -> str:
        """As provenance calls it: it holds a hash of the content."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands with fluxes, sorted."""

    def __len__(self) -> int:
        """Number of stars."""

    def within(self, ra: float, dec: float, radius: float) -> ReferenceCatalogue:
        """Return the stars at most `radius` degrees from (ra, dec), degrees ICRS, at the catalogue's epoch."""


def open_reference(path: Path) -> Reference:
    """Open a reference catalogue: a FITS table, read whole, or a folder of shards; raises ConfigurationError."""
    return ReferenceStore.open(path) if path.is_dir() else load_reference(path)


@dataclass(frozen=True)
class Shard:
    """One file of the store."""

    pixel: int
    stars: int
    sha256: str
    """Of the file's bytes."""


@dataclass(frozen=True)
class StoreIndex:
    """catalogue.json."""

    digest: str
    """sha256 of the content: the same stars give the same, in whatever order they came."""
    bands: tuple[str, ...]
    columns: tuple[str, ...]
    """Those of `MOTION` that any star has."""
    epoch: tuple[float, float] | None
    """First and last, MJD; None where no star has one."""
    stars: int
    measured: dict[str, int]
    """Stars with a flux, by band."""
    moving: int
    """Stars with a proper motion."""
    nside: int
    shards: tuple[Shard, ...]
    history: dict[str, Any]
    """Files it was built from, and what was left out; no part of the digest."""

    def to_json(self) -> bytes:
        """Return the bytes of catalogue.json."""
        head = {"format": _FORMAT, "version": _VERSION, "name": self.name, "order": "nested"}
        return (json.dumps(head | asdict(self), indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, label: str) -> StoreIndex:
        """Read catalogue.json; raises ConfigurationError naming `label`."""
        again = "build the catalogue again with `skydelta reference build`"
        try:
            tree = json.loads(data)
            if tree["format"] != _FORMAT or tree["version"] != _VERSION or tree["order"] != "nested":
                raise ConfigurationError(
                    f"{label} says {tree['format']!r} version {tree['version']}, order {tree['order']}; this is "
                    f"{_FORMAT!r} version {_VERSION}, nested: {again}"
                )
            kept = {key: tree[key] for key in cls.__dataclass_fields__}
            kept["shards"] = tuple(Shard(**shard) for shard in tree["shards"])
            kept |= {key: tuple(tree[key]) for key in ("bands", "columns")}
            kept["epoch"] = None if tree["epoch"] is None else (float(tree["epoch"][0]), float(tree["epoch"][1]))
            index = cls(**kept)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ConfigurationError(f"{label} is damaged ({error!r}); {again}") from error
        if sum(shard.stars for shard in index.shards) != index.stars:
            raise ConfigurationError(f"{label} is damaged (its shards do not add up to {index.stars} stars); {again}")
        return index

    @property
    def name(self) -> str:
        """Of the catalogue: its content's."""
        return f"reference-{self.digest[:12]}"


def shard_path(folder: Path, pixel: int) -> Path:
    """Return where the stars of a nested pixel lie."""
    return folder / "shards" / f"{pixel // 1000:03d}" / f"{pixel:06d}.fits"


class ReferenceStore:
    """A sharded catalogue, read as it is asked for. The shards read last stay in memory, up to `CACHED_STARS` stars."""

    def __init__(self, folder: Path, index: StoreIndex) -> None:
        self.folder, self.index = folder, index
        self.reads = 0
        """Shard files read so far."""
        self._shards = {shard.pixel: shard for shard in index.shards}
        self._healpix = HEALPix(nside=index.nside, order="nested")
        self._held: OrderedDict[int, NDArray[np.void]] = OrderedDict()

    @classmethod
    def open(cls, folder: Path) -> ReferenceStore:
        """Open the store in `folder`; raises ConfigurationError where it is none, damaged, or of another version."""
        path = folder / INDEX
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"the reference catalogue {folder} is a folder without a readable {INDEX} ({error.strerror}): make one "
                "with `skydelta reference build`, or set [reference] path in survey.toml to the right place"
            ) from error
        return cls(folder, StoreIndex.from_json(data, str(path)))

    def __len__(self) -> int:
        """Number of stars."""
        return self.index.stars

    @property
    def name(self) -> str:
        """As provenance calls it: it holds a hash of the content."""
        return self.index.name

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands with fluxes, sorted."""
        return self.index.bands

    def need_band(self, band: str) -> None:
        """Raise ConfigurationError, naming the bands there are, where `band` is none of them."""
        need_band(self.name, self.bands, band)

    def pixels_within(self, ra: float, dec: float, radius: float) -> list[int]:
        """Return the pixels, sorted, that hold stars and that the cone (degrees) touches."""
        if radius >= 180.0:
            return sorted(self._shards)
        cone = self._healpix.cone_search_lonlat(ra * units.deg, dec * units.deg, max(radius, 0.0) * units.deg)
        return sorted(set(cone.tolist()) & self._shards.keys())

    def within(self, ra: float, dec: float, radius: float) -> ReferenceCatalogue:
        """Return the stars at most `radius` degrees from (ra, dec), degrees ICRS, at the catalogue's epoch.

        Only the shards that the cone touches are read. Raises ConfigurationError where one is missing or damaged.
        """
        found = []
        for pixel in self.pixels_within(ra, dec, radius):
            rows = self._rows(pixel)
            south = int(np.searchsorted(rows["dec"], dec - radius, side="left"))
            north = int(np.searchsorted(rows["dec"], dec + radius, side="right"))
            near = rows_near(rows["ra"][south:north].astype(float), rows["dec"][south:north], ra, dec, radius)
            if len(near):
                found.append(self._catalogue(rows[south + near]))
        return joined(self.name, self.bands, found)

    def _catalogue(self, rows: NDArray[np.void]) -> ReferenceCatalogue:
        columns = {name: rows[name].astype(float) for name in rows.dtype.names or ()}
        return ReferenceCatalogue(
            columns["ra"],
            columns["dec"],
            {band: columns[f"flux_{band}"] for band in self.bands},
            {band: columns[f"flux_{band}_err"] for band in self.bands},
            self.name,
            **{name: columns[name] for name in MOTION if name in columns},
        )

    def _rows(self, pixel: int) -> NDArray[np.void]:
        """Return the rows of a shard, by declination, from memory if it is there."""
        rows = self._held.pop(pixel, None)
        if rows is None:
            rows = self._read(self._shards[pixel])
        self._held[pixel] = rows
        while len(self._held) > 1 and sum(map(len, self._held.values())) > CACHED_STARS:
            self._held.popitem(last=False)
        return rows

    def _read(self, shard: Shard) -> NDArray[np.void]:
        path = shard_path(self.folder, shard.pixel)
        again = "build the catalogue again with `skydelta reference build`; if that was just done, restart this worker"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"reference catalogue {self.name}: {path} can't be read ({error.strerror}); {again}"
            ) from error
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise ConfigurationError(f"reference catalogue {self.name}: {path} is not as {INDEX} lists it; {again}")
        self.reads += 1
        return _table_rows(data)


def _table_rows(data: bytes) -> NDArray[np.void]:
    """Return the rows of the first table of a FITS file that `StoreWriter` made; a tenth of astropy's time."""
    stream = io.BytesIO(data)
    fits.Header.fromfile(stream)
    header = fits.Header.fromfile(stream)
    numbers = range(1, header["TFIELDS"] + 1)
    dtype = np.dtype([(header[f"TTYPE{n}"], FITS_CODES[header[f"TFORM{n}"].strip()]) for n in numbers])
    return np.frombuffer(data, dtype, header["NAXIS2"], stream.tell())


def joined(name: str, bands: Sequence[str], parts: Sequence[ReferenceCatalogue]) -> ReferenceCatalogue:
    """Return the stars of all `parts`, which have `bands`, one part after the other."""
    if len(parts) == 1:
        return parts[0]
    return ReferenceCatalogue(
        _end_to_end([part.ra for part in parts]),
        _end_to_end([part.dec for part in parts]),
        {band: _end_to_end([part.flux[band] for part in parts]) for band in bands},
        {band: _end_to_end([part.fluxErr[band] for part in parts]) for band in bands},
        name,
        **{key: _end_to_end([getattr(part, key) for part in parts]) for key in MOTION},
    )


def _end_to_end(columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate(columns) if columns else np.zeros(0)
