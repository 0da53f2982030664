"""Master calibrations: what they apply to, where they are kept, and which one an exposure gets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from schemas.errors import ConfigurationError, DataError
from workers.imaging.exposure import ExposureInfo, FloatImage, MaskImage, frozen_array
from workers.imaging.fits import (
    card_of,
    hdus_to_bytes,
    open_hdus,
    planes_from_hdus,
    planes_to_hdus,
    write_atomically,
)

__all__ = [
    "FOREVER",
    "KINDS",
    "Calibration",
    "CalibrationSet",
    "CalibrationStore",
    "calibration_from_bytes",
    "calibration_to_bytes",
    "make_calibration",
]

KINDS = {"bias": "adu", "dark": "adu/s", "flat": "1", "defects": "1"}
"""Unit of the image of each kind of master; an image of defects is all zero, its mask is what counts."""

FOREVER = 1.0e6
"""MJD TAI that stands for 'until something newer is there'."""

_CACHED = 8


@dataclass(frozen=True)
class Calibration:
    """One master of one detector; the planes have the shape of the assembled detector, in the unit of `KINDS`."""

    kind: str
    id: str
    """``<kind>-<detector>-<band or all>-<12 hex digits of the content's sha256>``."""
    instrument: str
    detector: int
    band: str
    """Empty where the kind does not depend on the band."""
    validFrom: float
    """MJD TAI, inclusive."""
    validTo: float
    """MJD TAI, inclusive."""
    image: FloatImage
    variance: FloatImage
    mask: MaskImage
    inputs: tuple[str, ...] = ()
    """sha256 of the raw files, sorted."""
    metadata: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the planes read-only."""
        for name, dtype in (("image", np.float32), ("variance", np.float32), ("mask", np.int32)):
            plane = np.ascontiguousarray(getattr(self, name), dtype=dtype)
            object.__setattr__(self, name, frozen_array(plane))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def check_applies(self, info: ExposureInfo, shape: tuple[int, int]) -> None:
        """Raise ConfigurationError where this master is of another instrument, detector, band, time or shape."""
        wrong = [
            f"{name} {mine!r} instead of {theirs!r}"
            for name, mine, theirs in (
                ("instrument", self.instrument, info.instrument),
                ("detector", self.detector, info.detector),
                ("band", self.band, info.band if self.band else ""),
                ("shape", self.image.shape, shape),
            )
            if mine != theirs
        ]
        if not self.validFrom <= info.midpointMjdTai <= self.validTo:
            wrong.append(f"valid {self.validFrom:.5f}..{self.validTo:.5f} instead of at {info.midpointMjdTai:.5f}")
        if wrong:
            raise ConfigurationError(
                f"calibration {self.id} does not fit exposure {info.label} ({info.fileName}): {'; '.join(wrong)}. "
                f"Make one that does with `skydelta calibrate {self.kind}`"
            )


def make_calibration(
    kind: str,
    *,
    instrument: str,
    detector: int,
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    mask: NDArray[np.integer],
    band: str = "",
    validFrom: float = 0.0,
    validTo: float = FOREVER,
    inputs: Iterable[str] = (),
    metadata: Mapping[str, float] | None = None,
) -> Calibration:
    """Return a Calibration whose id follows from its content: the same input gives the same id."""
    if kind not in KINDS:
        raise ConfigurationError(f"unknown calibration kind {kind!r}; there are {', '.join(KINDS)}")
    if not image.shape == variance.shape == mask.shape:
        raise DataError(f"{kind} of detector {detector}: image, variance and mask differ in shape")
    pixels = np.ascontiguousarray(image, np.float32)
    noise = np.ascontiguousarray(variance, np.float32)
    flags = np.ascontiguousarray(mask, np.int32)
    used, extra = tuple(sorted(inputs)), dict(sorted((metadata or {}).items()))
    identity = repr((kind, instrument, detector, band, float(validFrom), float(validTo), used, extra))
    digest = hashlib.sha256(identity.encode())
    for plane in (pixels, noise, flags):
        digest.update(plane.data)
    name = f"{kind}-{detector}-{band or 'all'}-{digest.hexdigest()[:12]}"
    return Calibration(
        kind=kind,
        id=name,
        instrument=instrument,
        detector=detector,
        band=band,
        validFrom=float(validFrom),
        validTo=float(validTo),
        image=pixels,
        variance=noise,
        mask=flags,
        inputs=used,
        metadata=extra,
    )


@dataclass(frozen=True)
class CalibrationSet:
    """The masters that one exposure needs, by kind."""

    by_kind: Mapping[str, Calibration] = field(default_factory=dict)

    def need(self, kind: str, info: ExposureInfo, shape: tuple[int, int]) -> Calibration:
        """Return the master of `kind` after checking that it applies; raises ConfigurationError."""
        if kind not in self.by_kind:
            raise ConfigurationError(
                f"exposure {info.label} ({info.fileName}) needs a {kind} and none was given; "
                f"make one with `skydelta calibrate {kind}`, or take {kind!r} out of isr.steps in survey.toml"
            )
        self.by_kind[kind].check_applies(info, shape)
        return self.by_kind[kind]

    def ids(self) -> dict[str, str]:
        """Return the calibration id by kind: the provenance of what these were applied to."""
        return {kind: calibration.id for kind, calibration in sorted(self.by_kind.items())}


@dataclass(frozen=True)
class _Entry:
    """What selection needs to know of a file without reading its pixels."""

    kind: str
    id: str
    instrument: str
    band: str
    detector: int
    validFrom: float
    validTo: float


class CalibrationStore:
    """A folder of masters, one FITS file each, named by id. Files are never changed, only added."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._entries: dict[str, _Entry] = {}
        self._loaded: dict[str, Calibration] = {}

    def save(self, calibration: Calibration) -> Path:
        """Write the master as ``<id>.fits``, complete or not at all; saving it again changes nothing."""
        path = self.root / f"{calibration.id}.fits"
        if not path.exists():
            write_atomically(path, calibration_to_bytes(calibration))
        return path

    def load(self, name: str) -> Calibration:
        """Return the master with this id (the last few stay in memory); raises DataError where it is not there."""
        if name in self._loaded:
            self._loaded[name] = self._loaded.pop(name)
            return self._loaded[name]
        path = self.root / f"{name}.fits"
        calibration = calibration_from_bytes(_bytes_of(path), str(path))
        self._loaded[name] = calibration
        while len(self._loaded) > _CACHED:
            del self._loaded[next(iter(self._loaded))]
        return calibration

    def select(self, info: ExposureInfo, kinds: Iterable[str]) -> CalibrationSet:
        """Return for each kind the master valid at the exposure's midpoint, the one with the latest validFrom.

        Raises ConfigurationError naming the command that makes one where there is none.
        """
        return CalibrationSet({kind: self.load(self._best(info, kind).id) for kind in kinds})

    def _best(self, info: ExposureInfo, kind: str) -> _Entry:
        band = info.band if kind == "flat" else ""
        known = [self._entry(path) for path in sorted(self.root.glob(f"{kind}-{info.detector}-{band or 'all'}-*.fits"))]
        fitting = [
            entry
            for entry in known
            if (entry.kind, entry.instrument, entry.detector, entry.band)
            == (kind, info.instrument, info.detector, band)
            and entry.validFrom <= info.midpointMjdTai <= entry.validTo
        ]
        if not fitting:
            windows = [f"{e.id} ({e.instrument}, MJD {e.validFrom:.3f}..{e.validTo:.3f})" for e in known]
            raise ConfigurationError(
                f"no {kind} for {info.instrument} detector {info.detector}{f' band {band}' if band else ''} "
                f"at MJD {info.midpointMjdTai:.5f} (exposure {info.label}, {info.fileName}) in {self.root}; "
                f"there {'are: ' + ', '.join(windows) if windows else 'is none at all'}. "
                f"Make one with `skydelta calibrate {kind} FILES`"
            )
        return max(fitting, key=lambda entry: (entry.validFrom, entry.id))

    def _entry(self, path: Path) -> _Entry:
        if path.stem not in self._entries:
            try:
                header = fits.getheader(path, 0)
                self._entries[path.stem] = _entry_of(header)
            except (OSError, KeyError, ValueError) as error:
                raise DataError(f"{path} is not a calibration that skydelta wrote: {error}") from error
        return self._entries[path.stem]


def _entry_of(header: fits.Header) -> _Entry:
    return _Entry(
        kind=str(header["KIND"]),
        id=str(header["CALIBID"]),
        instrument=_text(header, "INSTRUME"),
        band=_text(header, "BAND"),
        detector=int(header["DETECTOR"]),
        validFrom=float(header["VALIDFR"]),
        validTo=float(header["VALIDTO"]),
    )


def _text(header: fits.Header, key: str) -> str:
    return unquote(str(header[key]))


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"calibration {path} can't be read: {error.strerror}") from error


def calibration_to_bytes(calibration: Calibration) -> bytes:
    """Return the master as multi-extension FITS: primary header, IMAGE, MASK, VARIANCE; equal content, equal bytes."""
    header = fits.Header()
    header["KIND"], header["CALIBID"] = calibration.kind, calibration.id
    header["INSTRUME"], header["BAND"] = card_of(calibration.instrument), card_of(calibration.band)
    header["DETECTOR"] = calibration.detector
    header["VALIDFR"] = (card_of(calibration.validFrom), "MJD TAI")
    header["VALIDTO"] = (card_of(calibration.validTo), "MJD TAI")
    for number, sha256 in enumerate(calibration.inputs):
        header[f"IN{number:05d}"] = sha256
    for name, value in calibration.metadata.items():
        header[f"HIERARCH META {name}"] = card_of(float(value))
    unit = KINDS[calibration.kind]
    return hdus_to_bytes(header, planes_to_hdus(calibration.image, calibration.mask, calibration.variance, unit))


def calibration_from_bytes(data: bytes, label: str) -> Calibration:
    """Read a master back; raises DataError where the bytes are damaged or no calibration."""
    with open_hdus(data, label) as hdus:
        header = hdus[0].header
        image, mask, variance = planes_from_hdus(hdus, label)
        try:
            entry = _entry_of(header)
            calibration = Calibration(
                kind=entry.kind,
                id=entry.id,
                instrument=entry.instrument,
                detector=entry.detector,
                band=entry.band,
                validFrom=entry.validFrom,
                validTo=entry.validTo,
                image=image,
                variance=variance,
                mask=mask,
                inputs=tuple(str(header[key]) for key in header if key[:2] == "IN" and key[2:].isdigit()),
                metadata={key[5:]: float(header[key]) for key in header if key.startswith("META ")},
            )
        except (KeyError, ValueError) as error:
            raise DataError(f"{label}: not a calibration that skydelta wrote: {error}") from error
    return calibration
