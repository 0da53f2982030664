"""The associate worker: announcements and scored sources in, alerts out, one database transaction per message."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from schemas.errors import DataError, SchemaError
from stream import codec
from stream.blobs import BlobStore
from stream.bus import Message, Outgoing
from stream.dead_letters import DeadLetters, Failure
from stream.topics import Topics
from workers.alert.rows import AlertRows
from workers.associate.exposure import Ended, ExposureAssociation
from workers.associate.line import Rules
from workers.associate.turns import Key, MoreTilesError, Turns
from workers.clock import Clock
from workers.database import Announcement, DiaDatabase, Position, StoredOutput
from workers.imaging.tracts import Tessellation
from workers.items import SourcesItem
from workers.survey.config import Survey
from workers.templates.airmass_cells import Telescope, telescope_of
from workers.templates.own_light import with_own_light
from workers.templates.store import TemplateStore
from workers.templates.warps import WarpStore
from workers.worker import INPUTS

__all__ = ["GROUP", "AssociateWorker", "rules_of"]

GROUP = "associate"

_MOST_BYTES = 64 * 2**20
"""Of the outputs of one message; the exposure that passes it is the last."""

_BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What nobody foresaw costs its own exposure: not the message that brought its turn, nor those behind it."""


def rules_of(survey: Survey) -> Rules:
    """Return when visits close, from survey.toml."""
    config = survey.config.associate
    return Rules(round(config.deadline_s * 1000.0), round(config.reorder_s * 1000.0))


class TemplateLight:
    """What the templates of a survey hold of the sources that are compared with them."""

    def __init__(self, store: TemplateStore, telescope: Telescope | None = None) -> None:
        self._store = store
        self._telescope = telescope
        self._warps: dict[Tessellation, WarpStore] = {}

    def __call__(self, item: SourcesItem, alerts: AlertRows) -> Any:
        """Return the sources of the alerts with the columns of their own light; as they are where no version is."""
        used = item.template
        if used is None or used.version is None or not self._store.holds(used.version):
            return alerts.sources
        manifest = self._store.manifest(used.version)
        if manifest is None:
            return alerts.sources
        warps = self._warps.setdefault(manifest.grid, WarpStore(self._store.warps, manifest.grid))

        def unseen(place: int) -> Any:
            return alerts.exposures[alerts.limits.part(place, place + 1).rows]

        where = self._store, manifest, warps.block
        rows = alerts.sources, alerts.objects, alerts.previous
        return with_own_light(*rows, unseen, where, used.lastEpochMjdTai, self._telescope)


def _light_of(survey: Survey) -> TemplateLight:
    return TemplateLight(TemplateStore(survey.templates), telescope_of(survey.camera, survey.config.templates))


@dataclass
class AssociateWorker:
    """Announcements form one line in the order in which visits close; scored messages bring the sources.

    An exposure is associated when its sources are here and no open one before it in the line shares a sky tile with
    it, by whichever worker made that true. What a message changes in the database, its position, and the outputs it
    gives are one transaction; a message seen before gives its remembered outputs again, byte for byte.
    """

    survey: Survey
    topics: Topics
    blobs: BlobStore
    database: DiaDatabase
    dead_letters: DeadLetters
    clock: Clock
    group: str = GROUP
    name: str = "associate"
    light: TemplateLight | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The topics of announcements and of scored sources."""
        return tuple(self.topics.name(topic) for topic in INPUTS["associate"])

    def process(self, message: Message) -> list[Outgoing]:
        """Apply one message and return the outputs of every exposure that came to its turn by it."""
        position = self._position(message)
        held: frozenset[int] = frozenset()
        while True:
            try:
                outputs = self._transact(position, message, held)
            except MoreTilesError as more:
                held |= more.tiles
            else:
                return [Outgoing(o.topic, o.key, o.value, o.timestamp, o.headers) for o in outputs]

    def committed(self, messages: Sequence[Message]) -> None:
        """Forget the outputs of messages that the bus has committed."""
        last = {(message.topic, message.partition): message for message in messages}
        with self.database.transaction():
            for message in last.values():
                self.database.settle(self._position(message))

    def flush(self) -> None:
        """Do nothing: each message's transaction is durable when `process` returns."""

    def failed(self, message: Message, failure: str) -> list[Outgoing]:
        """End the exposure of a scored message that can't be processed as ``failed``; its letter is all that goes out.

        What killed the worker, or what nobody foresaw, must not hold up those behind it in the line.
        """
        with suppress(SchemaError):
            decoded = codec.decode(message.value)
            if decoded.family == "scored":
                self._give_up((decoded.record["visit"], decoded.record["detector"]))
        return []

    def _give_up(self, key: Key) -> None:
        exposure = self.database.announced(*key)
        if exposure is not None and exposure.outcome == "open":
            with self.database.transaction(exposure.tiles):
                self.database.finish(*key, "failed", 0, self.clock())

    def _position(self, message: Message) -> Position:
        return Position(self.group, message.topic, message.partition, message.offset, message.timestamp)

    def _transact(self, position: Position, message: Message, held: frozenset[int]) -> list[StoredOutput]:
        with self.database.transaction(held):
            outputs = self.database.applied(position)
            if outputs is None:
                outputs = self._apply(message, Turns(self.database, rules_of(self.survey), held))
                self.database.remember(position, outputs)
        return outputs

    def _apply(self, message: Message, turns: Turns) -> list[StoredOutput]:
        decoded = codec.decode(message.value)
        if decoded.family == "visit":
            moved = turns.announce(decoded.record, message.timestamp)
        elif decoded.family == "tick":
            moved = turns.pass_time(decoded.record["night"], decoded.record["timestamp"]) + turns.firsts()
        elif decoded.family == "scored":
            moved = turns.deliver(decoded.record, message.value)
        else:
            raise SchemaError(f"a message of family {decoded.family!r} has no place on {message.topic}")
        return self._associate_ready(moved, message, turns)

    def _associate_ready(self, candidates: Sequence[Key], message: Message, turns: Turns) -> list[StoredOutput]:
        """Associate those of `candidates` whose turn it is, and those behind them whose turn it becomes by that.

        A transaction can't take without end: those left are found by the next message of their tiles, or by a tick.
        """
        outputs: list[StoredOutput] = []
        queue, size = deque(candidates), 0
        while queue and size < _MOST_BYTES:
            ready = turns.ready(queue.popleft())
            if ready is not None:
                done = self._finish(*ready, message)
                outputs += done
                size += sum(len(output.value) for output in done)
                queue += turns.behind(ready[0])
        return outputs

    def _finish(self, exposure: Announcement, value: bytes, message: Message) -> Sequence[StoredOutput]:
        """Associate the exposure whose turn it is, and write how it ended."""
        light = _light_of(self.survey) if self.light is None else self.light
        self.light = light
        work = ExposureAssociation(self.survey, self.topics, self.blobs, self.database, self.clock, light)
        try:
            done = work.run(value, late=exposure.late)
        except (DataError, *_BUGS) as error:
            trace = None if isinstance(error, DataError) else "".join(traceback.format_exception(error))
            failure = Failure(self.name, type(error).__name__, str(error) or repr(error), 1, trace)
            letter = self.dead_letters.write(self._kept(exposure, value, message), failure)
            output = StoredOutput(letter.topic, letter.key, letter.value, letter.timestamp)
            done = Ended("failed", 0, [output], self.clock())
        self.database.finish(exposure.visit, exposure.detector, done.outcome, done.alerts, done.processedMjdTai)
        return done.outputs

    def _kept(self, exposure: Announcement, value: bytes, message: Message) -> Message:
        """Return the scored message that was kept until its turn, which `message` may have brought."""
        if message.value == value:
            return message
        return Message(self.topics.name("scored"), -1, -1, str(exposure.tile).encode(), value, message.timestamp)
