"""All alerts of one exposure as framed messages: encoded table by table, spliced alert by alert."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

import schemas
from schemas import RowGroups, encode_fields, encode_long, encode_rows
from workers.alert.cutout import blank_file, write_files
from workers.alert.pipeline import AlertContext, object_rows, shared_values
from workers.alert.rows import AlertRows
from workers.imaging.stamps import Stamps

__all__ = ["encode_alerts"]

_AT_ONCE = 64
"""Alerts packed in one go, so that what they are made of stays in the processor's cache."""

_NULL, _VALUE = encode_long(0), encode_long(1)
"""Branches of the packet's own unions, which are all ["null", ...]."""

_END = encode_long(0)
"""What stands after the last block of an array."""

_PLANES = {"cutoutDifference": "difference", "cutoutScience": "science", "cutoutTemplate": "template"}

_PARTS = ("", "Variance", "Mask", "Psf")
"""How Stamps names an image's planes."""

_Column = bytes | Iterable[bytes | memoryview]
"""One piece of the packet: the same bytes in every alert, or one value for each."""

_Fields = dict[str, list[_Column]]
"""The pieces of the packet's fields, by name."""


def encode_alerts(
    alerts: AlertRows, stamps: Stamps | None, cards: Sequence[bytes], context: AlertContext
) -> list[bytes]:
    """Return the framed message of each alert of one exposure, in the order of `alerts`.

    `stamps` are those of all sources of the exposure, of which ``alerts.index`` picks; without them the cutouts are
    null. `cards` are the WCS cards of each alert, from `wcs_cards`. The bytes are those that any Avro library writes
    with the latest schema, behind the framing of schema registries. Lists without members are null, as in Rubin's
    packets. Raises SchemaError or DataError where something does not fit.
    """
    constant = encode_fields("alert", shared_values(context))
    limits = list(encode_rows(alerts.exposures, "alert", "diaNondetectionLimit"))
    cutouts = _Cutouts(stamps, cards)
    messages: list[bytes] = []
    for start in range(0, len(alerts), _AT_ONCE):
        part = alerts.part(start, start + _AT_ONCE)
        fields: _Fields = {name: [value] for name, value in constant.items()}
        fields |= _rows(part)
        fields["prvDiaNondetectionLimits"] = _limits(part.limits, limits)
        fields |= cutouts.fields(part.index, cards[start : start + _AT_ONCE])
        messages += _spliced(fields, len(part))
    return messages


def _spliced(fields: _Fields, count: int) -> list[bytes]:
    """Put the pieces of each alert together in the schema's order; what is the same in all is joined first."""
    columns: list[Iterable[bytes | memoryview]] = []
    same = schemas.frame("alert")
    for item in schemas.latest("alert").parsed["fields"]:
        for column in fields[item["name"]]:
            if isinstance(column, bytes):
                same += column
            else:
                columns += [repeat(same, count), column]
                same = b""
    return [b"".join(pieces) for pieces in zip(*columns, repeat(same, count), strict=True)]


def _rows(alerts: AlertRows) -> _Fields:
    """Return the pieces that are table rows."""
    bands = encode_rows(alerts.bands.rows, "alert", "diaObjectBand").groups(alerts.bands.counts)
    counts = alerts.bands.counts.tolist()
    return {
        "diaSourceId": [[encode_long(number) for number in alerts.sources["diaSourceId"].tolist()]],
        "diaSource": [encode_rows(alerts.sources, "alert", "diaSource")],
        "prvDiaSources": _array(alerts.previous, "diaSource"),
        "prvDiaForcedSources": _array(alerts.forced, "diaForcedSource"),
        "diaObject": [
            _VALUE,
            encode_rows(object_rows(alerts.objects, alerts.bands), "alert", "diaObject"),
            [encode_long(count) if count else b"" for count in counts],
            bands,
            _END,
        ],
        "ssSource": _optional(alerts.ssSources, "ssSource"),
        "mpc_orbits": _optional(alerts.orbits, "mpc_orbits"),
    }


def _array(groups: RowGroups | None, record: str) -> list[_Column]:
    """Return the pieces of a nullable array of rows; one without members is null."""
    if groups is None:
        return [_NULL]
    return _around(groups.counts.tolist(), encode_rows(groups.rows, "alert", record).groups(groups.counts))


def _optional(groups: RowGroups | None, record: str) -> list[_Column]:
    """Return the pieces of a nullable record, from groups of one row or none."""
    if groups is None:
        return [_NULL]
    branches = [_VALUE if count else _NULL for count in groups.counts.tolist()]
    return [branches, encode_rows(groups.rows, "alert", record).groups(groups.counts)]


def _limits(groups: RowGroups, exposures: Sequence[bytes]) -> list[_Column]:
    """Return the pieces of the non-detection limits, whose rows are places among the encoded `exposures`."""
    members = [b"".join([exposures[place] for place in group.tolist()]) for group in groups.split()]
    return _around(groups.counts.tolist(), members)


def _around(counts: Sequence[int], members: Sequence[bytes | memoryview]) -> list[_Column]:
    """Return members of a nullable array with what stands before and after them."""
    before = [_VALUE + encode_long(count) if count else _NULL for count in counts]
    return [before, members, [_END if count else b"" for count in counts]]


class _Cutouts:
    """The three files of some alerts, laid out in a buffer that serves for the next ones again."""

    def __init__(self, stamps: Stamps | None, cards: Sequence[bytes]) -> None:
        self.stamps = stamps
        self.places: dict[str, slice] = {}
        pieces: list[NDArray[np.uint8]] = []
        size = 0
        for plane in _PLANES.values() if stamps is not None else ():
            image, psf = getattr(stamps, plane), getattr(stamps, f"{plane}Psf")
            file = blank_file(image.shape[1:], psf.shape[1:], len(cards[0]) if cards else 0)
            head = np.frombuffer(_VALUE + encode_long(len(file)), np.uint8)
            self.places[plane] = slice(size + len(head), size + len(head) + len(file))
            pieces += [head, file]
            size += len(head) + len(file)
        self.buffer = np.tile(np.concatenate(pieces), (_AT_ONCE, 1)) if pieces else np.zeros((_AT_ONCE, 0), np.uint8)

    def fields(self, index: NDArray[np.int64], cards: Sequence[bytes]) -> _Fields:
        """Return the pieces of some alerts' cutouts; they are valid until the next call."""
        fields: _Fields = {name: [_NULL if self.stamps is None else b""] for name in _PLANES}
        if self.stamps is not None:
            for plane, place in self.places.items():
                image, variance, mask, psf = (getattr(self.stamps, plane + part)[index] for part in _PARTS)
                write_files(self.buffer[: len(index), place], image, variance, mask, psf, cards)
            fields["cutoutTemplate"] = [[row.data for row in self.buffer[: len(index)]]]
        return fields
