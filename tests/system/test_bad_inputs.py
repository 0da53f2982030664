"""Everything that can be wrong with an exposure, mixed into one night of good ones."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table, vstack
from scipy import ndimage

import schemas
from stream import codec
from stream.bus import Outgoing
from tests.cli.command import skydelta
from tests.system.nights import Packet, Prepared, alerts, dead_letters, drain, ingest, outcomes, packets_of
from workers.connect import open_bus, open_topics
from workers.imaging.calibration_store import CalibrationStore
from workers.imaging.calibrations import make_calibration
from workers.imaging.fits import read_exposure
from workers.ingest.worker import Ingested
from workers.replay import bus_alerts, compare, prepare, publish_night
from workers.survey.config import load_survey

ELSEWHERE = 3.0
"""Degrees of right ascension from the survey's field, with the same stars and no template."""
Change = Callable[[np.ndarray, fits.Header], tuple[np.ndarray, dict[str, Any]]]


def _changed(data: bytes, change: Change) -> bytes:
    with fits.open(io.BytesIO(data)) as hdus:
        pixels, cards = change(hdus[0].data.copy(), hdus[0].header)
        hdu = fits.PrimaryHDU(pixels, header=hdus[0].header)
        hdu.header.update(cards)
    buffer = io.BytesIO()
    hdu.writeto(buffer)
    return buffer.getvalue()


def _with_cards(**cards: Any) -> Change:
    return lambda pixels, header: (pixels, {name.replace("_", "-"): value for name, value in cards.items()})


def _elsewhere(pixels: np.ndarray, header: fits.Header) -> tuple[np.ndarray, dict[str, Any]]:
    moved = {key: header[key] + ELSEWHERE for key in ("RA", "CRVAL1")}
    return pixels, {**moved, "EXPID": 202602280095, "DATE-OBS": "2026-03-01T03:36:45"}


def _one_pixel(pixels: np.ndarray, header: fits.Header) -> tuple[np.ndarray, dict[str, Any]]:
    pixels[160, 100] += 1
    return pixels, {}


def _constant(pixels: np.ndarray, header: fits.Header) -> tuple[np.ndarray, dict[str, Any]]:
    return np.full_like(pixels, 1000), {"EXPID": 202602280094, "DATE-OBS": "2026-03-01T03:36:30"}


def _blurred(pixels: np.ndarray, header: fits.Header) -> tuple[np.ndarray, dict[str, Any]]:
    soft = ndimage.gaussian_filter(pixels.astype(np.float32), 1.8)
    noise = np.random.default_rng(1).standard_normal(pixels.shape, np.float32) * 12.0
    changed = np.round(soft + noise).clip(0, 65535).astype(pixels.dtype)
    return changed, {"EXPID": 202602280096, "DATE-OBS": "2026-03-01T03:37:00"}


def _cropped(pixels: np.ndarray, header: fits.Header) -> tuple[np.ndarray, dict[str, Any]]:
    return pixels[:300, :300], {"EXPID": 202602280097}


def bad_files(good: bytes, archived: bytes) -> dict[str, bytes]:
    """Return bad versions of a good live frame, by name; `archived` was taken inside the template window."""
    nan = good.replace(b"CRVAL1  =     150.102222291212", b"CRVAL1  =                  NaN")
    assert nan != good
    return {
        "not_fits.fits": b"<html>404 not found</html>" * 200,
        "truncated.fits": good[: len(good) // 2],
        "wrong_shape.fits": _changed(good, _cropped),
        "nan_wcs.fits": nan,
        "no_gain.fits": _changed(good, _with_cards(DETECTOR=1, EXPID=202602280092, DATE_OBS="2026-03-01T03:36:00")),
        "no_masters.fits": _changed(good, _with_cards(DETECTOR=2, EXPID=202602280093, DATE_OBS="2026-03-01T03:36:15")),
        "empty.fits": _changed(good, _constant),
        "elsewhere.fits": _changed(good, _elsewhere),
        "blurred.fits": _changed(good, _blurred),
        "window.fits": archived,
        "repeat.fits": good,
        "rewritten.fits": _changed(good, _one_pixel),
    }


GARBAGE = {
    "exposures": (b"\x00\x00\x0f\x42\x3fan unknown schema", b"no framing at all", b"\x00"),
    "scored": (b"\x00\x7f\xff\xff\xffanother", b"\x00\x00\x00\x00\x64broken alert"),
}


def _extend(root: Path) -> None:
    """Give the camera detector 1, without gain, and 2, without masters; and the catalogue the field elsewhere."""
    camera = root / "camera.toml"
    text = camera.read_text(encoding="utf-8")
    first = text[text.index("[[detectors]]") :]
    second = "".join(line for line in first.splitlines(keepends=True) if not line.startswith("gain"))
    copies = [part.replace("id = 0", f"id = {i}") for i, part in ((1, second), (2, first))]
    camera.write_text("\n".join([text, *copies]), encoding="utf-8")
    stars = Table.read(root / "reference.fits")
    moved = stars.copy()
    moved["ra"] += ELSEWHERE
    vstack([stars, moved], metadata_conflicts="silent").write(root / "reference.fits", overwrite=True)
    with (root / "survey.toml").open("a", encoding="utf-8") as settings:
        settings.write("\n[characterize.limits]\nmax_seeing_arcsec = 2.6\n")
    give_masters(root, 1)


def give_masters(root: Path, detector: int) -> None:
    """Give a detector copies of detector 0's masters."""
    store = CalibrationStore(root / "calibrations")
    for path in sorted(store.root.glob("*-0-*.fits")):
        one = store.load(path.stem)
        planes = {"image": one.image, "variance": one.variance, "mask": one.mask}
        same = {"instrument": one.instrument, "band": one.band, "layout": one.layout}
        store.save(make_calibration(one.kind, detector=detector, **same, **planes))


@dataclass(frozen=True)
class Night:
    root: Path
    ingested: list[Ingested]
    letters: list[Packet]
    clean: dict[int, bytes]
    """Packets of the good exposures alone."""

    def letter(self, name: str) -> Packet:
        """Return the only dead letter that is about a file, by its name or its visit and detector."""
        label = next((i.info.label for i in self.ingested if i.path.name == name and i.info), name)
        found = [one for one in self.letters if one["key"].decode() in (name, label)]
        assert len(found) == 1
        return found[0]

    def outcome(self, name: str) -> str:
        label = next(item.info.label for item in self.ingested if item.path.name == name and item.info)
        return outcomes(self.root)[label]


@pytest.fixture(scope="module")
def night(tiny_survey: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Night:
    folder = tmp_path_factory.mktemp("bad")
    clean, root = (tiny_survey.copy(folder / name) for name in ("clean", "mixed"))
    for survey in (clean, root):
        _extend(survey)
    ingest(clean, tiny_survey.nights)
    drain(clean)
    (root / "incoming").mkdir()
    good, archived = ((root / path).read_bytes() for path in (tiny_survey.live[0], tiny_survey.archive[0]))
    files = bad_files(good, archived)
    for name, data in files.items():
        (root / "incoming" / name).write_bytes(data)
    publish_garbage(root)
    ingested = ingest(root, [*tiny_survey.nights, *(Path("incoming") / name for name in files)])
    drain(root)
    return Night(root, ingested, dead_letters(root), alerts(clean))


def publish_garbage(root: Path) -> None:
    survey = load_survey(root)
    bus = open_bus(survey)
    topics = open_topics(survey, bus)
    for topic, values in GARBAGE.items():
        bus.publish([Outgoing(topics.name(topic), b"garbage", value, 1_772_336_000_000) for value in values])
    bus.close()


def test_the_good_exposures_give_the_alerts_they_give_alone(night: Night) -> None:
    assert len(night.clean) > 5
    assert alerts(night.root) == night.clean


AT_INGEST = {
    "not_fits.fits": ("DataError", "not a FITS file"),
    "truncated.fits": ("DataError", "cut short"),
    "wrong_shape.fits": ("DataError", "wrong shape, HDU 0 is 300x300"),
    "nan_wcs.fits": ("DataError", "CRVAL1"),
}
AT_ISR = {
    "no_gain.fits": ("DataError", "no gain for amplifier A0 of camera tiny"),
    "no_masters.fits": ("ConfigurationError", "skydelta calibrate bias"),
    "empty.fits": ("DataError", "is empty: all pixels are 1000 ADU"),
    "window.fits": ("DataError", "lies inside the template window"),
}


@pytest.mark.parametrize("name", AT_INGEST)
def test_what_ingest_refuses(name: str, night: Night) -> None:
    item = next(item for item in night.ingested if item.path.name == name)
    letter = night.letter(name)
    kind, text = AT_INGEST[name]
    assert item.outcome == "dead letter"
    assert (letter["stage"], letter["errorType"]) == ("ingest", kind)
    assert text in letter["message"]
    assert text in item.reason
    assert name in letter["message"]


def _scored(root: Path) -> list[Packet]:
    """Return the decoded messages that say how an exposure ended, past garbage and announcements."""
    survey = load_survey(root)
    bus = open_bus(survey)
    values = [message.value for message in bus.read(open_topics(survey, bus).name("scored"))]
    bus.close()
    return [
        codec.decode(value).record for value in values if value[:5] == schemas.latest("scored").id.to_bytes(5, "big")
    ]


@pytest.mark.parametrize("name", AT_ISR)
def test_what_the_pixel_stages_refuse(name: str, night: Night) -> None:
    letter = night.letter(name)
    kind, text = AT_ISR[name]
    assert (letter["stage"], letter["errorType"]) == ("isr+subtract+score", kind)
    assert text in letter["message"]
    assert letter["traceback"] is None
    assert letter["attempts"] == 1
    assert letter["topic"] == "exposures"
    assert night.outcome(name) == "failed"
    scored = [r for r in _scored(night.root) if r["fileName"] == name]
    assert [record["outcome"] for record in scored] == ["failed"]
    assert text in scored[0]["failure"]


def test_a_pointing_without_a_template_is_an_outcome(night: Night) -> None:
    assert night.outcome("elsewhere.fits") == "no_template"
    assert not [one for one in night.letters if one["key"] == b"202602280095:0"]


def test_an_exposure_beyond_the_limits_ends_with_their_name(night: Night) -> None:
    assert night.outcome("blurred.fits") == "bad_seeing"
    assert not [one for one in night.letters if one["key"] == b"202602280096:0"]
    (record,) = [r for r in _scored(night.root) if r["fileName"] == "blurred.fits"]
    assert "is above max_seeing_arcsec = 2.6 of [characterize.limits]" in record["failure"]
    assert record["metrics"]["seeingArcsec"] > 2.6
    assert record["sources"] == []
    assert not list((night.root / "archive" / "calexps").rglob("202602280096_000.fits"))


def test_by_hand_it_is_written_where_asked(night: Night, tmp_path: Path) -> None:
    frame = str(night.root / "incoming" / "blurred.fits")
    done = skydelta("isr", frame, "--survey", str(night.root))
    assert (done.code, done.out) == (5, "")
    assert "bad_seeing: seeing, arcsec" in done.err
    assert skydelta("isr", frame, "--survey", str(night.root), "-o", str(tmp_path)).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["202602280096_000.fits"]


def test_the_same_exposure_twice_is_once(night: Night) -> None:
    item = next(item for item in night.ingested if item.path.name == "repeat.fits")
    assert item.outcome == "announced"  # nothing had been associated yet: only then is it known
    again = ingest(night.root, [Path("incoming/repeat.fits")])
    assert [item.outcome for item in again] == ["same"]


def test_of_two_exposures_with_one_identity_the_first_stands(night: Night, tiny_survey: Prepared) -> None:
    (letter,) = [one for one in night.letters if "rewritten.fits" in one["message"]]
    assert (letter["stage"], letter["errorType"], letter["topic"]) == ("associate", "ConflictError", "visits")
    assert "the first stands" in letter["message"]
    first = next(item.info for item in night.ingested if item.path == night.root / tiny_survey.live[0])
    assert first is not None
    archived = read_exposure(night.root / "archive" / "calexps" / str(first.night) / f"{first.visit}_000.fits")
    assert archived.info.sha256 == first.sha256


def test_bytes_that_are_no_message_are_kept(night: Night) -> None:
    letters = [one for one in night.letters if one["key"] == b"garbage"]
    assert Counter(one["topic"] for one in letters) == {"exposures": 3, "scored": 2}
    assert {one["errorType"] for one in letters} == {"SchemaError"}
    assert {one["value"]["inline"] for one in letters} == {value for values in GARBAGE.values() for value in values}
    texts = " ".join(one["message"] for one in letters)
    assert "schema id 999999 is unknown" in texts
    assert "no Confluent framing" in texts
    assert "too few for a framed message" in texts


def test_nothing_is_lost(night: Night, tiny_survey: Prepared) -> None:
    """What went in is what came out: files and garbage are outcomes, dead letters, or the one repeat."""
    ended = outcomes(night.root)
    missing = [label for label, outcome in ended.items() if outcome == "missing"]  # detectors 1 and 2 of most visits
    assert len(missing) == 2 * (len(ended) - len(missing))
    ended = {label: outcome for label, outcome in ended.items() if outcome != "missing"}
    assert Counter(ended.values()) - Counter(alerts=4, no_alerts=4) == {"failed": 4, "no_template": 1, "bad_seeing": 1}
    assert "open" not in ended.values()
    closed_by_letter = sum(1 for outcome in ended.values() if outcome == "failed")
    went_in = len(night.ingested) + sum(map(len, GARBAGE.values()))
    assert went_in == len(ended) + len(night.letters) - closed_by_letter + 1
    status = skydelta("status", "-s", night.root, "--json").json
    assert set(status["lag"].values()) == {0}
    assert status["deadLetters"] == len(night.letters)


def test_the_dead_are_listed_and_shown(night: Night, tmp_path: Path) -> None:
    listed = skydelta("dead", "list", "-s", night.root, "--json")
    assert listed.code == 0
    assert [row["cause"] for row in listed.json] == [letter["message"] for letter in night.letters]
    number = next(row["number"] for row in listed.json if row["key"] == "truncated.fits")
    shown = skydelta("dead", "show", number, "-s", night.root, "-o", tmp_path / "original", "--json")
    assert "cut short" in shown.json["message"]
    assert (tmp_path / "original").read_bytes() == (night.root / "incoming" / "truncated.fits").read_bytes()
    missing = skydelta("dead", "show", 99, "-s", night.root)
    assert (missing.code, missing.out) == (5, "")
    assert "dead list" in missing.err


def test_a_replay_of_such_a_night_gives_the_same(night: Night) -> None:
    survey = load_survey(night.root)
    bus = open_bus(survey)
    live = open_topics(survey, bus)
    nights = Counter(packet["night"] for packet in packets_of(night.clean))
    date = max(nights)
    topics, found = prepare(survey, bus, date, "again.")
    publish_night(bus, live, topics, found, speed=None)
    drain(night.root, prefix="again.")
    result = compare(bus_alerts(bus, live, date), bus_alerts(bus, topics, date))
    bus.close()
    assert result.identical
    assert result.same == nights[date]


def test_a_refused_file_is_not_retried_but_ingested_again(night: Night) -> None:
    number = next(n for n, letter in enumerate(night.letters) if letter["stage"] == "ingest")
    done = skydelta("dead", "retry", number, "-s", night.root)
    assert done.code == 5
    assert "ingest it again" in done.err


def test_retry_after_the_cause_was_mended(night: Night) -> None:
    """Last of this file: it changes the night."""
    give_masters(night.root, 2)
    number = next(n for n, letter in enumerate(night.letters) if letter["message"].count("calibrate bias"))
    assert skydelta("dead", "retry", number, "-s", night.root).code == 0
    drain(night.root)
    assert night.outcome("no_masters.fits") == "alerts"
    now = alerts(night.root)
    fresh = packets_of({number: value for number, value in now.items() if number not in night.clean})
    assert {packet["diaSource"]["visit"] for packet in fresh} == {202602280093}
    assert all(packet["late"] for packet in fresh)
    assert {number: now[number] for number in night.clean} == night.clean
    assert len(dead_letters(night.root)) == len(night.letters)
