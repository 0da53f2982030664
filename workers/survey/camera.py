"""camera.toml: detectors, amplifiers, sections, gains and the header map. A camera is data, never a subclass."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from workers.imaging.refraction import Band
from workers.survey.load import load_toml
from workers.survey.reflections import Reflection

__all__ = [
    "Amplifier",
    "Camera",
    "Detector",
    "HeaderKey",
    "HeaderMap",
    "PassBand",
    "PointingWcs",
    "Section",
    "load_camera",
    "parse_section",
]

_SECTION = re.compile(r"^\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]$")


def parse_section(text: str) -> tuple[slice, slice]:
    """Turn a FITS section, ``[17:528,1:520]`` (1-based, inclusive, x first), into numpy (rows, columns) slices."""
    match = _SECTION.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a FITS section like [x0:x1,y0:y1]")
    x0, x1, y0, y1 = (int(part) for part in match.groups())
    if not (1 <= x0 <= x1 and 1 <= y0 <= y1):
        raise ValueError(f"section {text!r} is empty or starts below 1: need 1 <= x0 <= x1 and 1 <= y0 <= y1")
    return slice(y0 - 1, y1), slice(x0 - 1, x1)


def _checked_section(text: str) -> str:
    parse_section(text)
    return text


Section = Annotated[str, AfterValidator(_checked_section)]
"""A FITS section, 1-based and inclusive, x first: ``[x0:x1,y0:y1]``."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Amplifier(_Model):
    """One readout channel of a detector."""

    name: str
    hdu: int = Field(0, ge=0, description="HDU of the raw file that holds its pixels")
    data: Section = Field(description="its light-sensitive pixels in the raw array")
    position: Section = Field(description="where those pixels go in the assembled detector image")
    overscan: Section | None = Field(
        None, description="serial overscan in the raw array: data's rows, and better those of parallel_overscan too"
    )
    parallel_overscan: Section | None = Field(
        None, description="parallel overscan in the raw array; same columns as data"
    )
    flip_x: bool = False
    flip_y: bool = False
    gain: float | None = Field(None, gt=0, description="electrons per ADU; absent: the header's, by header.gain")
    read_noise: float = Field(gt=0, description="electrons")
    saturation: float = Field(gt=0, description="ADU, as stored in the raw file")
    suspect: float | None = Field(None, gt=0, description="ADU above which the response is not trusted")


class Detector(_Model):
    """One CCD: the shape of its assembled image and its amplifiers."""

    id: int = Field(ge=0, le=255)
    name: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    amplifiers: tuple[Amplifier, ...] = Field(min_length=1)
    expected: bool = Field(True, description="false: out of service, visits close without waiting for it")
    offset_x: float = Field(0.0, description="x of the boresight in this detector's pixel frame, 0-based pixels")
    offset_y: float = Field(0.0, description="y of the boresight in this detector's pixel frame, 0-based pixels")

    @model_validator(mode="after")
    def _positions_fit(self) -> Detector:
        for amplifier in self.amplifiers:
            rows, columns = parse_section(amplifier.position)
            if rows.stop > self.height or columns.stop > self.width:
                raise ValueError(
                    f"amplifier {amplifier.name}: position {amplifier.position} leaves {self.width}x{self.height}"
                )
            data = parse_section(amplifier.data)
            if (data[0].stop - data[0].start, data[1].stop - data[1].start) != (
                rows.stop - rows.start,
                columns.stop - columns.start,
            ):
                raise ValueError(f"amplifier {amplifier.name}: data and position differ in shape")
        return self

    @cached_property
    def boxes(self) -> tuple[tuple[int, int, int, int], ...]:
        """Where each amplifier lies on the assembled image: (y0, y1, x0, x1)."""
        places = [parse_section(amplifier.position) for amplifier in self.amplifiers]
        return tuple((rows.start, rows.stop, columns.start, columns.stop) for rows, columns in places)

    @cached_property
    def layout(self) -> str:
        """Fingerprint of the amplifiers' names, order, places and directions: what a calibration must agree with."""
        amplifiers = [(a.name, a.data, a.position, a.flip_x, a.flip_y) for a in self.amplifiers]
        return hashlib.sha256(repr((self.width, self.height, amplifiers)).encode()).hexdigest()[:12]


class HeaderKey(_Model):
    """Where one field comes from: a keyword, or a constant `value`; exactly one of the two."""

    key: str | None = None
    value: str | int | float | None = None
    unit: Literal["s", "ms", "deg", "hourangle", "none"] = "none"
    format: Literal["mjd", "jd", "isot"] | None = Field(None, description="of a time")
    scale: Literal["utc", "tai"] = Field("utc", description="of a time")
    time_key: str | None = Field(
        None, description="second keyword with the time of day, where the first holds the date only"
    )
    map: dict[str, str] = Field(
        default_factory=dict, description='from the header\'s words to ours, e.g. {object = "science"}'
    )

    @model_validator(mode="after")
    def _one_source(self) -> HeaderKey:
        if (self.key is None) == (self.value is None):
            raise ValueError("give exactly one of key and value")
        return self


class HeaderMap(_Model):
    """Which header card holds which field. Nothing is guessed: a mandatory key that is absent is an error."""

    visit: HeaderKey | None = Field(None, description="absent: deciseconds since 2000-01-01 TAI of the beginning")
    detector: HeaderKey = HeaderKey(value=0)
    band: HeaderKey
    begin: HeaderKey = Field(description="time of shutter opening")
    exposure_time: HeaderKey
    ra: HeaderKey
    dec: HeaderKey
    kind: HeaderKey = HeaderKey(value="science")
    gain: HeaderKey | None = None
    target: HeaderKey | None = None
    lamp: HeaderKey | None = Field(None, description="of flats: which LED or lamp shone")


class PointingWcs(_Model):
    """A nominal TAN WCS from the pointing, for cameras whose headers carry none."""

    scale: float = Field(gt=0, description="arcsec per pixel")
    rotation: float = Field(0.0, description="degrees from image up to north through east")
    parity: Literal[1, -1] = Field(1, description="1: east is left when north is up; -1: mirrored")


class Site(_Model):
    """Where the telescope stands: without it airmass is not known."""

    longitude: float = Field(ge=-180, le=360, description="degrees, east positive")
    latitude: float = Field(ge=-90, le=90, description="degrees")
    height: float = Field(0.0, ge=-500, le=9000, description="metres")


class PassBand(_Model):
    """Where a filter lets light through, as a top hat."""

    wavelength_nm: tuple[float, float] = Field(description="shortest and longest, nanometres: half-power points")

    @model_validator(mode="after")
    def _ordered(self) -> PassBand:
        if not 200.0 <= self.wavelength_nm[0] < self.wavelength_nm[1] <= 2500.0:
            raise ValueError("wavelength_nm needs [shortest, longest], nanometres between 200 and 2500")
        return self


class Camera(_Model):
    """Everything about the camera that the pipeline needs."""

    name: str
    header: HeaderMap
    detectors: tuple[Detector, ...] = Field(min_length=1)
    wcs: PointingWcs | None = Field(None, description="absent: the header's WCS is used")
    site: Site | None = Field(
        None, description="absent: airmass and refraction are not known, transparency holds for the zenith"
    )
    bands: dict[str, PassBand] = Field(
        default_factory=dict, description="by band, for refraction; those of ugrizy, UBVRI and Gaia are known"
    )
    night_offset_hours: float = Field(-12.0, description="UTC plus this many hours gives the observing night's date")
    reflections: tuple[Reflection, ...] = Field((), description="ghosts and glints, for the step `ghosts`")

    @model_validator(mode="after")
    def _unique_ids(self) -> Camera:
        ids = [detector.id for detector in self.detectors]
        if len(set(ids)) != len(ids):
            raise ValueError(f"detector ids must differ, they are {ids}")
        return self

    @model_validator(mode="after")
    def _reflections_have_an_origin(self) -> Camera:
        names = [reflection.name for reflection in self.reflections]
        if len(set(names)) != len(names):
            raise ValueError(f"names of reflections must differ, they are {names}")
        lost = [d.name for d in self.detectors if not {"offset_x", "offset_y"} <= d.model_fields_set]
        if self.reflections and lost:
            raise ValueError(
                f"reflections are mapped about the boresight: give offset_x and offset_y of detectors {', '.join(lost)}"
            )
        return self

    @cached_property
    def passbands(self) -> dict[str, Band]:
        """The camera's own bands by name, where camera.toml gives their wavelengths."""
        return {name: Band(*band.wavelength_nm) for name, band in self.bands.items()}

    def detector(self, number: int) -> Detector:
        """Return the detector with this id; KeyError names the ones there are."""
        for detector in self.detectors:
            if detector.id == number:
                return detector
        raise KeyError(f"camera {self.name} has no detector {number}; it has {[d.id for d in self.detectors]}")


def load_camera(path: Path) -> Camera:
    """Read camera.toml; ConfigurationError lists every wrong key at once, with file and position."""
    return load_toml(path, Camera)


def camera_from_dict(tree: dict[str, Any]) -> Camera:
    """Validate a camera given as nested dictionaries (the simulator makes its own)."""
    return Camera.model_validate(tree)
