"""The header map at work: a raw header's cards become an ExposureInfo. Nothing is guessed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from astropy.time import Time

from schemas.errors import DataError
from workers.imaging.exposure import ExposureInfo
from workers.survey.camera import Camera, HeaderKey

__all__ = ["exposure_info", "lamp_of"]

_KINDS = ("science", "bias", "dark", "flat")
_MJD_2000 = 51544.0
_SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True)
class _Source:
    """One header with its names, for error texts."""

    cards: Mapping[str, Any]
    file_name: str
    camera: Camera

    def error(self, field: str, problem: str, fix: str) -> DataError:
        return DataError(f"{self.file_name}: {problem}; {fix} [header.{field}] of camera {self.camera.name}")

    def value(self, field: str, entry: HeaderKey) -> Any:
        """Return the constant, or the card with its words mapped to ours."""
        if entry.key is None:
            return entry.value
        if entry.key not in self.cards:
            fix = "name the right keyword, or a constant value, in"
            raise self.error(field, f"the header has no card {entry.key} (field {field})", fix)
        value = self.cards[entry.key]
        if not entry.map:
            return value.strip() if isinstance(value, str) else value
        word = str(value).strip()
        if word in entry.map.values() or (field == "kind" and word in _KINDS):
            return word  # it is one of our words already
        if word not in entry.map:
            fix = f"add it to map (which knows {', '.join(entry.map)}) in"
            raise self.error(field, f"{entry.key} = {word!r} (field {field}) has no translation", fix)
        return entry.map[word]

    def number(self, field: str, entry: HeaderKey) -> float:
        """Return a finite number."""
        value = self.value(field, entry)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number):
            problem = f"{entry.key or 'value'} = {value!r} (field {field}) is not a finite number"
            raise self.error(field, problem, "repair the header, or name another key in")
        return number

    def integer(self, field: str, entry: HeaderKey) -> int:
        """Return a number without a fraction."""
        value = self.value(field, entry)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and value.isdecimal():
            return int(value)  # a visit of 17 digits would lose some as a float
        number = self.number(field, entry)
        if number != int(number):
            problem = f"{entry.key or 'value'} = {value!r} (field {field}) is not a whole number"
            raise self.error(field, problem, "name another key in")
        return int(number)


def exposure_info(cards: Mapping[str, Any], *, file_name: str, sha256: str, camera: Camera) -> ExposureInfo:
    """Return the identity of an exposure from its header cards by the camera's header map.

    Bias, dark and flat frames may lack a pointing (it becomes NaN), bias and dark frames a band. Anything else that is
    absent, NaN or unreadable raises DataError naming the file, the key, the camera and what to set in camera.toml.
    """
    source, header = _Source(cards, file_name, camera), camera.header
    kind = _kind(source)
    begin = _begin(source)
    seconds = source.number("exposure_time", header.exposure_time)
    seconds /= 1000.0 if header.exposure_time.unit == "ms" else 1.0
    if seconds < 0:
        raise source.error("exposure_time", f"the exposure time is {seconds} s", "name another key in")
    midpoint = Time(begin.tai.mjd + seconds / 2.0 / _SECONDS_PER_DAY, format="mjd", scale="tai")
    ra, dec = _pointing(source, optional=kind != "science")
    return ExposureInfo(
        instrument=camera.name,
        visit=_visit(source, float(begin.tai.mjd)),
        detector=source.integer("detector", header.detector),
        band=_band(source, optional=kind in ("bias", "dark")),
        midpointMjdTai=float(midpoint.mjd),
        exposureTime=seconds,
        ra=ra,
        dec=dec,
        night=_night(begin, camera.night_offset_hours),
        kind=kind,
        sha256=sha256,
        fileName=file_name,
        target=_target(source),
    )


def lamp_of(cards: Mapping[str, Any], *, file_name: str, camera: Camera) -> str:
    """Return the lamp of a flat by ``[header.lamp]``; empty where camera.toml names none or the card is absent."""
    entry, source = camera.header.lamp, _Source(cards, file_name, camera)
    return str(source.value("lamp", entry)).strip() if entry is not None and _present(source, entry) else ""


def _present(source: _Source, entry: HeaderKey) -> bool:
    return entry.key is None or entry.key in source.cards


def _target(source: _Source) -> str:
    entry = source.camera.header.target
    return str(source.value("target", entry)) if entry is not None and _present(source, entry) else ""


def _kind(source: _Source) -> str:
    kind = str(source.value("kind", source.camera.header.kind))
    if kind not in _KINDS:
        fix = f'translate it by map = {{ {kind!r} = "science" }} (or {", ".join(_KINDS[1:])}) in'
        raise source.error("kind", f"the kind of exposure is {kind!r}", fix)
    return kind


def _band(source: _Source, optional: bool) -> str:
    entry = source.camera.header.band
    if optional and not _present(source, entry):
        return ""
    band = str(source.value("band", entry)).strip()
    if not band and not optional:
        raise source.error("band", f"{entry.key} is empty (field band)", "name the right keyword in")
    return band


def _begin(source: _Source) -> Time:
    """Return the shutter's opening as an astropy Time in the scale that camera.toml names."""
    entry = source.camera.header.begin
    value = source.value("begin", entry)
    if entry.time_key is not None:
        if entry.time_key not in source.cards:
            problem = f"the header has no card {entry.time_key} (time of day of field begin)"
            raise source.error("begin", problem, "name the right time_key in")
        value = f"{str(value).strip()[:10]}T{str(source.cards[entry.time_key]).strip()}"
    form = entry.format or ("isot" if isinstance(value, str) else None)
    if form is None:
        fix = 'set format = "mjd" or "jd" in'
        raise source.error("begin", f"{entry.key} = {value!r} could be MJD or JD", fix)
    if form != "isot":
        value = source.number("begin", entry)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "dubious year": leap seconds of years to come are not known
            time = Time(value, format=form, scale=entry.scale)
            return Time(time.tai.jd1, time.tai.jd2, format="jd", scale="tai")
    except (ValueError, TypeError) as error:
        problem = f"{entry.key} = {value!r} is not a time in format {form} ({error})"
        raise source.error("begin", problem, "set key, time_key and format in") from error


def _night(begin: Time, offset_hours: float) -> int:
    """Return the date of UTC plus `offset_hours` as YYYYMMDD."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        utc = begin.utc.mjd
        local = Time(utc + offset_hours / 24.0, format="mjd", scale="utc")
        return int(local.strftime("%Y%m%d"))


def _visit(source: _Source, begin_mjd_tai: float) -> int:
    entry = source.camera.header.visit
    if entry is not None:
        visit = source.integer("visit", entry)
    else:
        visit = round((begin_mjd_tai - _MJD_2000) * _SECONDS_PER_DAY * 10.0)
    if visit < 0:
        problem = f"the visit number is {visit} (before 2000 there is none by time)"
        raise source.error("visit", problem, "name the keyword of a positive integer in")
    return visit


def _pointing(source: _Source, optional: bool) -> tuple[float, float]:
    """Return (ra, dec), degrees ICRS; NaN where `optional` and absent or not a number."""
    header = source.camera.header
    if optional and not (_present(source, header.ra) and _present(source, header.dec)):
        return math.nan, math.nan
    try:
        ra, dec = _angle(source, "ra", header.ra), _angle(source, "dec", header.dec)
    except DataError:
        if optional:
            return math.nan, math.nan
        raise
    if not -360.0 <= ra <= 360.0 or not -90.0 <= dec <= 90.0:
        raise source.error("ra", f"the pointing ({ra}, {dec}) is not on the sky", "check unit and key in")
    return ra % 360.0, dec


def _angle(source: _Source, field: str, entry: HeaderKey) -> float:
    """Return an angle in degrees from a number or from sexagesimal text."""
    value = source.value(field, entry)
    if not isinstance(value, str) or (":" not in value and " " not in value.strip()):
        return source.number(field, entry) * (15.0 if entry.unit == "hourangle" else 1.0)
    if field == "ra" and entry.unit not in ("hourangle", "deg"):
        problem = f"{entry.key} = {value!r} could be hours or degrees"
        raise source.error(field, problem, 'set unit = "hourangle" or "deg" in')
    try:
        first, *rest = (float(part) for part in value.replace(":", " ").split())
    except ValueError:
        first, rest = math.nan, []
    if not math.isfinite(first) or len(rest) > 2 or any(not 0.0 <= part < 60.0 for part in rest):
        problem = f"{entry.key} = {value!r} (field {field}) is no sexagesimal angle"
        raise source.error(field, problem, "name another key in")
    size = abs(first) + sum(part / 60.0 ** (place + 1) for place, part in enumerate(rest))
    signed = -size if value.strip().startswith("-") else size
    return signed * (15.0 if entry.unit == "hourangle" else 1.0)
