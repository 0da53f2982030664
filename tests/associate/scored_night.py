"""A night as association sees it, without pixels: announcements and scored sources of overlapping exposures.

Four detectors look at a place where four sky tiles meet; the pointings are dithered, so that every object is seen by
several detectors of several tiles.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import schemas
from stream import codec
from stream.blobs import BlobStore
from stream.bus import Message, Outgoing
from stream.dead_letters import DeadLetters
from stream.topics import Topics
from workers.associate.worker import AssociateWorker
from workers.imaging.exposure import ExposureInfo
from workers.imaging.stamps import Stamps
from workers.ingest.pipeline import sky_tile, tiles_touched
from workers.items import RawItem, SourcesItem, encode, info_record
from workers.survey.camera import camera_from_dict
from workers.survey.config import Survey, SurveyConfig
from workers.worker import closing_time

NIGHT = 20260228
CORNER = (45.0, 41.81031489577862)
"""Where HEALPix tiles of nside 32 meet (a corner of base pixels)."""
SIDE = 0.1  # degrees of a detector
TOPICS = Topics(partitions=4)


def survey_of(root: Path, **associate: Any) -> Survey:
    """Return a survey of four detectors."""
    amplifier = {"name": "A", "data": "[1:100,1:100]", "position": "[1:100,1:100]", "read_noise": 5, "saturation": 6e4}
    detectors = [
        {"id": i, "name": f"d{i}", "width": 100, "height": 100, "amplifiers": [{**amplifier, "gain": 1.0}]}
        for i in range(4)
    ]
    key = {"key": "X"}
    header = {"band": key, "begin": key, "exposure_time": key, "ra": key, "dec": key}
    camera = camera_from_dict({"name": "cam", "header": header, "detectors": detectors})
    templates = {"begin": 60000.0, "end": 60300.0, "pixel_scale": 1.0}
    config = SurveyConfig.model_validate({"name": "s", "templates": templates, "associate": associate})
    return Survey(root=root, config=config, camera=camera)


@dataclass(frozen=True)
class ScoredNight:
    """What is published: announcements in the order of time, and for each the scored message."""

    announcements: tuple[Outgoing, ...]
    scored: tuple[Outgoing, ...]


def make_night(blobs: BlobStore, visits: int = 6, objects: int = 30, seed: int = 1) -> ScoredNight:
    """Return a night of `visits` x 4 detectors over `objects` transients."""
    random = np.random.default_rng(seed)
    stretch = np.cos(np.radians(CORNER[1]))
    sky = np.stack([CORNER[0] + random.uniform(-0.12, 0.12, objects) / stretch,
                    CORNER[1] + random.uniform(-0.12, 0.12, objects)], axis=-1)  # fmt: skip
    announcements, scored = [], []
    for visit in range(visits):
        dither = random.uniform(-0.04, 0.04, 2)
        for detector in range(4):
            centre = (
                CORNER[0] + (dither[0] + SIDE * (detector % 2 - 0.5)) / stretch,
                CORNER[1] + dither[1] + SIDE * (detector // 2 - 0.5),
            )
            item, tiles = _item(visit, detector, centre, sky, random)
            announcements.append(_announcement(item, tiles))
            value = encode(item, "scored", blobs)
            scored.append(Outgoing(TOPICS.name("scored"), str(item.tile).encode(), value, closing_time(item)))
    return ScoredNight(tuple(announcements), tuple(scored))


def _announcement(item: SourcesItem, tiles: tuple[int, ...]) -> Outgoing:
    record = info_record(item.info, item.tile) | {"tiles": list(tiles), "expected": [0, 1, 2, 3]}
    time = closing_time(RawItem(item.info, item.tile, b""))
    return Outgoing(TOPICS.name("visits"), item.info.label.encode(), codec.encode("visit", record), time)


def _item(
    visit: int, detector: int, centre: tuple[float, float], sky: np.ndarray, random: np.random.Generator
) -> tuple[SourcesItem, tuple[int, ...]]:
    half, stretch = SIDE / 2, np.cos(np.radians(centre[1]))
    corners_ra = tuple(centre[0] + s * half / stretch for s in (-1, 1, 1, -1))
    corners_dec = tuple(centre[1] + s * half for s in (-1, -1, 1, 1))
    inside = (np.abs(sky[:, 0] - centre[0]) * stretch < half) & (np.abs(sky[:, 1] - centre[1]) < half)
    seen = np.flatnonzero(inside & (random.uniform(size=len(sky)) < 0.8))
    rows = np.zeros(len(seen), schemas.table_dtype("alert", "diaSource"))
    info = ExposureInfo(
        instrument="cam", visit=1000 + visit, detector=detector, band="r", midpointMjdTai=61100.0 + visit * 30 / 86400,
        exposureTime=15.0, ra=CORNER[0], dec=CORNER[1], night=NIGHT, kind="science",
        sha256=hashlib.sha256(f"{visit}:{detector}".encode()).hexdigest(), fileName=f"{visit}_{detector}.fits",
    )  # fmt: skip
    rows["visit"], rows["detector"], rows["band"] = info.visit, detector, "r"
    rows["midpointMjdTai"] = info.midpointMjdTai
    rows["diaSourceId"] = (info.visit << 22) + (detector << 14) + np.arange(len(seen))
    rows["ra"] = sky[seen, 0] + random.normal(0, 0.1 / 3600, len(seen))
    rows["dec"] = sky[seen, 1] + random.normal(0, 0.1 / 3600, len(seen))
    rows["raErr"] = rows["decErr"] = 0.1 / 3600
    rows["x"], rows["y"] = random.uniform(10, 90, (2, len(seen)))
    rows["psfFlux"], rows["psfFluxErr"] = random.normal(1000, 50, len(seen)), 50.0
    rows["reliability"] = random.uniform(0.4, 1.0, len(seen))
    item = SourcesItem(
        info, sky_tile(*centre), "ok", sources=rows, stamps=_stamps(len(seen), random), metrics={},
        corners=(corners_ra, corners_dec), psfLimit=250.0,
    )  # fmt: skip
    return item, tiles_touched(*centre, 0.75 * SIDE)


def _stamps(count: int, random: np.random.Generator) -> Stamps:
    planes = {}
    for name in ("difference", "science", "template"):
        planes[name] = random.normal(size=(count, 7, 7)).astype(np.float32)
        planes[name + "Variance"] = np.ones((count, 7, 7), np.float32)
        planes[name + "Mask"] = np.zeros((count, 7, 7), np.int32)
        planes[name + "Psf"] = np.full((count, 5, 5), 0.04, np.float32)
    return Stamps(**planes)


def open_worker(survey: Survey, blobs: BlobStore, database: Any) -> AssociateWorker:
    """Return an associate worker of its own."""
    letters = DeadLetters(TOPICS.name("dead"), blobs, lambda: 61100.0, "0")
    return AssociateWorker(survey, TOPICS, blobs, database, letters, lambda: 61100.0)


def messages_of(outgoing: list[Outgoing], topic: str, partition: int) -> list[Message]:
    """Return records as they would be read from one partition."""
    return [
        Message(topic, partition, offset, one.key, one.value, one.timestamp, one.headers)
        for offset, one in enumerate(outgoing)
    ]
