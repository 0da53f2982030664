"""Packets of one exposure, byte for byte what the codec writes of records put together one by one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import RowGroups, rows_to_records, table_dtype
from schemas.errors import DataError
from stream import codec
from workers.alert.cutout import blank_file, wcs_cards, write_files
from workers.alert.packing import encode_alerts
from workers.alert.pipeline import AlertContext
from workers.alert.rows import AlertRows
from workers.database import OBJECT_DTYPE
from workers.imaging.stamps import Stamps

PLANES = ("difference", "science", "template")
TEMPLATE = {
    "templateId": "t-1",
    "firstEpochMjdTai": 60300.0,
    "lastEpochMjdTai": 60400.0,
    "nEpochs": 12,
    "depth": 250.0,
    "coverage": 0.75,
    "version": "0003-86868743",
}
CONTEXT = AlertContext("cam", 20250101, "0.1.0")
FULL = AlertContext("cam", 20250101, "0.1.0", "field 4", "wide", "m1", TEMPLATE, {"bias": "b-1", "flat": "f"}, True)


def _rows(random: Any, record: str, count: int) -> Any:
    """Rows with a bit of everything, nulls and texts of other letters included."""
    rows = np.zeros(count, table_dtype("alert", record))
    for name in rows.dtype.names:
        kind = rows.dtype[name].kind
        if kind == "f":
            rows[name] = np.where(random.random(count) < 0.3, np.nan, random.normal(0, 1e3, count))
        elif kind == "i":
            rows[name] = random.integers(-(2**31), 2**31, count) >> random.integers(0, 32, count)
        else:
            rows[name] = random.random(count) < 0.5 if kind == "b" else random.choice(["", "g", "bänd"], count)
    return rows


def _groups(random: Any, record: str, counts: Any) -> RowGroups:
    return RowGroups(_rows(random, record, int(np.sum(counts))), np.asarray(counts, np.int64))


def _bands(random: Any, count: int) -> RowGroups:
    """Up to three bands each, in order of name."""
    names = [sorted(random.choice(["VR", "g", "r"], random.integers(0, 4), replace=False)) for _ in range(count)]
    groups = _groups(random, "diaObjectBand", [len(group) for group in names])
    groups.rows["band"] = [name for group in names for name in group]
    return groups


def _alerts(seed: int, count: int, *, most: int = 4, optional: bool = False) -> AlertRows:
    random = np.random.default_rng(seed)
    objects = np.zeros(count, OBJECT_DTYPE)
    objects["diaObjectId"] = random.integers(1, 2**60, count)
    objects["ra"], objects["raErr"], objects["nDiaSources"] = 10.5, np.nan, random.integers(1, 200, count)
    exposures = _rows(random, "diaNondetectionLimit", 9)
    limits = [np.flatnonzero(random.random(9) < 0.5) for _ in range(count)]
    alerts = AlertRows(
        index=random.permutation(count + 3)[:count],
        sources=_rows(random, "diaSource", count),
        objects=objects,
        bands=_bands(random, count),
        previous=_groups(random, "diaSource", random.integers(0, most, count)),
        exposures=exposures,
        limits=RowGroups(
            np.concatenate([np.zeros(0, np.int64), *limits]), np.array([len(x) for x in limits], np.int64)
        ),
        new=np.zeros(count, np.bool_),
    )
    if not optional:
        return alerts
    return replace(
        alerts,
        forced=_groups(random, "diaForcedSource", random.integers(0, 3, count)),
        ssSources=_groups(random, "ssSource", random.integers(0, 2, count)),
        orbits=_groups(random, "mpc_orbits", random.integers(0, 2, count)),
    )


def _stamps(seed: int, count: int, size: int = 7, psfs: tuple[int, ...] = (5, 5, 9)) -> Stamps:
    random = np.random.default_rng(seed)
    planes: dict[str, Any] = {}
    for plane, psf in zip(PLANES, psfs, strict=True):
        planes[plane] = random.normal(0, 1e3, (count, size, size)).astype(np.float32)
        planes[f"{plane}Variance"] = np.square(planes[plane])
        planes[f"{plane}Mask"] = random.integers(0, 2**16, (count, size, size)).astype(np.int32)
        planes[f"{plane}Psf"] = random.random((count, psf, psf)).astype(np.float32)
    return Stamps(**planes)


def _cards(count: int) -> list[bytes]:
    return [wcs_cards(10.0 + k, -5.0, 3.2, 4.4, np.eye(2) / 3600, 7) for k in range(count)]


def _value(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and math.isnan(plain) else plain


def _object_record(row: Any, bands: list[dict[str, Any]]) -> dict[str, Any]:
    record = {name: None for name in table_dtype("alert", "diaObject").names}
    record |= {f"{letter}_psfFluxNdata": 0 for letter in "ugrizy"}
    record |= {name: _value(row[name]) for name in OBJECT_DTYPE.names}
    for band in bands:
        record |= {f"{band['band']}_{k}": v for k, v in band.items() if f"{band['band']}_{k}" in record}
    return record | {"bands": bands}


def _file(stamps: Stamps, plane: str, index: int, cards: bytes) -> bytes:
    image, variance, mask, psf = (getattr(stamps, plane + part)[[index]] for part in ("", "Variance", "Mask", "Psf"))
    file = blank_file(image.shape[1:], psf.shape[1:], len(cards))[None]
    write_files(file, image, variance, mask, psf, [cards])
    return file.tobytes()


def _one_by_one(alerts: AlertRows, stamps: Stamps | None, cards: list[bytes], context: AlertContext) -> list[bytes]:
    """The plain way: a record for everything, and the codec."""

    def members(groups: RowGroups | None) -> list[list[dict[str, Any]]]:
        return [[]] * len(alerts) if groups is None else [rows_to_records(group) for group in groups.split()]

    exposures = rows_to_records(alerts.exposures)
    previous, forced, bands = members(alerts.previous), members(alerts.forced), members(alerts.bands)
    bodies, orbits = members(alerts.ssSources), members(alerts.orbits)
    messages = []
    for i, source in enumerate(rows_to_records(alerts.sources)):
        files = (
            dict.fromkeys(PLANES)
            if stamps is None
            else {plane: _file(stamps, plane, int(alerts.index[i]), cards[i]) for plane in PLANES}
        )
        record = {
            "diaSourceId": source["diaSourceId"],
            "observation_reason": context.reason or None,
            "target_name": context.target or None,
            "diaSource": source,
            "prvDiaSources": previous[i] or None,
            "prvDiaForcedSources": forced[i] or None,
            "diaObject": _object_record(alerts.objects[i], bands[i]),
            "ssSource": bodies[i][0] if bodies[i] else None,
            "mpc_orbits": orbits[i][0] if orbits[i] else None,
            "cutoutDifference": files["difference"],
            "cutoutScience": files["science"],
            "cutoutTemplate": files["template"],
            "instrument": context.instrument,
            "night": context.night,
            "prvDiaNondetectionLimits": [exposures[k] for k in alerts.limits.split()[i]] or None,
            "template": context.template,
            "calibrations": context.calibrations,
            "codeVersion": context.codeVersion,
            "modelVersion": context.modelVersion,
            "stageTimes": [],
            "late": context.late,
        }
        messages.append(codec.encode("alert", record))
    return messages


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 6), optional=st.booleans(), full=st.booleans())
def test_packets_are_what_the_codec_writes(seed: int, count: int, optional: bool, full: bool) -> None:
    alerts, context = _alerts(seed, count, optional=optional), FULL if full else CONTEXT
    stamps, cards = _stamps(seed, count + 3), _cards(count)
    assert encode_alerts(alerts, stamps, cards, context) == _one_by_one(alerts, stamps, cards, context)


@pytest.mark.parametrize("count", [64, 65, 150])
def test_more_alerts_than_are_packed_at_once(count: int) -> None:
    alerts, stamps, cards = _alerts(1, count), _stamps(2, count + 3), _cards(count)
    packets = encode_alerts(alerts, stamps, cards, CONTEXT)
    assert packets == _one_by_one(alerts, stamps, cards, CONTEXT)
    assert all(type(packet) is bytes for packet in packets)


def test_long_histories() -> None:
    alerts = _alerts(3, 3, most=400)
    assert encode_alerts(alerts, None, [], CONTEXT) == _one_by_one(alerts, None, [], CONTEXT)


def test_a_packet_survives_the_wire_and_its_stamps_open() -> None:
    alerts, stamps, cards = _alerts(4, 2, optional=True), _stamps(5, 5), _cards(2)
    record = codec.decode(encode_alerts(alerts, stamps, cards, FULL)[1]).record
    assert (record["night"], record["late"], record["stageTimes"]) == (20250101, True, [])
    assert record["template"] == TEMPLATE
    with fits.HDUList.fromstring(record["cutoutScience"]) as hdus:
        np.testing.assert_array_equal(hdus[0].data, stamps.science[alerts.index[1]])
        assert hdus[0].header["CRVAL1"] == 11.0


def test_nothing_is_kept_from_one_exposure_to_the_next() -> None:
    alerts, stamps, cards = _alerts(6, 70), _stamps(7, 73), _cards(70)
    first = encode_alerts(alerts, stamps, cards, CONTEXT)
    copies = [bytes(bytearray(packet)) for packet in first]
    encode_alerts(_alerts(8, 70), _stamps(9, 73), cards, CONTEXT)
    assert first == copies
    assert encode_alerts(alerts, stamps, cards, CONTEXT) == copies


def test_fewer_cards_than_alerts_are_an_error() -> None:
    with pytest.raises(DataError, match="WCS cards"):
        encode_alerts(_alerts(6, 3), _stamps(7, 6), _cards(2), CONTEXT)
