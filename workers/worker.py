"""What the workers of the pixel stages share: chaining stages in one process, messages in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from schemas.errors import SkydeltaError
from stream import codec
from stream.blobs import BlobStore
from stream.bus import Message, Outgoing
from stream.topics import Topics
from workers.clock import Clock, event_timestamp
from workers.imaging.exposure import ExposureInfo
from workers.items import CalexpItem, RawItem, SourcesItem, StageTime, decode, encode, info_of, timed

__all__ = ["INPUTS", "NEXT", "PixelWorker", "Stage", "closing_time", "quality_record"]

NEXT = {"isr": ("calexps", "calexp"), "subtract": ("diasources", "diasources"), "score": ("scored", "scored")}
"""Topic and message family that each pixel stage publishes."""

INPUTS = {
    "isr": ("exposures",),
    "subtract": ("calexps",),
    "score": ("diasources",),
    "associate": ("visits", "scored"),
    "archive": ("alerts",),
}
"""Topics that each stage reads, in the order of the night."""

Item = RawItem | CalexpItem | SourcesItem


class Stage(Protocol):
    """One step of the night with its configuration bound: an item in, an item out."""

    name: str

    def process(self, item: Any) -> Item:
        """Return what the stage makes of `item`; raises DataError for an input that can't be processed."""


def closing_time(item: Item) -> int:
    """Return the time of shutter closing as a message timestamp: event time, the same in every run."""
    return event_timestamp(item.info.midpointMjdTai + 0.5 * item.info.exposureTime / 86400.0)


def quality_record(
    info: ExposureInfo, stage: str, outcome: str, metrics: Mapping[str, float], times: Sequence[StageTime]
) -> dict[str, Any]:
    """Return the record of the family ``quality`` that says how one stage went for one exposure."""
    return {
        "visit": info.visit,
        "detector": info.detector,
        "night": info.night,
        "stage": stage,
        "outcome": outcome,
        "metrics": {name: float(value) for name, value in metrics.items()},
        "stageTimes": [vars(time) for time in times],
    }


@dataclass
class PixelWorker:
    """Adjacent pixel stages fused in one process: they hand items on without a hop over the bus."""

    stages: Sequence[Stage]
    topics: Topics
    blobs: BlobStore
    clock: Clock

    @property
    def name(self) -> str:
        """Names of the stages, joined as on the command line."""
        return "+".join(stage.name for stage in self.stages)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The one topic that this worker reads."""
        return tuple(self.topics.name(topic) for topic in INPUTS[self.stages[0].name])

    def process(self, message: Message) -> list[Outgoing]:
        """Run the stages on one message; an exposure that ends early (bad seeing, no template) skips the rest."""
        item = decode(message.value, self.blobs)
        outgoing = []
        for stage in self.stages:
            begin = self.clock()
            item = timed(stage.process(item), stage.name, begin, self.clock())
            outgoing.append(self._quality(item, stage.name))
            if isinstance(item, SourcesItem) and item.outcome != "ok":
                return [*outgoing, self._outgoing(item, "score")]
        return [*outgoing, self._outgoing(item, self.stages[-1].name)]

    def committed(self, messages: Sequence[Message]) -> None:
        """Do nothing: nothing is remembered here."""

    def flush(self) -> None:
        """Do nothing: blobs are durable when they are put."""

    def failed(self, message: Message, failure: str) -> list[Outgoing]:
        """Return the ``failed`` outcome that closes the visit and detector of a message that became a dead letter."""
        try:
            record = codec.decode(message.value).record
            item = SourcesItem(info_of(record), record["tile"], outcome="failed", failure=failure)
        except (SkydeltaError, KeyError):
            return []  # bytes that name no exposure: the dead letter is all there is to say
        return [self._outgoing(item, "score")]

    def _outgoing(self, item: Item, stage: str) -> Outgoing:
        topic, family = NEXT[stage]
        key = str(item.tile) if topic == "scored" else item.info.label
        value = encode(item, family, self.blobs)
        return Outgoing(self.topics.name(topic), key.encode(), value, closing_time(item))

    def _quality(self, item: Item, stage: str) -> Outgoing:
        metrics = item.exposure.metrics if isinstance(item, CalexpItem) else getattr(item, "metrics", {})
        outcome = item.outcome if isinstance(item, SourcesItem) else "ok"
        value = codec.encode("quality", quality_record(item.info, stage, outcome, metrics, item.stageTimes))
        return Outgoing(self.topics.name("quality"), item.info.label.encode(), value, closing_time(item))
