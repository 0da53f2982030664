"""Raw files sorted into what one master each is made from: detector, band, lamp, period."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from schemas.errors import DataError
from workers.calibrate.frames import LazyRaw, band_of
from workers.imaging.exposure import RawExposure
from workers.imaging.fits import read_raw_cards
from workers.ingest.header import exposure_info, lamp_of
from workers.ingest.pipeline import read_exposure, read_info
from workers.survey.config import Survey

__all__ = ["Group", "archived", "grouped", "read_file"]

_SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz", ".fits.fz", ".fit.gz")


@dataclass(frozen=True)
class Group:
    """Files of one master."""

    detector: int
    band: str
    lamp: str
    sources: tuple[LazyRaw, ...]

    def __str__(self) -> str:
        """Return detector, band and lamp as a person reads them."""
        parts = [f"detector {self.detector}", self.band, f"lamp {self.lamp}" if self.lamp else ""]
        return " ".join(part for part in parts if part)


def read_file(path: Path, survey: Survey) -> RawExposure:
    """Return the raw exposure in a file; raises DataError where it can't be read or does not fit the camera."""
    return read_exposure(_bytes_of(path), path.name, survey.camera)


def archived(survey: Survey, kinds: tuple[str, ...], first: int = 0, last: int = 99999999) -> list[Path]:
    """Return the archive's raw files of some kinds, of the nights (YYYYMMDD) from `first` to `last`, in order.

    Only headers are read. Raises DataError where a file of the archive has none that fits the camera.
    """
    found = []
    for path in sorted((survey.archive / "raw").rglob("*")):
        if path.is_file() and path.name.endswith(_SUFFIXES):
            cards = read_raw_cards(_bytes_of(path), path.name)
            info = exposure_info(cards, file_name=path.name, sha256="", camera=survey.camera)
            if info.kind in kinds and first <= info.night <= last:
                found.append(path)
    return found


def grouped(kind: str, accepted: tuple[str, ...], paths: Iterable[Path], survey: Survey) -> Iterator[Group]:
    """Yield the groups that a `kind` of master needs, in order; raises DataError for frames not `accepted`."""
    groups: dict[tuple[int, str, str], list[LazyRaw]] = {}
    for path in sorted(paths):
        data = _bytes_of(path)
        info = read_info(data, path.name, survey.camera)
        if info.kind not in accepted:
            raise DataError(
                f"{path} is a {info.kind} frame, not a {' or '.join(accepted)}; give frames of one kind, "
                "or mend header.kind"
            )
        lamp = ""
        if kind == "flat" and survey.camera.header.lamp is not None:
            lamp = lamp_of(read_raw_cards(data, path.name), file_name=path.name, camera=survey.camera)
        key = (info.detector, band_of(kind, info), lamp)
        groups.setdefault(key, []).append(LazyRaw(info, partial(read_file, path, survey)))
    for (detector, band, lamp), sources in sorted(groups.items()):
        yield Group(detector, band, lamp, tuple(sources))


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
