"""Write a sharded reference catalogue: shard after shard into a folder of its own, which then takes its place."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from astropy_healpix import lonlat_to_healpix
from numpy.typing import NDArray

from schemas.errors import ConfigurationError, UnreachableError
from workers.imaging.fits import write_atomically
from workers.imaging.reference import MOTION, ReferenceCatalogue, table_columns
from workers.imaging.reference_store import FITS_CODES, INDEX, ReferenceStore, Shard, StoreIndex, shard_path

__all__ = ["StoreWriter", "write_store"]

NSIDE = 32
"""12288 pixels of 1.83 degrees."""


class StoreWriter:
    """Takes shards, `bands` in each, and publishes them all at once; what fails leaves nothing behind.

    `add` each pixel once, then `publish`. A context manager. `replace`: a store that is there already is replaced
    when the new one is complete. Raises ConfigurationError where something is in the way, UnreachableError where the
    disk is full or the folder can't be written.
    """

    def __init__(self, folder: Path, bands: tuple[str, ...], nside: int = NSIDE, *, replace: bool = False) -> None:
        self.folder, self.bands, self.nside = folder, tuple(sorted(bands)), nside
        if folder.exists() and not (replace and (folder / INDEX).is_file()):
            what = "exists already" if (folder / INDEX).is_file() else "exists and is no reference catalogue"
            raise ConfigurationError(f"{folder} {what}; it was left as it is. Move it away, or choose another name")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        except OSError as error:
            raise UnreachableError(f"{folder} can't be written: {error.strerror}") from error
        self._shards: dict[int, Shard] = {}
        self._contents: dict[int, str] = {}
        self._columns: set[str] = set()
        self._epochs: list[float] = []
        self._measured: Counter[str] = Counter()
        self._moving = 0

    def __enter__(self) -> StoreWriter:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not published."""
        shutil.rmtree(self._work, ignore_errors=True)

    def add(self, pixel: int, stars: ReferenceCatalogue) -> None:
        """Write the stars of a nested pixel, in any order."""
        if pixel in self._shards or stars.bands != self.bands:
            raise ValueError(f"pixel {pixel} is there already, or bands {stars.bands} are not {self.bands}")
        if len(stars) == 0:
            return
        data, self._contents[pixel] = _shard(stars.chosen(_one_order(stars)))
        path = shard_path(self._work, pixel)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise UnreachableError(f"{path} can't be written: {error.strerror}; free the disk") from error
        self._shards[pixel] = Shard(pixel, len(stars), hashlib.sha256(data).hexdigest())
        self._count(stars)

    @property
    def stars(self) -> int:
        """Stars added so far."""
        return sum(shard.stars for shard in self._shards.values())

    def _count(self, stars: ReferenceCatalogue) -> None:
        self._columns |= {name for name in MOTION if np.isfinite(getattr(stars, name)).any()}
        epochs = stars.epoch[np.isfinite(stars.epoch)]
        self._epochs += [float(epochs.min()), float(epochs.max())] if epochs.size else []
        self._moving += int(np.count_nonzero(np.isfinite(stars.pmRa) & np.isfinite(stars.pmDec)))
        for band in self.bands:
            self._measured[band] += int(np.count_nonzero(np.isfinite(stars.flux[band])))

    def publish(self, history: dict[str, Any]) -> ReferenceStore:
        """Put the store in its place and return it; `history` says what it was built from."""
        pixels = sorted(self._shards)
        content = repr([self.bands, self.nside, [(pixel, self._contents[pixel]) for pixel in pixels]])
        index = StoreIndex(
            digest=hashlib.sha256(content.encode()).hexdigest(),
            bands=self.bands,
            columns=tuple(name for name in MOTION if name in self._columns),
            epoch=(min(self._epochs), max(self._epochs)) if self._epochs else None,
            stars=self.stars,
            measured={band: self._measured[band] for band in self.bands},
            moving=self._moving,
            nside=self.nside,
            shards=tuple(self._shards[pixel] for pixel in pixels),
            history=history,
        )
        write_atomically(self._work / INDEX, index.to_json())
        try:
            self._take_place()
        except OSError as error:
            raise UnreachableError(f"{self.folder} can't be written: {error.strerror}") from error
        return ReferenceStore.open(self.folder)

    def _take_place(self) -> None:
        """Rename the finished folder to its place; the store that was there goes when the new one is in."""
        self._work.chmod(0o755)
        old = self._work.with_name(f"{self._work.name}.old")
        replaced = self.folder.exists()
        if replaced:
            os.rename(self.folder, old)
        try:
            os.rename(self._work, self.folder)
        except OSError:
            if replaced:
                os.rename(old, self.folder)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _shard(stars: ReferenceCatalogue) -> tuple[bytes, str]:
    """Return the bytes of a FITS file with a table of `stars`, and a hash of its content.

    Places and dates are float64, the rest float32. Put together here: astropy takes ten times as long, and the bytes
    must not depend on its version.
    """
    columns = table_columns(stars)
    codes = {name: "D" if name in ("ra", "dec", "epoch") else "E" for name in columns}
    rows = np.empty(len(stars), [(name, FITS_CODES[code]) for name, code in codes.items()])
    for name, (_, values) in columns.items():
        rows[name] = values
    cards = [("XTENSION", "BINTABLE"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", rows.dtype.itemsize)]
    cards += [("NAXIS2", len(rows)), ("PCOUNT", 0), ("GCOUNT", 1), ("TFIELDS", len(columns))]
    for number, (name, (unit, _)) in enumerate(columns.items(), start=1):
        cards += [(f"TTYPE{number}", name), (f"TFORM{number}", codes[name]), (f"TUNIT{number}", unit)]
    primary = fits.Header([("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True)])
    heads = [fits.Header(one).tostring().encode("ascii") for one in (primary, [*cards, ("EXTNAME", "REFERENCE")])]
    data = rows.tobytes()
    content = hashlib.sha256(repr([*codes.items()]).encode() + data).hexdigest()
    return b"".join([*heads, data, bytes(-len(data) % 2880)]), content


def _one_order(stars: ReferenceCatalogue) -> NDArray[np.int64]:
    """Return the rows by Dec, as cones look them up, then RA and everything else, whatever order they came in."""
    fluxes = [column[band] for band in stars.bands for column in (stars.flux, stars.fluxErr)]
    others = [getattr(stars, name) for name in MOTION]
    return np.asarray(np.lexsort([*fluxes, *others, stars.ra, stars.dec]), np.int64)


def write_store(
    folder: Path, stars: ReferenceCatalogue, nside: int = NSIDE, *, replace: bool = False
) -> ReferenceStore:
    """Write a catalogue that is in memory as a store; see `StoreWriter`."""
    pixel = lonlat_to_healpix(stars.ra * units.deg, stars.dec * units.deg, nside, order="nested")
    with StoreWriter(folder, stars.bands, nside, replace=replace) as writer:
        order = np.argsort(pixel, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(pixel[order])) + 1):
            if len(rows):
                writer.add(int(pixel[rows[0]]), stars.chosen(rows))
        return writer.publish({})
