"""Where master calibrations are kept, and which one an exposure gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from astropy.io import fits

from schemas.errors import ConfigurationError, DataError
from workers.imaging.calibration_fits import Entry, calibration_from_bytes, calibration_to_bytes, entry_of
from workers.imaging.calibrations import BAND_KINDS, Calibration, CalibrationSet, misfits
from workers.imaging.exposure import ExposureInfo
from workers.imaging.fits import write_atomically

__all__ = ["CalibrationStore", "Candidate"]

_CACHED = 12
_QUARANTINE = "quarantine"


@dataclass(frozen=True)
class Candidate:
    """A master that was looked at for an exposure."""

    entry: Entry
    misfits: tuple[str, ...]
    """Why it does not serve, in words; empty where it does."""
    chosen: bool


class CalibrationStore:
    """A folder of masters, one FITS file each, named by id. Files are never changed, only added.

    `lamps` says by band of which lamp the flat is to be. Masters that failed certification lie in ``quarantine``
    below, and no exposure gets them.
    """

    def __init__(self, root: Path, lamps: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.lamps = dict(lamps or {})
        self._entries: dict[str, Entry] = {}
        self._loaded: dict[str, Calibration] = {}
        self._lock = Lock()

    @property
    def aside(self) -> CalibrationStore:
        """The masters in quarantine, a store of its own."""
        return CalibrationStore(self.root / _QUARANTINE)

    def save(self, calibration: Calibration) -> Path:
        """Write the master as ``<id>.fits``, complete or not at all; saving it again changes nothing."""
        path = self.root / f"{calibration.id}.fits"
        if not path.exists():
            write_atomically(path, calibration_to_bytes(calibration))
        return path

    def accept(self, name: str) -> Path:
        """Take a master out of quarantine; raises DataError where it is not there."""
        path = self.save(self.aside.load(name))
        (self.aside.root / path.name).unlink()
        return path

    def load(self, name: str) -> Calibration:
        """Return the master with this id (the last few stay in memory); raises DataError where it is not there."""
        with self._lock:
            if name in self._loaded:
                self._loaded[name] = self._loaded.pop(name)
                return self._loaded[name]
            path = self.root / f"{name}.fits"
            self._loaded[name] = calibration_from_bytes(_bytes_of(path), str(path))
            while len(self._loaded) > _CACHED:
                del self._loaded[next(iter(self._loaded))]
            return self._loaded[name]

    def entries(self, kind: str = "", detector: int | None = None) -> list[Entry]:
        """Return what is there of a kind (default: all) and a detector (default: all), in order of validity."""
        pattern = f"{kind or '*'}-{'*' if detector is None else detector}-*.fits"
        found = [self._entry(path) for path in self.root.glob(pattern)]
        return sorted(found, key=lambda entry: (entry.kind, entry.detector, entry.validFrom, entry.id))

    def newest(self, kind: str, detector: int) -> Calibration | None:
        """Return the master of a kind and detector with the latest validFrom, of any band; None where there is none."""
        known = self.entries(kind, detector)
        return self.load(known[-1].id) if known else None

    def select(self, info: ExposureInfo, kinds: Iterable[str], layout: str) -> CalibrationSet:
        """Return for each kind the master valid at the exposure's midpoint, the one with the latest validFrom.

        `layout` is the fingerprint of the detector's amplifiers. Raises ConfigurationError naming what there is, why
        it does not serve, and the command that makes one.
        """
        return CalibrationSet({kind: self.load(self._best(info, kind, layout).id) for kind in kinds})

    def candidates(self, info: ExposureInfo, kind: str, layout: str) -> list[Candidate]:
        """Return every master of a kind and detector with the reasons why it serves the exposure or does not."""
        judged = [(entry, self._misfits(entry, info, layout)) for entry in self.entries(kind, info.detector)]
        fitting = [entry for entry, wrong in judged if not wrong]
        best = max(fitting, key=lambda entry: (entry.validFrom, entry.id), default=None)
        return [Candidate(entry, tuple(wrong), entry is best) for entry, wrong in judged]

    def _misfits(self, entry: Entry, info: ExposureInfo, layout: str) -> list[str]:
        lamp = self.lamps.get(info.band, "") if entry.kind == "flat" else ""
        other = [f"lamp {entry.lamp!r} instead of {lamp!r}"] if entry.lamp != lamp else []
        return misfits(entry, info, layout) + other

    def _best(self, info: ExposureInfo, kind: str, layout: str) -> Entry:
        known = self.candidates(info, kind, layout)
        for candidate in known:
            if candidate.chosen:
                return candidate.entry
        reasons = [f"{one.entry.id} ({'; '.join(one.misfits)})" for one in known]
        raise ConfigurationError(
            f"no {kind} for {info.instrument} detector {info.detector}"
            f"{f' band {info.band}' if kind in BAND_KINDS else ''} "
            f"at MJD {info.midpointMjdTai:.5f} (exposure {info.label}, {info.fileName}) in {self.root}; "
            f"there {'are: ' + ', '.join(reasons) if reasons else 'is none at all'}. "
            f"Make one with `skydelta calibrate {kind} FILES`"
        )

    def _entry(self, path: Path) -> Entry:
        if path.stem not in self._entries:
            try:
                header = fits.getheader(path, 0)
                self._entries[path.stem] = entry_of(header)
            except (OSError, KeyError, ValueError) as error:
                raise DataError(f"{path} is not a calibration that skydelta wrote: {error}") from error
        return self._entries[path.stem]


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"calibration {path} can't be read: {error.strerror}") from error
