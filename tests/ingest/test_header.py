"""The header map: every field from every kind of card, and an error that names the fix for every gap."""

from __future__ import annotations

import math
from typing import Any

import pytest
from astropy.coordinates import Angle
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from workers.imaging.exposure import ExposureInfo
from workers.ingest.header import exposure_info
from workers.survey.camera import Camera, camera_from_dict

HEADER = {
    "exposure_time": {"key": "EXPTIME", "unit": "s"},
    "begin": {"key": "DATE-OBS", "format": "isot", "scale": "utc"},
    "ra": {"key": "RA", "unit": "hourangle"},
    "dec": {"key": "DEC", "unit": "deg"},
    "band": {"key": "FILTER"},
    "kind": {"key": "IMAGETYP", "map": {"object": "science", "zero": "bias", "dark": "dark"}},
}
CARDS = {
    "EXPTIME": 30.0,
    "DATE-OBS": "2024-03-01T02:03:04.5",
    "RA": "12:34:56.7",
    "DEC": "-00:30:36",
    "FILTER": "r ",
    "IMAGETYP": "object",
}


def make_camera(**header: Any) -> Camera:
    amplifier = {"name": "A", "data": "[1:8,1:8]", "position": "[1:8,1:8]", "read_noise": 5, "saturation": 6e4}
    detector = {"id": 0, "name": "D", "width": 8, "height": 8, "amplifiers": [amplifier]}
    return camera_from_dict({"name": "cam", "header": HEADER | header, "detectors": [detector]})


def info_of(cards: dict[str, Any] | None = None, **header: Any) -> ExposureInfo:
    merged = {key: value for key, value in (CARDS | (cards or {})).items() if value is not None}
    return exposure_info(merged, file_name="f.fits", sha256="00", camera=make_camera(**header))


def test_all_fields() -> None:
    info = info_of(target={"key": "OBJECT"}, visit={"key": "VISIT"}, cards={"OBJECT": " M 31 ", "VISIT": "17"})
    begin = Time("2024-03-01T02:03:04.5", scale="utc")
    assert info.midpointMjdTai == pytest.approx(begin.tai.mjd + 15.0 / 86400.0, abs=1e-10)
    assert (info.visit, info.detector, info.band, info.kind, info.target) == (17, 0, "r", "science", "M 31")
    assert info.ra == pytest.approx(Angle("12h34m56.7s").deg, abs=1e-10)
    assert info.dec == pytest.approx(-0.51, abs=1e-12)
    assert (info.instrument, info.sha256, info.fileName, info.exposureTime) == ("cam", "00", "f.fits", 30.0)


@pytest.mark.parametrize(
    ("entry", "cards"),
    [
        ({"key": "MJD", "format": "mjd", "scale": "utc"}, {"MJD": Time("2024-03-01T02:03:04.5").mjd}),
        ({"key": "JD", "format": "jd", "scale": "utc"}, {"JD": Time("2024-03-01T02:03:04.5").jd}),
        ({"key": "MJD", "format": "mjd", "scale": "tai"}, {"MJD": str(Time("2024-03-01T02:03:04.5").tai.mjd)}),
        ({"key": "DAY", "time_key": "UT"}, {"DAY": "2024-03-01", "UT": " 02:03:04.5"}),
        ({"key": "DAY", "time_key": "UT"}, {"DAY": "2024-03-01T00:00:00", "UT": "02:03:04.5"}),
    ],
)
def test_every_time_format(entry: dict[str, str], cards: dict[str, Any]) -> None:
    expected = Time("2024-03-01T02:03:04.5", scale="utc").tai.mjd + 15.0 / 86400.0
    assert info_of(cards, begin=entry).midpointMjdTai == pytest.approx(expected, abs=2e-9)


def test_visit_without_a_key_counts_deciseconds_since_2000() -> None:
    begin = Time("2024-03-01T02:03:04.5", scale="utc").tai.mjd
    assert info_of().visit == round((begin - 51544.0) * 864000)
    assert info_of({"DATE-OBS": "2024-03-01T02:03:04.6"}).visit == info_of().visit + 1
    with pytest.raises(DataError, match="before 2000"):
        info_of({"DATE-OBS": "1998-03-01T02:03:04.6"})


@pytest.mark.parametrize(("hours", "night"), [(-12.0, 20240229), (0.0, 20240301), (-2.0, 20240301), (-3.0, 20240229)])
def test_night_is_the_local_date_at_its_beginning(hours: float, night: int) -> None:
    camera = make_camera().model_copy(update={"night_offset_hours": hours})
    assert exposure_info(CARDS, file_name="f", sha256="0", camera=camera).night == night


def test_units_constants_and_maps() -> None:
    info = info_of(
        {"RA": -10.0, "EXPTIME": 2500, "FILTER": 48, "DET": "C02"},
        ra={"key": "RA", "unit": "deg"},
        dec={"value": -30.5},
        exposure_time={"key": "EXPTIME", "unit": "ms"},
        band={"key": "FILTER", "map": {"48": "i"}},
        detector={"key": "DET", "map": {"C02": "5"}},
    )
    assert (info.ra, info.dec, info.exposureTime, info.band, info.detector) == (350.0, -30.5, 2.5, "i", 5)
    assert info_of({"RA": 12.5}).ra == 187.5


@given(st.floats(0, 23.999), st.floats(-89.99, 89.99))
@settings(max_examples=50, deadline=None)
def test_sexagesimal_agrees_with_astropy(hours: float, degrees: float) -> None:
    ra, dec = Angle(hours, "hourangle"), Angle(degrees, "deg")
    texts = {"RA": ra.to_string(sep=":", precision=6), "DEC": dec.to_string(sep=" ", precision=6, alwayssign=True)}
    info = info_of(texts)
    assert info.ra == pytest.approx(Angle(texts["RA"], "hourangle").deg % 360.0, abs=1e-9)
    assert info.dec == pytest.approx(Angle(texts["DEC"], "deg").deg, abs=1e-9)


@pytest.mark.parametrize("key", ["EXPTIME", "DATE-OBS", "RA", "DEC", "FILTER", "IMAGETYP"])
def test_an_absent_card_is_named_with_the_fix(key: str) -> None:
    with pytest.raises(DataError, match=rf"f\.fits: .*{key}.*\[header\..*camera cam"):
        info_of({key: None})


@pytest.mark.parametrize(
    ("cards", "header", "match"),
    [
        ({"EXPTIME": math.nan}, {}, "EXPTIME = nan"),
        ({"EXPTIME": "long"}, {}, "EXPTIME = 'long'"),
        ({"EXPTIME": -1.0}, {}, "exposure time is -1"),
        ({"EXPTIME": True}, {}, "not a finite number"),
        ({"DATE-OBS": "yesterday"}, {}, "not a time in format isot"),
        ({"DATE-OBS": 60000.0}, {"begin": {"key": "DATE-OBS"}}, "could be MJD or JD"),
        ({"DATE-OBS": math.nan}, {"begin": {"key": "DATE-OBS", "format": "mjd"}}, "not a finite number"),
        ({}, {"begin": {"key": "DATE-OBS", "time_key": "UT"}}, "no card UT"),
        ({"RA": math.nan}, {}, "RA = nan"),
        ({"RA": "12:34"}, {"ra": {"key": "RA"}}, "hours or degrees"),
        ({"RA": "12:99:00"}, {}, "no sexagesimal"),
        ({"RA": "12:xx:00"}, {}, "no sexagesimal"),
        ({"DEC": 95.0}, {}, "not on the sky"),
        ({"FILTER": "  "}, {}, "FILTER is empty"),
        ({"FILTER": "u"}, {"band": {"key": "FILTER", "map": {"g": "g"}}}, "knows g"),
        ({"IMAGETYP": "focus"}, {}, r"map \(which knows object, zero, dark\)"),
        ({"IMAGETYP": "focus"}, {"kind": {"key": "IMAGETYP"}}, "kind of exposure is 'focus'"),
        ({"V": 1.5}, {"visit": {"key": "V"}}, "not a whole number"),
        ({"V": "x"}, {"visit": {"key": "V"}}, "not a finite number"),
    ],
)
def test_an_unusable_card_is_refused(cards: dict[str, Any], header: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        info_of(cards, **header)


def test_calibration_frames_need_no_pointing_and_no_band() -> None:
    info = info_of({"IMAGETYP": "zero", "RA": None, "DEC": "none", "FILTER": None, "EXPTIME": 0.0})
    assert math.isnan(info.ra)
    assert (info.kind, info.band, info.exposureTime) == ("bias", "", 0.0)
