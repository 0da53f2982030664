"""The associate worker: announcements and scored sources in, alerts out, one database transaction per message."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.errors import DataError, SchemaError
from stream import codec
from stream.blobs import BlobStore
from stream.bus import Message, Outgoing
from stream.dead_letters import DeadLetters, Failure
from stream.topics import Topics
from workers.associate.exposure import Ended, ExposureAssociation
from workers.associate.line import Rules
from workers.associate.turns import Key, MoreTilesError, Turns
from workers.clock import Clock
from workers.database import Announcement, DiaDatabase, Position, StoredOutput
from workers.survey.config import Survey
from workers.worker import INPUTS

__all__ = ["GROUP", "AssociateWorker", "rules_of"]

GROUP = "associate"


def rules_of(survey: Survey) -> Rules:
    """Return when visits close, from survey.toml."""
    config = survey.config.associate
    return Rules(round(config.deadline_s * 1000.0), round(config.reorder_s * 1000.0))


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

    @property
    def inputs(self) -> tuple[str, ...]:
        """The topics of announcements and of scored sources."""
        return tuple(self.topics.name(topic) for topic in INPUTS["associate"])

    def process(self, message: Message) -> list[Outgoing]:
        """Apply one message and return the outputs of every exposure that came to its turn by it."""
        position = Position(self.group, message.topic, message.partition, message.offset)
        held: frozenset[int] = frozenset()
        while True:
            try:
                outputs = self._transact(position, message, held)
            except MoreTilesError as more:
                held |= more.tiles
            else:
                return [Outgoing(o.topic, o.key, o.value, o.timestamp, o.headers) for o in outputs]

    def flush(self) -> None:
        """Do nothing: each message's transaction is durable when `process` returns."""

    def failed(self, message: Message, failure: str) -> list[Outgoing]:
        """Return nothing: the dead letter is the outcome here."""
        return []

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
            moved = turns.pass_time(decoded.record["night"], decoded.record["timestamp"])
        elif decoded.family == "scored":
            moved = turns.deliver(decoded.record, message.value)
        else:
            raise SchemaError(f"a message of family {decoded.family!r} has no place on {message.topic}")
        return self._associate_ready(moved, message, turns)

    def _associate_ready(self, candidates: Sequence[Key], message: Message, turns: Turns) -> list[StoredOutput]:
        """Associate those of `candidates` whose turn it is, and those behind them whose turn it becomes by that."""
        outputs: list[StoredOutput] = []
        queue = deque(candidates)
        while queue:
            ready = turns.ready(queue.popleft())
            if ready is not None:
                outputs += self._finish(*ready, message)
                queue += turns.behind(ready[0])
        return outputs

    def _finish(self, exposure: Announcement, value: bytes, message: Message) -> Sequence[StoredOutput]:
        """Associate the exposure whose turn it is, and write how it ended."""
        work = ExposureAssociation(self.survey, self.topics, self.blobs, self.database, self.clock)
        try:
            done = work.run(value, late=exposure.late)
        except DataError as error:
            failure = Failure(self.name, type(error).__name__, str(error), 1)
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
