"""Announce raw files to the night: each becomes an announcement and an exposure message, or a dead letter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ConflictError, DataError
from stream import codec
from stream.blobs import BlobStore
from stream.bus import Bus, Message, Outgoing
from stream.dead_letters import DeadLetters, Failure
from stream.topics import Topics
from workers.clock import event_timestamp
from workers.database import DiaDatabase
from workers.imaging.exposure import ExposureInfo, RawExposure
from workers.ingest.pipeline import detector_reach, read_exposure, sky_tile, tiles_touched
from workers.items import RawItem, encode, info_record
from workers.survey.config import Survey
from workers.worker import closing_time

__all__ = ["Ingest", "Ingested"]


@dataclass(frozen=True)
class Ingested:
    """How one file ended: ``announced``, ``same`` (seen before), ``not science`` or ``dead letter``."""

    path: Path
    outcome: str
    info: ExposureInfo | None = None
    reason: str = ""


@dataclass(frozen=True)
class _Place:
    """Where an exposure looks: the sky tile of its centre, and all tiles that its footprint touches."""

    tile: int
    tiles: tuple[int, ...]


_Read = tuple[Path, ExposureInfo, _Place]


@dataclass
class Ingest:
    """Publishes raw files in the order of their times; what can't be read goes to the dead letters."""

    survey: Survey
    bus: Bus
    topics: Topics
    blobs: BlobStore
    database: DiaDatabase
    dead_letters: DeadLetters

    def files(self, paths: Iterable[Path]) -> list[Ingested]:
        """Ingest files; those of one call are published in the order of (midpoint, visit, detector)."""
        read = [self._read(path) for path in sorted(paths)]
        good = [item for item in read if isinstance(item, tuple)]
        good.sort(key=lambda item: (item[1].midpointMjdTai, item[1].visit, item[1].detector))
        done = [item for item in read if isinstance(item, Ingested)]
        return done + [self._publish(*item) for item in good]

    def _read(self, path: Path) -> Ingested | _Read:
        """Identity and place of one file; pixels are read again when it is published, to bound the memory."""
        data = b""
        try:
            data = path.read_bytes()
            raw = read_exposure(data, path.name, self.survey.camera)
            if raw.info.kind != "science":
                return Ingested(path, "not science", raw.info, f"{raw.info.kind}: see `skydelta calibrate`")
            return path, raw.info, self._place(raw)
        except OSError as error:
            raise DataError(f"{path} can't be read: {error.strerror}; nothing was published for it") from error
        except DataError as error:
            return self._refuse(path, data, error)

    def _place(self, raw: RawExposure) -> _Place:
        """The margin is the largest pointing error that is solved, and room for objects that sources match to."""
        config = self.survey.config
        search = config.characterize.astrometry.search_radius_pixels
        ra, dec, reach = detector_reach(raw, self.survey.camera, margin=search)
        around = 2.0 * config.associate.radius_arcsec / 3600.0
        return _Place(sky_tile(ra, dec), tiles_touched(ra, dec, reach + around))

    def _publish(self, path: Path, info: ExposureInfo, place: _Place) -> Ingested:
        """Announcement and exposure in one transaction, unless the visit and detector is known already."""
        known = self.database.announced(info.visit, info.detector)
        if known is not None and known.sha256 == info.sha256:
            return Ingested(path, "same", info, f"visit {info.label} was ingested before, with the same bytes")
        data = path.read_bytes()
        if known is not None:
            text = (
                f"{path.name}: visit {info.label} was ingested before with other bytes (sha256 {known.sha256[:12]}, "
                f"now {info.sha256[:12]}); the first one stands. Give the exposure its own visit number"
            )
            return self._refuse(path, data, ConflictError(text), info)
        item = RawItem(info, place.tile, data)
        expected = [detector.id for detector in self.survey.camera.detectors if detector.expected]
        announcement = info_record(info, place.tile) | {"tiles": list(place.tiles), "expected": expected}
        time = closing_time(item)
        exposure = encode(item, "exposure", self.blobs)
        self.bus.publish(
            [
                Outgoing(self.topics.name("visits"), info.label.encode(), codec.encode("visit", announcement), time),
                Outgoing(self.topics.name("exposures"), info.label.encode(), exposure, time),
            ]
        )
        return Ingested(path, "announced", info)

    def _refuse(self, path: Path, data: bytes, error: DataError, info: ExposureInfo | None = None) -> Ingested:
        key = info.label if info else path.name
        now = event_timestamp(self.dead_letters.clock())
        message = Message(topic="", partition=-1, offset=-1, key=key.encode(), value=data, timestamp=now)
        self.bus.publish([self.dead_letters.write(message, Failure("ingest", type(error).__name__, str(error), 1))])
        return Ingested(path, "dead letter", info, str(error))
