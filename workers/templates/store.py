"""Where templates are kept: versions side by side, cells as files, one pointer to the current version.

::

    templates/current                                             the name of the current version
    templates/versions/<version>/manifest.json                    grid, window and list of cells; written last
    templates/versions/<version>/inputs.txt                       digests of the calibrated exposures in its cells
    templates/versions/<version>/<band>/<tract>/<cellX>_<cellY>.fits
    templates/versions/<version>/<band>/<tract>/<cellX>_<cellY>-<bin>.fits    of some of its inputs, alike in airmass
    templates/versions/<version>/removed.json                     the day of a version that was removed
    templates/warps/                                              kept warps (`workers.templates.warps`)

A version without a manifest is one that is being built, or was interrupted; nothing reads it. Published versions never
change, and are kept until somebody removes them (`workers.templates.prune`); a replay of their nights is then refused,
and not compared with something else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from schemas.errors import DataError, TransientError
from workers.imaging.fits import write_atomically
from workers.imaging.tracts import CellId, Tessellation
from workers.templates.cell import CellPlan, CellRecord, TemplateCell, content_id
from workers.templates.cell_file import cell_from_bytes, cell_to_bytes

__all__ = ["REMOVED", "Manifest", "TemplateStore", "cells_at", "named_inputs", "only_job", "record_of"]

REMOVED = "removed.json"
"""What is left of a version that was removed: its day."""
_CACHED_CELLS = 256
_CACHED_MANIFESTS = 4


@dataclass(frozen=True)
class Manifest:
    """One published version."""

    version: str
    digest: str
    """Of what the version holds; two versions with one digest hold the same templates."""
    begin: float
    """First epoch allowed, MJD TAI."""
    end: float
    grid: Tessellation
    cells: tuple[CellRecord, ...]
    """By band, tract, column and row."""
    day: float | None = None
    """MJD of the day of the job, from which on the version serves; None for a window that stands still."""
    bins: tuple[CellRecord, ...] = ()
    """Templates in airmass bins, beside those of the whole cells: by band, tract, column, row and bin."""
    empty: tuple[str, ...] = ()
    """`CellPlan.templateId` of cells in which no pixel has enough epochs: the next job need not try them again."""

    @cached_property
    def _by_band(self) -> dict[str, dict[CellId, CellRecord]]:
        found: dict[str, dict[CellId, CellRecord]] = {}
        for record in self.cells:
            found.setdefault(record.band, {})[record.cell] = record
        return found

    @cached_property
    def _binned(self) -> dict[str, dict[CellId, tuple[CellRecord, ...]]]:
        found: dict[str, dict[CellId, tuple[CellRecord, ...]]] = {}
        for record in self.bins:
            mine = found.setdefault(record.band, {})
            mine[record.cell] = (*mine.get(record.cell, ()), record)
        return found

    def of_band(self, band: str) -> dict[CellId, CellRecord]:
        """Return the records of one band's whole cells by cell."""
        return dict(self._by_band.get(band, {}))

    def bins_of_band(self, band: str) -> dict[CellId, tuple[CellRecord, ...]]:
        """Return the records of one band's airmass bins by cell."""
        return dict(self._binned.get(band, {}))

    def record(self, band: str, cell: CellId, airmass_bin: str = "") -> CellRecord | None:
        """Return the record of one cell, the whole or a bin of it; None where there is none."""
        if not airmass_bin:
            return self._by_band.get(band, {}).get(cell)
        bins = self._binned.get(band, {}).get(cell, ())
        return next((one for one in bins if one.bin == airmass_bin), None)

    def to_json(self) -> bytes:
        """Return the manifest's bytes; equal manifests give equal bytes."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, label: str) -> Manifest:
        """Read a manifest; raises DataError naming `label`."""
        try:
            tree = json.loads(data)
            grid = Tessellation(**tree.pop("grid"))
            cells, bins = (tuple(map(_record, tree.pop(name, ()))) for name in ("cells", "bins"))
            return cls(grid=grid, cells=cells, bins=bins, empty=tuple(tree.pop("empty", ())), **tree)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{label} is damaged ({error}); run `skydelta templates build`") from error


def _record(tree: dict[str, Any]) -> CellRecord:
    vector = tree.pop("vector", None)
    return CellRecord(**tree, vector=None if vector is None else (float(vector[0]), float(vector[1])))


def version_digest(plans: tuple[CellPlan, ...], begin: float, end: float) -> str:
    """Return the digest of a version with these cells, the places of their bins and this window (MJD TAI)."""
    vectors = sorted([plan.templateId, *plan.vector] for plan in plans if plan.vector is not None)
    return content_id("", [begin, end, sorted(plan.templateId for plan in plans), *([vectors] if vectors else [])])


def record_of(cell: TemplateCell, data: bytes, path: str, vector: tuple[float, float] | None = None) -> CellRecord:
    """Return the list entry of a cell whose file holds `data`, at `path` relative to the template folder.

    `vector` is that of the plan, which the file does not hold.
    """
    plan = cell.plan
    first, last = plan.epochs
    return CellRecord(
        templateId=plan.templateId,
        band=plan.band,
        tract=plan.cell.tract,
        cellX=plan.cell.cellX,
        cellY=plan.cell.cellY,
        firstEpochMjdTai=first,
        lastEpochMjdTai=last,
        nEpochs=plan.epoch_count,
        depth=cell.depth,
        fwhm=cell.fwhm,
        sha256=hashlib.sha256(data).hexdigest(),
        path=path,
        bin=plan.bin,
        vector=vector,
    )


def named_inputs(root: Path) -> set[str]:
    """Return the digests of the calibrated exposures in the cells of all versions below the template folder."""
    found: set[str] = set()
    for path in root.glob("versions/*/inputs.txt"):
        found.update(path.read_text(encoding="ascii").split())
    return found


@contextmanager
def only_job(root: Path) -> Iterator[None]:
    """Be the only one that builds or removes versions below the template folder; TransientError where one does so now.

    The lock goes with its process, however that ends.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TransientError(
                f"another job builds or removes templates in {root} now; run the same command when it has ended"
            ) from error
        yield


def _place(version: str, band: str, cell: CellId, airmass_bin: str = "") -> str:
    """Return where a cell's file is, relative to the template folder."""
    folder = f"versions/{version}/{quote(band, safe='')}/{cell.tract}"
    return f"{folder}/{cell.cellX}_{cell.cellY}{'-' if airmass_bin else ''}{airmass_bin}.fits"


def _removed(root: Path) -> dict[str, float | None]:
    """Return the days of the versions that were removed."""
    paths = root.glob(f"versions/*/{REMOVED}")
    return {path.parent.name: json.loads(path.read_bytes())["day"] for path in paths}


def cells_at(root: Path, version: str, cell: CellId) -> list[TemplateCell]:
    """Return the whole cells of all bands at one place, by band; their files alone are read, not the manifest.

    `root` is the template folder. Raises DataError where one is damaged.
    """
    folders = [path.name for path in (root / "versions" / version).iterdir() if path.is_dir()]
    paths = [root / _place(version, band, cell) for band in sorted(map(unquote, folders))]
    return [cell_from_bytes(path.read_bytes(), str(path)) for path in paths if path.exists()]


class TemplateStore:
    """Template versions below one folder. Cells read are kept in memory, the last 256."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.warps = root / "warps"
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        self._days: dict[str, float | None] = {}
        self._cells: OrderedDict[str, TemplateCell] = OrderedDict()

    def current(self) -> str | None:
        """Return the name of the current version, None before the first one."""
        try:
            return (self.root / "current").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None

    def versions(self) -> list[str]:
        """Return the published versions, oldest first."""
        return sorted(path.parent.name for path in self.root.glob("versions/*/manifest.json"))

    def holds(self, version: str) -> bool:
        """Tell whether a version is published and not removed."""
        return (self.root / "versions" / version / "manifest.json").exists()

    def manifest(self, version: str | None = None) -> Manifest | None:
        """Return the manifest of `version` (default: the current one), None where there is none at all.

        Raises DataError where the version named does not exist or is damaged.
        """
        name = version or self.current()
        if name is None:
            return None
        kept = self._manifests.pop(name, None)
        if kept is None:
            path = self.root / "versions" / name / "manifest.json"
            try:
                kept = Manifest.from_json(path.read_bytes(), str(path))
            except OSError as error:
                why = (
                    "was removed (skydelta templates prune)"
                    if name in _removed(self.root)
                    else f"has no readable {path}"
                )
                raise DataError(f"template version {name} {why}; there are {self.versions()}") from error
        self._manifests[name] = kept
        if len(self._manifests) > _CACHED_MANIFESTS:
            self._manifests.popitem(last=False)
        return kept

    def manifest_for(self, mjd: float) -> Manifest | None:
        """Return the manifest of the version that serves a night of the day of `mjd`, None where there is none at all.

        Raises DataError where it was removed.
        """
        name = self.serving(mjd)
        return None if name is None else self.manifest(name)

    def serving(self, mjd: float) -> str | None:
        """Return the version that serves a night of the day of `mjd`, removed or not; None where there is none at all.

        The current one where it stands still or its job was on that day or before. A replay of an older night takes
        what was current then: of the versions whose job was no later, the last. Where all are younger, the current one.
        """
        now, day = self.manifest(), math.floor(mjd)
        if now is None or now.day is None or now.day <= day:
            return None if now is None else now.version
        for name in self.versions():
            if name not in self._days:
                found = self.manifest(name)
                self._days[name] = None if found is None else found.day
        days = self._days | _removed(self.root)
        past = [(then, name) for name, then in days.items() if then is not None and then <= day]
        return max(past)[1] if past else now.version

    def read(self, record: CellRecord) -> TemplateCell:
        """Return a cell; raises DataError where its file is missing or damaged."""
        cell = self._cells.pop(record.sha256, None)
        if cell is None:
            path = self.root / record.path
            try:
                cell = cell_from_bytes(path.read_bytes(), str(path))
            except OSError as error:
                raise DataError(
                    f"template cell {path} can't be read ({error.strerror}); run `skydelta templates build`"
                ) from error
        self._cells[record.sha256] = cell
        while len(self._cells) > _CACHED_CELLS:
            self._cells.popitem(last=False)
        return cell

    def write(self, version: str, cell: TemplateCell) -> CellRecord:
        """Write a cell into a version that is being built, complete or not at all."""
        path = _place(version, cell.plan.band, cell.plan.cell, cell.plan.bin)
        data = cell_to_bytes(cell)
        write_atomically(self.root / path, data)
        return record_of(cell, data, path, cell.plan.vector)

    def begin(self, digest: str) -> str:
        """Return the name of the version to build: an interrupted one of this digest, or the next number."""
        names = sorted(path.name for path in self.root.glob("versions/*"))
        published = {*self.versions(), *_removed(self.root)}
        for name in names:
            if name.endswith(f"-{digest[:8]}") and name not in published:
                return name
        last = max((int(name.split("-")[0]) for name in names), default=0)
        return f"{last + 1:04d}-{digest[:8]}"

    def kept(self, version: str, plan: CellPlan) -> CellRecord | None:
        """Return the record of a cell of this plan that need not be built: interrupted here, or current and unchanged.

        The current version's file is linked (or copied, where links are not possible).
        """
        path = _place(version, plan.band, plan.cell, plan.bin)
        target = self.root / path
        if target.exists():
            data = target.read_bytes()
            cell = cell_from_bytes(data, str(target))
            return record_of(cell, data, path, plan.vector) if cell.plan.templateId == plan.templateId else None
        manifest = self.manifest()
        old = None if manifest is None else manifest.record(plan.band, plan.cell, plan.bin)
        if old is None or old.templateId != plan.templateId:
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self.root / old.path, target)
        except OSError:
            write_atomically(target, (self.root / old.path).read_bytes())
        return replace(old, path=path, vector=plan.vector)

    def publish(self, manifest: Manifest, inputs: Iterable[str] = ()) -> None:
        """Make a finished version the current one: the manifest last but one, the pointer last.

        `inputs` are the digests of the calibrated exposures in its cells.
        """
        folder = self.root / "versions" / manifest.version
        write_atomically(folder / "inputs.txt", "".join(f"{one}\n" for one in sorted(set(inputs))).encode("ascii"))
        write_atomically(folder / "manifest.json", manifest.to_json())
        write_atomically(self.root / "current", f"{manifest.version}\n".encode("ascii"))
