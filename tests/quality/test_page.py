"""The page of a night: everything is on it, nothing that others wrote is taken for HTML, and no network is needed."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.system.nights import messages
from workers.quality.cards import alert_card, cutout_image, light_curve
from workers.quality.night import exposure_rows, latency_rows, night_report
from workers.quality.page import AlertCard, Report, Table, render

EVIL = "<img src=x onerror=alert(1)>"
VOID = {"meta", "img", "br"}


class Balance(HTMLParser):
    """Collects tags and checks that they close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags(page: str) -> list[str]:
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    return parser.seen


def test_words_of_others_are_escaped() -> None:
    card = AlertCard(EVIL, {EVIL: EVIL}, {EVIL: "data:image/png;base64,AA=="}, "<svg></svg>")
    table = Table(EVIL, (EVIL,), ((EVIL,),), EVIL)
    page = render(Report(EVIL, {EVIL: EVIL}, [table], {EVIL: "<svg></svg>"}, [card], EVIL))
    assert EVIL not in page
    assert page.count("&lt;img src=x") == 15
    assert tags(page).count("img") == 1
    assert "script" not in tags(page)


def test_an_empty_report() -> None:
    page = render(night_report("quiet night", [], [], {}, 0))
    assert "quiet night" in page
    assert "none" in page
    assert "Maps" not in page
    tags(page)


@pytest.fixture(scope="module")
def packets(finished_night: Path) -> list[dict]:
    return [packet for _, packet in messages(finished_night, "alerts")]


def test_a_night_on_one_page(packets: list[dict], finished_night: Path) -> None:
    quality = [record for _, record in messages(finished_night, "quality")]
    page = render(night_report("a night", packets, quality, {"alerts": 4}, 0))
    objects = {packet["diaSource"]["diaObjectId"] for packet in packets}
    assert tags(page).count("article") == len(objects)
    assert tags(page).count("img") == 3 * len(objects)
    assert all(f"object {number} ·" in page for number in objects)
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert f"{len(packets)} of {len(objects)} objects" in page


def test_a_card_says_what_the_packet_says(packets: list[dict]) -> None:
    packet = max(packets, key=lambda one: len(one["prvDiaSources"] or ()))
    card = alert_card(packet)
    assert packet["template"]["templateId"] in card.facts["template"]
    assert card.facts["history"].startswith(f"{len(packet['prvDiaSources'])} sources")
    assert list(card.stamps) == ["science", "template", "difference"]
    times, fluxes, _, bands = light_curve(packet)
    assert len(times) == len(packet["prvDiaSources"]) + 1
    assert times == sorted(times)
    assert fluxes[-1] == packet["diaSource"]["psfFlux"]
    assert set(bands) == {"r"}
    image = cutout_image(packet["cutoutScience"])
    assert image.shape == (31, 31)
    assert image.dtype == np.float32


def test_a_card_of_a_source_without_numbers(packets: list[dict]) -> None:
    empty = {name: None for name in ("psfFlux", "psfFluxErr", "snr", "reliability")}
    packet = {**packets[0], "diaSource": {**packets[0]["diaSource"], **empty}}
    packet |= {"prvDiaSources": None, "prvDiaNondetectionLimits": None, "template": None, "cutoutTemplate": None}
    card = alert_card(packet)
    assert card.facts["reliability"] == "none"
    assert card.lightCurve == ""
    assert list(card.stamps) == ["science", "difference"]
    tags(render(Report("x", {}, cards=[card])))


def test_latency_takes_the_last_word_of_each_exposure(packets: list[dict]) -> None:
    quality = [
        {"visit": visit, "detector": 0, "stageTimes": [{"stage": "isr", "beginMjdTai": 0.0, "seconds": seconds}]}
        for visit, seconds in ((1, 9.0), (1, 1.0), (2, 3.0))
    ]
    assert latency_rows(quality) == [["isr", "2", "2.00", "2.90", "2.98"]]


def test_exposures_are_counted_once_and_only_as_isr_saw_them() -> None:
    quality = [
        {"visit": visit, "detector": 0, "stage": stage, "metrics": {"seeingArcsec": seeing, "background": 1.0}}
        for visit, stage, seeing in ((1, "isr", 9.0), (1, "isr", 1.0), (2, "isr", 3.0), (2, "subtract", 7.0))
    ]
    assert exposure_rows(quality) == [["seeing, arcsec", "2", "1.1", "2", "2.9"]]
    assert exposure_rows([]) == []


def test_cutouts_are_fits(packets: list[dict], tmp_path: Path) -> None:
    path = tmp_path / "stamp.fits"
    path.write_bytes(packets[0]["cutoutDifference"])
    np.testing.assert_array_equal(fits.getdata(path), cutout_image(packets[0]["cutoutDifference"]))
