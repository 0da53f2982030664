"""A whole night, from raw frames to alerts, and everything that must not change them."""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from fastavro.schema import load_schema_ordered

import schemas
from stream.bus import Outgoing
from tests.system.nights import (
    PIXELS,
    SEPARATE,
    Packet,
    Prepared,
    alerts,
    dead_letters,
    drain,
    environment,
    ingest,
    messages,
    outcomes,
    prepare,
)
from workers.connect import open_bus, open_topics
from workers.imaging.fits import read_exposure
from workers.imaging.masks import MaskPlane
from workers.night import ALL
from workers.score.model import load_classifier
from workers.survey.config import load_survey
from workers.templates.store import TemplateStore
from workers.version import code_version

DYING = Path(__file__).with_name("dying.py")
SCHEMA_ORDER = (
    "diaSource", "diaForcedSource", "diaNondetectionLimit", "diaObjectBand", "diaObject", "ssSource", "mpc_orbits",
    "templateProvenance", "stageTime", "alert",
)  # fmt: skip


@pytest.fixture(scope="session")
def packets(finished_night: Path) -> list[Packet]:
    return [packet for _, packet in messages(finished_night, "alerts")]


def test_plain_fastavro_decodes_every_alert(finished_night: Path, packets: list[Packet]) -> None:
    folder = Path(schemas.__file__).parent / "alert" / "1_2"
    assert {path.stem for path in folder.glob("*.avsc")} == set(SCHEMA_ORDER)
    schema = load_schema_ordered([str(folder / f"{name}.avsc") for name in SCHEMA_ORDER])
    found = []
    for message, packet in messages(finished_night, "alerts"):
        assert message.value[0] == 0
        assert int.from_bytes(message.value[1:5], "big") == 102
        body = io.BytesIO(message.value[5:])
        decoded = fastavro.schemaless_reader(body, schema, None)
        assert body.read() == b""
        assert repr(decoded) == repr(packet)  # NaN is not equal to itself
        assert message.key == str(packet["diaSource"]["diaObjectId"]).encode()
        found.append(decoded)
    assert repr(found) == repr(packets)
    assert len(packets) > 5


def test_every_announced_exposure_has_an_outcome(finished_night: Path, tiny_survey: Prepared) -> None:
    ended = outcomes(finished_night)
    assert len(ended) == len(tiny_survey.nights)
    assert set(ended.values()) <= {"alerts", "no_alerts"}
    assert dead_letters(finished_night) == []
    found = [packet["diaSource"] for _, packet in messages(finished_night, "alerts")]
    with_alerts = {f"{source['visit']}:{source['detector']}" for source in found}
    assert with_alerts == {label for label, outcome in ended.items() if outcome == "alerts"}
    quality = [record for _, record in messages(finished_night, "quality")]
    assert sorted((f"{r['visit']}:{r['detector']}", r["stage"]) for r in quality) == sorted(
        (label, stage) for label in ended for stage in SEPARATE
    )


def test_an_alert_says_where_it_came_from(finished_night: Path, packets: list[Packet]) -> None:
    survey = load_survey(finished_night)
    window = survey.config.templates
    manifest = TemplateStore(survey.templates).manifest()
    assert manifest is not None
    epochs = [epoch for cell in manifest.cells for epoch in (cell.firstEpochMjdTai, cell.lastEpochMjdTai)]
    classifier = load_classifier(survey.path(survey.config.score.model))
    masters = {path.stem for path in survey.calibrations.glob("*.fits")}
    for packet in packets:
        template, source = packet["template"], packet["diaSource"]
        assert template["templateId"].startswith("T")
        assert template["version"] == manifest.version
        assert window.begin <= template["firstEpochMjdTai"] < template["lastEpochMjdTai"] <= window.end
        assert {template["firstEpochMjdTai"], template["lastEpochMjdTai"]} <= set(epochs)
        assert template["lastEpochMjdTai"] < source["midpointMjdTai"]
        assert window.min_epochs <= template["nEpochs"] <= 4
        assert 0 < template["depth"] < abs(source["psfFlux"]) * 20
        assert 0.7 < template["coverage"] <= 1.0
        assert packet["calibrations"].keys() == {"bias", "dark", "flat", "defects", "reference"}
        assert {name for kind, name in packet["calibrations"].items() if kind != "reference"} <= masters
        assert packet["codeVersion"] == code_version()
        assert packet["modelVersion"] == classifier.version
        assert source["reliability"] >= classifier.threshold
        assert packet["instrument"] == survey.camera.name


def test_what_the_clock_said_stands_beside_the_packet(finished_night: Path, packets: list[Packet]) -> None:
    """The packet's bytes are a function of the frames; its headers tell the times."""
    for packet in packets:
        assert packet["stageTimes"] == []
        rows = [packet["diaSource"], *(packet["prvDiaSources"] or ())]
        assert all(np.isnan(row["timeProcessedMjdTai"]) for row in rows)
    for message, packet in messages(finished_night, "alerts"):
        assert int(message.headers["alertId"]) == packet["diaSourceId"]
        assert int(message.headers["night"]) == packet["night"]
        times = json.loads(message.headers["stageTimes"])
        assert [stage for stage, _, _ in times] == list(SEPARATE)
        assert all(0 < seconds < 60 for _, _, seconds in times)
        begins = [begin for _, begin, _ in times]
        assert begins == sorted(begins)
        assert begins[-1] < float(message.headers["timeProcessedMjdTai"]) < begins[-1] + 60 / 86400


def test_history_holds_what_came_before_and_nothing_else(packets: list[Packet]) -> None:
    seen: dict[int, list[int]] = {}
    for packet in sorted(packets, key=lambda p: (p["diaSource"]["midpointMjdTai"], p["diaSourceId"])):
        source, previous = packet["diaSource"], packet["prvDiaSources"] or []
        assert [row["diaObjectId"] for row in previous] == [source["diaObjectId"]] * len(previous)
        assert all(row["midpointMjdTai"] < source["midpointMjdTai"] for row in previous)
        assert set(seen.get(source["diaObjectId"], [])) <= {row["diaSourceId"] for row in previous}
        first = (previous or [source])[0]
        assert source["diaObjectId"] == first["diaSourceId"]
        assert packet["diaObject"]["nDiaSources"] == len(previous) + 1
        seen.setdefault(source["diaObjectId"], []).append(packet["diaSourceId"])
    assert max(len(ids) for ids in seen.values()) >= 3  # a transient that was seen in every live visit


def _planes(cutout: bytes) -> tuple[Any, WCS]:
    with fits.open(io.BytesIO(cutout)) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "UNCERT", "MASK", "PSFIMAGE"]
        return [np.array(hdu.data) for hdu in hdus], WCS(hdus[0].header)


def test_cutouts_open_in_astropy_and_show_the_source(finished_night: Path, packets: list[Packet]) -> None:
    survey = load_survey(finished_night)
    calexps = {}
    for packet in packets:
        source = packet["diaSource"]
        label = f"{packet['night']}/{source['visit']}_{source['detector']:03d}.fits"
        calexp = calexps.setdefault(label, read_exposure(survey.archive / "calexps" / label))
        (science, variance, mask, psf), wcs = _planes(packet["cutoutScience"])
        size, x0, y0 = len(science), round(source["x"]), round(source["y"])
        middle = size // 2
        at = wcs.world_to_pixel_values(source["ra"], source["dec"])
        assert at == pytest.approx((middle + source["x"] - x0, middle + source["y"] - y0), abs=0.1)
        for dx, dy in ((8, -5), (-8, -8)):  # round about, against the exposure's own WCS
            there = calexp.need_wcs().pixel_to_sky(source["x"] + dx, source["y"] + dy)
            assert wcs.world_to_pixel_values(*there) == pytest.approx((at[0] + dx, at[1] + dy), abs=0.1)
        inside = (slice(max(y0 - middle, 0), y0 + middle + 1), slice(max(x0 - middle, 0), x0 + middle + 1))
        corner = max(middle - y0, 0), max(middle - x0, 0)
        part = calexp.image[inside]
        here = (slice(corner[0], corner[0] + part.shape[0]), slice(corner[1], corner[1] + part.shape[1]))
        np.testing.assert_array_equal(science[here], part)
        np.testing.assert_array_equal(variance[here], calexp.variance[inside])
        np.testing.assert_array_equal(mask[here], calexp.mask[inside])
        assert float(psf.sum()) == pytest.approx(1.0, abs=0.02)
        (difference, noise, planes, _), _ = _planes(packet["cutoutDifference"])
        centre = difference[middle - 1 : middle + 2, middle - 1 : middle + 2]
        assert (centre.sum() < 0) == source["isNegative"]
        sky = (planes & int(MaskPlane.DETECTED | MaskPlane.DETECTED_NEGATIVE | MaskPlane.NO_DATA)) == 0
        assert 0.4 < np.std(difference[sky] / np.sqrt(noise[sky])) < 2.0
        assert packet["cutoutTemplate"] is not None


def test_a_cutout_is_ccddata(packets: list[Packet], tmp_path: Path) -> None:
    path = tmp_path / "cutout.fits"
    path.write_bytes(packets[0]["cutoutDifference"])
    image = CCDData.read(path)
    assert image.unit == "nJy"
    assert image.uncertainty.array.shape == image.data.shape
    assert image.mask.shape == image.data.shape


def test_the_same_survey_made_again_gives_the_same_alerts(
    finished_night: Path, tiny_survey: Prepared, tmp_path: Path
) -> None:
    again = prepare(tmp_path / "survey")
    assert again.nights == tiny_survey.nights
    ingest(again.root, again.nights)
    drain(again.root)
    assert alerts(again.root) == alerts(finished_night)
    old, new = messages(finished_night, "alerts"), messages(again.root, "alerts")
    assert [(m.key, m.timestamp, m.partition) for m, _ in new] == [(m.key, m.timestamp, m.partition) for m, _ in old]


def test_separate_stages_and_any_order_give_the_same_alerts(
    finished_night: Path, tiny_survey: Prepared, tmp_path: Path
) -> None:
    root = tiny_survey.copy(tmp_path / "survey")
    frames = list(tiny_survey.nights)
    random.Random(5).shuffle(frames)
    assert tuple(frames) != tiny_survey.nights
    ingest(root, frames)
    drain(root, SEPARATE)
    assert alerts(root) == alerts(finished_night)
    assert len(messages(root, "calexps")) == len(messages(root, "diasources")) == len(frames)


def test_arrival_in_another_order_gives_the_same_alerts(
    finished_night: Path, tiny_survey: Prepared, tmp_path: Path
) -> None:
    """The announcements keep the order; exposures come last first."""
    root = tiny_survey.copy(tmp_path / "survey")
    survey = load_survey(root)
    bus = open_bus(survey)
    topics = open_topics(survey, bus)
    shutil.copytree(finished_night / "state" / "blobs", root / "state" / "blobs")
    announced = messages(finished_night, "visits")
    for message, _ in [*announced, *messages(finished_night, "exposures")[::-1]]:
        name = topics.name(message.topic)
        bus.publish([Outgoing(name, message.key, message.value, message.timestamp, message.headers)])
    drain(root)
    scored = [r["visit"] for _, r in sorted(messages(root, "scored"), key=lambda m: m[0].offset)]
    bus.close()
    assert sorted(scored) != scored
    assert sorted(scored) == [record["visit"] for _, record in announced]
    assert alerts(root) == alerts(finished_night)


def test_a_replay_gives_the_same_alerts(finished_night: Path, tmp_path: Path) -> None:
    """Of the second of two nights: the first is in the database, and its sources in the histories."""
    root = Path(shutil.copytree(finished_night, tmp_path / "survey"))
    found = [packet for _, packet in messages(root, "alerts")]
    live = max(packet["night"] for packet in found)
    command = [sys.executable, "-m", "workers", "replay", str(live), "-s", str(root), "--into", "again.", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    wanted = {packet["diaSourceId"] for packet in found if packet["night"] == live}
    expected = {number: value for number, value in alerts(root).items() if number in wanted}
    assert result["identical"]
    assert result["same"] == len(expected)
    assert alerts(root, "again.") == expected
    assert alerts(root) == alerts(finished_night)


DEATHS = [
    pytest.param(PIXELS, "5", 2, id="pixels-before-commit"),
    pytest.param("associate", "inside", 5, id="inside-the-database-transaction"),
    pytest.param("associate", "5", 2, id="between-database-and-bus"),
]


@pytest.mark.parametrize(("stages", "place", "count"), DEATHS)
def test_a_killed_worker_changes_nothing(
    stages: str, place: str, count: int, night_stages: dict[str, Path], finished_night: Path, tmp_path: Path
) -> None:
    before = night_stages["ingested" if stages == PIXELS else "scored"]
    root = Path(shutil.copytree(before, tmp_path / "survey"))
    done = subprocess.run(
        [sys.executable, str(DYING), str(root), stages, place, str(count)],
        env=environment(),
        timeout=120,
        check=False,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    drain(root)
    assert alerts(root) == alerts(finished_night)
    assert outcomes(root) == outcomes(finished_night)
    assert dead_letters(root) == []
    assert len(messages(root, "quality")) == len(messages(finished_night, "quality"))


def test_kill_9_from_outside_while_the_night_runs(
    night_stages: dict[str, Path], finished_night: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(night_stages["ingested"], tmp_path / "survey"))
    command = [sys.executable, "-m", "workers", "run"]
    workers = [
        subprocess.Popen([*command, stages, "-s", str(root)], env=environment(), stderr=subprocess.DEVNULL)
        for stages in ALL
    ]
    deadline = time.monotonic() + 90
    while not messages(root, "quality") and time.monotonic() < deadline:
        time.sleep(0.05)
    for worker in workers:
        worker.kill()
        assert worker.wait(30) == -signal.SIGKILL
    drain(root)
    assert alerts(root) == alerts(finished_night)
