"""The associate worker: scored sources in, alerts out, one database transaction per message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from schemas.errors import ConflictError, DataError, SchemaError
from stream import codec
from stream.blobs import BlobStore
from stream.bus import Message, Outgoing
from stream.dead_letters import DeadLetters, Failure
from stream.topics import Topics
from workers.alert.cutout import cutouts, wcs_cards
from workers.alert.local_wcs import local_matrices
from workers.alert.pipeline import AlertContext, AlertParts, grouped_records, object_record, pack_alert
from workers.associate.pipeline import Association, associate
from workers.clock import Clock
from workers.database import EXPOSURE_DTYPE, Announcement, DiaDatabase, Position, StoredOutput
from workers.items import SourcesItem, StageTime, decode, info_of
from workers.survey.config import Survey
from workers.version import code_version
from workers.worker import closing_time

__all__ = ["GROUP", "AssociateWorker"]

GROUP = "associate"


@dataclass
class AssociateWorker:
    """Announcements give the order, scored messages the sources; a tile's exposures are associated in that order.

    What a message changes in the database, its position, and the outputs it gives are one transaction. A message seen
    before gives its remembered outputs again, byte for byte (see `workers.database`).
    """

    survey: Survey
    topics: Topics
    blobs: BlobStore
    database: DiaDatabase
    dead_letters: DeadLetters
    clock: Clock
    group: str = GROUP
    name: str = "associate"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The topic of announcements and scored sources."""
        return (self.topics.name("scored"),)

    def process(self, message: Message) -> list[Outgoing]:
        """Apply one message and return the outputs of every exposure that came to its turn by it."""
        position = Position(self.group, message.topic, message.partition, message.offset)
        with self.database.transaction():
            outputs = self.database.applied(position)
            if outputs is None:
                outputs = self._apply(message)
                self.database.remember(position, outputs)
        return [Outgoing(output.topic, output.key, output.value, output.timestamp) for output in outputs]

    def failed(self, message: Message, failure: str) -> list[Outgoing]:
        """Return nothing: the dead letter is the outcome here."""
        return []

    def _apply(self, message: Message) -> list[StoredOutput]:
        decoded = codec.decode(message.value)
        if decoded.family not in ("visit", "scored"):
            raise SchemaError(f"a message of family {decoded.family!r} has no place on {message.topic}")
        info, tile = info_of(decoded.record), int(decoded.record["tile"])
        if decoded.family == "visit":
            announcement = Announcement(info.visit, info.detector, tile, info.midpointMjdTai, info.sha256, info.night)
            if self.database.announce(announcement) == "conflict":
                raise ConflictError(
                    f"visit {info.label} ({info.fileName}) was announced before with other bytes; the first stands. "
                    "Give the exposure its own visit number and ingest it again"
                )
            return []
        known = self.database.announced(info.visit, info.detector)
        if known is None:
            raise DataError(
                f"scored visit {info.label} was never announced; was it published without `skydelta ingest`?"
            )
        if known.sha256 != info.sha256:
            return []  # its announcement is among the dead letters as a conflict
        late = known.outcome == "failed" and decoded.record["outcome"] != "failed"
        if late:  # a dead letter was retried with success: its turn is now, after others that were later
            self.database.reopen(info.visit, info.detector)
        self.database.deliver(info.visit, info.detector, message.value)
        outputs: list[StoredOutput] = []
        while (ready := self.database.next_ready(tile)) is not None:
            mine = (ready[0].visit, ready[0].detector) == (info.visit, info.detector)
            outputs += self._close(*ready, message, late=late and mine)
        return outputs

    def _close(self, announcement: Announcement, value: bytes, message: Message, *, late: bool) -> list[StoredOutput]:
        """Associate the exposure whose turn it is, and write how it ended."""
        try:
            outcome, alerts = self._associate(value, late=late)
        except DataError as error:
            kept = replace(message, key=f"{announcement.visit}:{announcement.detector}".encode(), value=value)
            letter = self.dead_letters.write(kept, Failure(self.name, type(error).__name__, str(error), 1))
            outcome, alerts = "failed", []
            outputs = [StoredOutput(letter.topic, letter.key, letter.value, letter.timestamp)]
        else:
            outputs = alerts
        self.database.close_visit(announcement.visit, announcement.detector, outcome, len(alerts))
        return outputs

    def _associate(self, value: bytes, *, late: bool) -> tuple[str, list[StoredOutput]]:
        begin = self.clock()
        item = decode(value, self.blobs)
        if not isinstance(item, SourcesItem):
            raise SchemaError(f"visit {item.info.label}: the message kept for it holds no sources")
        if item.outcome != "ok":
            return item.outcome, []
        exposure = self._exposure_row(item)
        result = self._linked(item, exposure[0])
        now = self.clock()
        result.sources["timeProcessedMjdTai"] = now
        time = StageTime(self.name, begin, (now - begin) * 86400.0)
        alerts = self._alerts(item, result, _context(item, time, late=late))
        self.database.store(result.objects, result.sources, exposure)  # last: an alert that fails leaves no rows
        return ("alerts" if alerts else "no_alerts"), alerts

    def _linked(self, item: SourcesItem, row: Any) -> Association:
        """Look up what is known round the sources, as of this visit, and associate."""
        config, info, sources = self.survey.config.associate, item.info, item.rows()
        before = (info.midpointMjdTai, info.visit)
        since = info.midpointMjdTai - config.history_days
        objects = self.database.objects_near(sources["ra"], sources["dec"], config.radius_arcsec)
        history = self.database.history(objects["diaObjectId"].tolist(), -np.inf, before)
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

    def _alerts(self, item: SourcesItem, result: Association, context: AlertContext) -> list[StoredOutput]:
        """Pack the alerts of one exposure, in the order of their ids."""
        if not result.alerts or item.stamps is None:
            return []
        chosen = np.array([alert.index for alert in result.alerts])
        records = grouped_records([result.sources[chosen]])[0]
        previous = grouped_records([alert.previous for alert in result.alerts])
        cards = self._wcs_cards(item, result, chosen)
        outputs = []
        for i, alert in enumerate(result.alerts):
            parts = AlertParts(
                previous=previous[i],
                limits=alert.limits,
                diaObject=object_record(alert.object, alert.bands),
                cutouts=cutouts(item.stamps, alert.index, cards[i]),
            )
            value = codec.encode("alert", pack_alert(records[i], parts, context))
            key = str(records[i]["diaObjectId"]).encode()
            outputs.append(StoredOutput(self.topics.name("alerts"), key, value, closing_time(item)))
        return outputs

    def _wcs_cards(self, item: SourcesItem, result: Association, chosen: np.ndarray[Any, Any]) -> Sequence[bytes]:
        detector = self.survey.camera.detector(item.info.detector)
        rows = result.sources[chosen]
        matrices = local_matrices(rows["x"], rows["y"], *item.corners, (detector.height, detector.width))
        size = item.stamps.difference.shape[1] if item.stamps is not None else 0
        places = zip(*(rows[name].astype(float).tolist() for name in ("ra", "dec", "x", "y")), matrices, strict=True)
        return [wcs_cards(ra, dec, x, y, matrix, size) for ra, dec, x, y, matrix in places]


def _context(item: SourcesItem, time: StageTime, *, late: bool) -> AlertContext:
    return AlertContext(
        instrument=item.info.instrument,
        night=item.info.night,
        codeVersion=code_version(),
        target=item.info.target,
        modelVersion=item.modelVersion,
        template=None if item.template is None else vars(item.template),
        calibrations=item.provenance,
        stageTimes=[vars(stage) for stage in (*item.stageTimes, time)],
        late=late,
    )
