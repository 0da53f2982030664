"""One exposure's turn: look up what is known, associate its sources, pack its alerts, store its rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import SchemaError
from stream import codec
from stream.blobs import BlobStore
from stream.topics import Topics
from workers.alert.cutout import wcs_cards
from workers.alert.local_wcs import local_matrices
from workers.alert.packing import encode_alerts
from workers.alert.pipeline import AlertContext
from workers.alert.rows import AlertRows
from workers.associate.pipeline import Association, associate
from workers.clock import Clock
from workers.database import EXPOSURE_DTYPE, DiaDatabase, StoredOutput
from workers.items import SourcesItem, StageTime, decode
from workers.survey.config import Survey
from workers.version import code_version
from workers.worker import closing_time, quality_record

__all__ = ["Ended", "ExposureAssociation", "OwnLight"]

_STAGE = "associate"

OwnLight = Callable[[SourcesItem, AlertRows], NDArray[Any]]
"""Returns the sources of the alerts with the columns of their own light filled."""


@dataclass(frozen=True)
class Ended:
    """How one exposure ended."""

    outcome: str
    alerts: int
    outputs: Sequence[StoredOutput]
    """Its alerts in the order of their ids, and its quality record."""
    processedMjdTai: float


@dataclass(frozen=True)
class ExposureAssociation:
    """Associates exposures within the database transaction that is open."""

    survey: Survey
    topics: Topics
    blobs: BlobStore
    database: DiaDatabase
    clock: Clock
    own_light: OwnLight | None = None
    """Fills the columns of the sources' own light in their template; the alert-worthy ones alone are looked at."""

    def run(self, value: bytes, *, late: bool) -> Ended:
        """Associate the exposure of a scored message; raises DataError, with nothing stored, where that can't be."""
        begin = self.clock()
        item = decode(value, self.blobs)
        if not isinstance(item, SourcesItem):
            raise SchemaError(f"visit {item.info.label}: the message kept for it holds no sources")
        if item.outcome != "ok":
            return Ended(item.outcome, 0, [self._quality(item, item.outcome, begin, 0)], begin)
        exposure = self._exposure_row(item)
        result = self._linked(item, exposure[0])
        if self.own_light is not None:
            result = result.with_alert_sources(self.own_light(item, result.alerts))
        packets = self._packets(item, result.alerts, late=late)
        self.database.store(result.objects, result.sources, exposure)  # last: an alert that fails leaves no rows
        outcome = "alerts" if packets else "no_alerts"
        now = self.clock()
        headers = _headers(item, StageTime(_STAGE, begin, (now - begin) * 86400.0), now)
        outputs = [
            StoredOutput(
                self.topics.name("alerts"),
                str(row["diaObjectId"]).encode(),
                packet,
                closing_time(item),
                {"alertId": str(row["diaSourceId"]).encode(), **headers},
            )
            for row, packet in zip(result.alerts.sources, packets, strict=bool(packets))
        ]
        return Ended(outcome, len(packets), [*outputs, self._quality(item, outcome, begin, len(packets))], now)

    def _linked(self, item: SourcesItem, row: Any) -> Association:
        """Look up what is known round the sources, and associate; alerts show it as of this visit."""
        config, info, sources = self.survey.config.associate, item.info, item.rows()
        before = (info.midpointMjdTai, info.visit)
        since = info.midpointMjdTai - config.history_days
        objects = self.database.objects_near(sources["ra"], sources["dec"], config.radius_arcsec)
        history = self.database.history(objects["diaObjectId"].tolist(), -np.inf, (np.inf, 0))
        span = float(np.ptp(row["cornersDec"])) + 1.0
        centre = float(row["cornersRa"][0]), float(np.mean(row["cornersDec"]))
        return associate(
            sources,
            objects,
            history,
            self.database.exposures_near(*centre, 2.0 * span, since, before),
            radius=config.radius_arcsec,
            min_reliability=self._threshold(item),
            since=since,
            before=before,
        )

    def _threshold(self, item: SourcesItem) -> float:
        chosen = self.survey.config.associate.min_reliability
        return item.metrics.get("reliabilityThreshold", 0.0) if chosen is None else chosen

    def _exposure_row(self, item: SourcesItem) -> np.ndarray[Any, Any]:
        row = np.zeros(1, EXPOSURE_DTYPE)
        for name in ("visit", "detector", "midpointMjdTai", "band"):
            row[name] = getattr(item.info, name)
        row["psfLimit"] = item.psfLimit
        row["cornersRa"], row["cornersDec"] = item.corners
        return row

    def _packets(self, item: SourcesItem, alerts: AlertRows, *, late: bool) -> list[bytes]:
        """Pack the alerts of one exposure, in their order."""
        if len(alerts.sources) == 0 or item.stamps is None:
            return []
        rows, detector = alerts.sources, self.survey.camera.detector(item.info.detector)
        matrices = local_matrices(rows["x"], rows["y"], *item.corners, (detector.height, detector.width))
        size = item.stamps.difference.shape[1]
        places = zip(*(rows[name].astype(float).tolist() for name in ("ra", "dec", "x", "y")), matrices, strict=True)
        cards = [wcs_cards(ra, dec, x, y, matrix, size) for ra, dec, x, y, matrix in places]
        return encode_alerts(alerts, item.stamps, cards, _context(item, late=late))

    def _quality(self, item: SourcesItem, outcome: str, begin: float, alerts: int) -> StoredOutput:
        """Return what the quality topic is told of this stage."""
        times = [StageTime(_STAGE, begin, (self.clock() - begin) * 86400.0)]
        record = quality_record(item.info, _STAGE, outcome, {"alerts": float(alerts)}, times)
        value = codec.encode("quality", record)
        return StoredOutput(self.topics.name("quality"), item.info.label.encode(), value, closing_time(item))


def _context(item: SourcesItem, *, late: bool) -> AlertContext:
    return AlertContext(
        instrument=item.info.instrument,
        night=item.info.night,
        codeVersion=code_version(),
        target=item.info.target,
        modelVersion=item.modelVersion,
        template=None if item.template is None else vars(item.template),
        calibrations=item.provenance,
        late=late,
    )


def _headers(item: SourcesItem, time: StageTime, now: float) -> dict[str, bytes]:
    """Return what the clock said: it travels beside the packet, whose bytes are the same in every run."""
    times = [[one.stage, one.beginMjdTai, one.seconds] for one in (*item.stageTimes, time)]
    return {
        "night": str(item.info.night).encode(),
        "stageTimes": json.dumps(times).encode(),
        "timeProcessedMjdTai": repr(now).encode(),
    }
