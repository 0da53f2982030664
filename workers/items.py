"""What travels between the stages: typed items, and how each becomes a message and is read back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import schemas
from schemas.errors import SchemaError
from stream import codec
from stream.blobs import BlobStore
from workers.imaging import stamps as stamp_files
from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.fits import exposure_from_bytes, exposure_to_bytes
from workers.imaging.stamps import Stamps

__all__ = [
    "CalexpItem",
    "RawItem",
    "SourcesItem",
    "StageTime",
    "TemplateRecord",
    "decode",
    "encode",
    "ended_item",
    "info_of",
    "info_record",
    "payload_inline",
    "sources_item",
    "sources_record",
    "timed",
]

Record = dict[str, Any]

_INFO_FIELDS = (
    "instrument", "visit", "detector", "band", "midpointMjdTai", "exposureTime", "ra", "dec",
    "night", "kind", "sha256", "fileName", "target",
)  # fmt: skip


@dataclass(frozen=True)
class StageTime:
    """When a stage began (MJD TAI) and how long it took (seconds), by the wall clock."""

    stage: str
    beginMjdTai: float
    seconds: float


@dataclass(frozen=True)
class TemplateRecord:
    """Which template was subtracted: its id, epoch range (MJD TAI), epochs, 5-sigma depth (nJy), covered fraction."""

    templateId: str
    firstEpochMjdTai: float
    lastEpochMjdTai: float
    nEpochs: int
    depth: float
    coverage: float
    version: str | None = None
    """Of the templates; None in messages of older versions."""


@dataclass(frozen=True)
class RawItem:
    """A raw file on its way to `isr`."""

    info: ExposureInfo
    tile: int
    data: bytes
    stageTimes: tuple[StageTime, ...] = ()


@dataclass(frozen=True)
class CalexpItem:
    """A calibrated exposure on its way to `subtract`."""

    exposure: Exposure
    tile: int
    stageTimes: tuple[StageTime, ...] = ()

    @property
    def info(self) -> ExposureInfo:
        """Identity of the exposure."""
        return self.exposure.info


@dataclass(frozen=True)
class SourcesItem:
    """How a visit and detector ended: its difference-image sources, or why there are none."""

    info: ExposureInfo
    tile: int
    outcome: str
    """``ok``, ``no_template``, ``failed``, or the limit that the exposure did not keep (``bad_seeing`` ...)."""
    failure: str | None = None
    sources: NDArray[Any] | None = None
    stamps: Stamps | None = None
    template: TemplateRecord | None = None
    provenance: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    corners: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    psfLimit: float = float("nan")
    modelVersion: str | None = None
    stageTimes: tuple[StageTime, ...] = ()

    def rows(self) -> NDArray[Any]:
        """Return the sources, an empty array where there are none."""
        if self.sources is None:
            return np.zeros(0, schemas.table_dtype("alert", "diaSource"))
        return self.sources


Item = RawItem | CalexpItem | SourcesItem


def ended_item(exposure: Exposure, item: RawItem | CalexpItem, outcome: str, **more: Any) -> SourcesItem:
    """Return how a calibrated exposure ended, without sources; `more` fields of the item as far as they are known."""
    corners = tuple(tuple(axis.tolist()) for axis in exposure.need_wcs().footprint(exposure.shape))
    return SourcesItem(
        info=exposure.info,
        tile=item.tile,
        outcome=outcome,
        provenance=dict(exposure.provenance),
        metrics=dict(exposure.metrics),
        corners=(corners[0], corners[1]),
        stageTimes=item.stageTimes,
        **more,
    )


def info_record(info: ExposureInfo, tile: int) -> Record:
    """Return the identity fields that every message of the night carries."""
    record = {name: getattr(info, name) for name in _INFO_FIELDS}
    record["tile"] = tile
    return record


def info_of(record: Record) -> ExposureInfo:
    """Return the identity held in a decoded message."""
    return ExposureInfo(**{name: record[name] for name in _INFO_FIELDS})


def _times(item: Item) -> list[Record]:
    return [vars(time) for time in item.stageTimes]


def encode(item: Item, family: str, blobs: BlobStore) -> bytes:
    """Return the framed message of `item`; pixels go inline or to the blob store."""
    record = info_record(item.info, item.tile)
    if isinstance(item, RawItem):
        record["raw"] = blobs.payload(item.data)
    elif isinstance(item, CalexpItem):
        record |= {
            "pixels": blobs.payload(exposure_to_bytes(item.exposure)),
            "provenance": dict(item.exposure.provenance),
            "metrics": dict(item.exposure.metrics),
            "stageTimes": _times(item),
        }
    else:
        record = sources_record(item, lambda stamps: blobs.payload(stamp_files.to_bytes(stamps)))
        if family == "scored":
            record["modelVersion"] = item.modelVersion
    return codec.encode(family, record)


def payload_inline(data: bytes) -> Record:
    """Return a payload record that carries its bytes, whatever their number (for files, not for the bus)."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "inline": data}


def sources_record(item: SourcesItem, payload: Callable[[Stamps], Record]) -> Record:
    """Return the Avro record of `item`; `payload` says how the stamps travel."""
    return {
        **info_record(item.info, item.tile),
        "outcome": item.outcome,
        "failure": item.failure,
        "provenance": item.provenance,
        "metrics": item.metrics,
        "template": None if item.template is None else vars(item.template),
        "cornersRa": list(item.corners[0]),
        "cornersDec": list(item.corners[1]),
        "psfLimit": item.psfLimit,
        "sources": schemas.rows_to_records(item.rows()),
        "stamps": None if item.stamps is None else payload(item.stamps),
        "stageTimes": _times(item),
    }


def decode(data: bytes, blobs: BlobStore) -> Item:
    """Read a message back into its item; raises SchemaError where it is none of the night's families."""
    decoded = codec.decode(data)
    record = decoded.record
    if decoded.family == "exposure":
        return RawItem(info_of(record), record["tile"], blobs.open_payload(record["raw"]))
    if decoded.family == "calexp":
        exposure = exposure_from_bytes(blobs.open_payload(record["pixels"]), info_of(record).label)
        return CalexpItem(exposure, record["tile"], _stage_times(record))
    if decoded.family in ("diasources", "scored"):
        return sources_item(record, blobs)
    raise SchemaError(f"a message of family {decoded.family!r} has no place here; is the topic the right one?")


def sources_item(record: Record, blobs: BlobStore) -> SourcesItem:
    """Return the item of a decoded ``diasources`` or ``scored`` record; stamps come from the payload."""
    template = record["template"]
    stamps = record["stamps"]
    return SourcesItem(
        info=info_of(record),
        tile=record["tile"],
        outcome=record["outcome"],
        failure=record["failure"],
        sources=schemas.records_to_rows(record["sources"], schemas.table_dtype("alert", "diaSource")),
        stamps=None if stamps is None else stamp_files.from_bytes(blobs.open_payload(stamps)),
        template=None if template is None else TemplateRecord(**template),
        provenance=record["provenance"],
        metrics=record["metrics"],
        corners=(tuple(record["cornersRa"]), tuple(record["cornersDec"])),
        psfLimit=record["psfLimit"],
        modelVersion=record.get("modelVersion"),
        stageTimes=_stage_times(record),
    )


def _stage_times(record: Record) -> tuple[StageTime, ...]:
    return tuple(StageTime(**time) for time in record["stageTimes"])


def timed(item: Item, stage: str, begin: float, end: float) -> Item:
    """Return `item` with one more stage time; `begin` and `end` are MJD TAI."""
    return replace(item, stageTimes=(*item.stageTimes, StageTime(stage, begin, (end - begin) * 86400.0)))
