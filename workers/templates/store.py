"""Where templates are kept: versions side by side, cells as files, one pointer to the current version.

::

    templates/current                                             the name of the current version
    templates/versions/<version>/manifest.json                    grid, window and list of cells; written last
    templates/versions/<version>/<band>/<tract>/<cellX>_<cellY>.fits

A version without a manifest is one that is being built, or was interrupted; nothing reads it. Published versions never
change, and are kept until somebody removes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from schemas.errors import DataError
from workers.imaging.fits import write_atomically
from workers.imaging.tracts import CellId, Tessellation
from workers.templates.cell import CellPlan, CellRecord, TemplateCell, content_id
from workers.templates.cell_file import cell_from_bytes, cell_to_bytes

__all__ = ["Manifest", "TemplateStore", "record_of"]

_CACHED_CELLS = 256


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

    def of_band(self, band: str) -> dict[CellId, CellRecord]:
        """Return the records of one band by cell."""
        return {record.cell: record for record in self.cells if record.band == band}

    def to_json(self) -> bytes:
        """Return the manifest's bytes; equal manifests give equal bytes."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, label: str) -> Manifest:
        """Read a manifest; raises DataError naming `label`."""
        try:
            tree = json.loads(data)
            grid = Tessellation(**tree.pop("grid"))
            cells = tuple(CellRecord(**record) for record in tree.pop("cells"))
            return cls(grid=grid, cells=cells, **tree)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{label} is damaged ({error}); run `skydelta templates build`") from error


def version_digest(plans: tuple[CellPlan, ...], begin: float, end: float) -> str:
    """Return the digest of a version with these cells and this window (MJD TAI)."""
    return content_id("", [begin, end, sorted(plan.templateId for plan in plans)])


def record_of(cell: TemplateCell, data: bytes, path: str) -> CellRecord:
    """Return the list entry of a cell whose file holds `data`, at `path` relative to the template folder."""
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
    )


class TemplateStore:
    """Template versions below one folder. Cells read are kept in memory, the last 256."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._manifest: Manifest | None = None
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

    def manifest(self, version: str | None = None) -> Manifest | None:
        """Return the manifest of `version` (default: the current one), None where there is none at all.

        Raises DataError where the version named does not exist or is damaged.
        """
        name = version or self.current()
        if name is None:
            return None
        if self._manifest is None or self._manifest.version != name:
            path = self.root / "versions" / name / "manifest.json"
            try:
                self._manifest = Manifest.from_json(path.read_bytes(), str(path))
            except OSError as error:
                raise DataError(
                    f"template version {name} has no readable {path}; there are {self.versions()}"
                ) from error
        return self._manifest

    def place(self, version: str, band: str, cell: CellId) -> str:
        """Return where a cell's file is, relative to the template folder."""
        folder = f"versions/{version}/{quote(band, safe='')}/{cell.tract}"
        return f"{folder}/{cell.cellX}_{cell.cellY}.fits"

    def cells_at(self, version: str, cell: CellId) -> list[TemplateCell]:
        """Return the cells of all bands at one place, by band; their files alone are read, not the manifest.

        Raises DataError where one is damaged.
        """
        folders = [path.name for path in (self.root / "versions" / version).iterdir() if path.is_dir()]
        paths = [self.root / self.place(version, band, cell) for band in sorted(map(unquote, folders))]
        return [cell_from_bytes(path.read_bytes(), str(path)) for path in paths if path.exists()]

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
        path = self.place(version, cell.plan.band, cell.plan.cell)
        data = cell_to_bytes(cell)
        write_atomically(self.root / path, data)
        return record_of(cell, data, path)

    def begin(self, digest: str) -> str:
        """Return the name of the version to build: an interrupted one of this digest, or the next number."""
        names = sorted(path.name for path in self.root.glob("versions/*"))
        for name in names:
            if name.endswith(f"-{digest[:8]}") and name not in self.versions():
                return name
        last = max((int(name.split("-")[0]) for name in names), default=0)
        return f"{last + 1:04d}-{digest[:8]}"

    def kept(self, version: str, plan: CellPlan) -> CellRecord | None:
        """Return the record of a cell of this plan that need not be built: interrupted here, or current and unchanged.

        The current version's file is linked (or copied, where links are not possible).
        """
        path = self.place(version, plan.band, plan.cell)
        target = self.root / path
        if target.exists():
            data = target.read_bytes()
            cell = cell_from_bytes(data, str(target))
            return record_of(cell, data, path) if cell.plan.templateId == plan.templateId else None
        manifest = self.manifest()
        old = None if manifest is None else manifest.of_band(plan.band).get(plan.cell)
        if old is None or old.templateId != plan.templateId:
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self.root / old.path, target)
        except OSError:
            write_atomically(target, (self.root / old.path).read_bytes())
        return CellRecord(**{**asdict(old), "path": path})

    def publish(self, manifest: Manifest) -> None:
        """Make a finished version the current one: the manifest first, the pointer last."""
        write_atomically(self.root / "versions" / manifest.version / "manifest.json", manifest.to_json())
        write_atomically(self.root / "current", f"{manifest.version}\n".encode("ascii"))

    def remove(self, version: str) -> None:
        """Remove a version that is not the current one; raises DataError for the current one."""
        if version == self.current():
            raise DataError(f"template version {version} is the current one; build another before removing it")
        shutil.rmtree(self.root / "versions" / version)
