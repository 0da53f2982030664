"""Master calibrations: what they hold and what they apply to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigurationError, DataError
from workers.imaging.exposure import ExposureInfo, FloatImage, MaskImage, frozen_array

__all__ = [
    "BAND_KINDS",
    "FOREVER",
    "KINDS",
    "TABLE_KINDS",
    "Calibration",
    "CalibrationSet",
    "Tables",
    "make_calibration",
    "misfits",
]

Tables = Mapping[str, NDArray[np.float64]]
"""Named float64 arrays; the first axis counts the amplifiers, in camera.toml's order, where there is one of each."""

KINDS = {
    "bias": "adu",
    "dark": "adu/s",
    "flat": "1",
    "fringe": "1",
    "defects": "1",
    "crosstalk": "",
    "linearity": "",
    "ptc": "",
    "cti": "",
    "brighter_fatter": "",
}
"""Unit of the image of each kind of master; an image of defects is all zero, its mask is what counts."""

TABLE_KINDS = ("crosstalk", "linearity", "ptc", "cti", "brighter_fatter")
"""Kinds that have tables and no picture."""

BAND_KINDS = ("flat", "fringe")
"""Kinds that differ from band to band."""

FOREVER = 1.0e6
"""MJD TAI that stands for 'until something newer is there'."""


@dataclass(frozen=True)
class Calibration:
    """One master of one detector; a picture has the shape of the assembled detector, in the unit of `KINDS`."""

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
    """Of table kinds (0, 0), as `variance` and `mask`."""
    variance: FloatImage
    mask: MaskImage
    layout: str = ""
    """Fingerprint of the detector's amplifiers (`workers.survey.camera.Detector.layout`)."""
    lamp: str = ""
    """Of a flat of one lamp; empty: of a twilight, a screen, or of lamps put together."""
    inputs: tuple[str, ...] = ()
    """sha256 of the raw files, sorted."""
    metadata: Mapping[str, float] = field(default_factory=dict)
    tables: Tables = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the planes read-only."""
        for name, dtype in (("image", np.float32), ("variance", np.float32), ("mask", np.int32)):
            plane = np.ascontiguousarray(getattr(self, name), dtype=dtype)
            object.__setattr__(self, name, frozen_array(plane))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        object.__setattr__(self, "tables", _frozen_tables(self.tables))

    @cached_property
    def flagged(self) -> tuple[NDArray[np.intp], MaskImage]:
        """Flat indices and bits of the pixels whose mask is not zero: few, so that a step need not read the plane."""
        at = np.flatnonzero(self.mask)
        return at, self.mask.ravel()[at]

    @cached_property
    def unresponsive(self) -> NDArray[np.intp]:
        """Flat indices of the pixels of a flat that show no light, or no number."""
        return np.flatnonzero(~((self.image > 0) & (self.image < np.inf)))

    def check_applies(self, info: ExposureInfo, shape: tuple[int, int], layout: str) -> None:
        """Raise ConfigurationError where this master is of another instrument, detector, band, time, shape, layout."""
        wrong = misfits(self, info, layout)
        if self.kind not in TABLE_KINDS and self.image.shape != shape:
            wrong.append(f"shape {self.image.shape} instead of {shape}")
        if wrong:
            raise ConfigurationError(
                f"calibration {self.id} does not fit exposure {info.label} ({info.fileName}): {'; '.join(wrong)}. "
                f"Make one that does with `skydelta calibrate {self.kind}`"
            )


def misfits(calibration: Any, info: ExposureInfo, layout: str) -> list[str]:
    """Return in words why a Calibration, or an entry of the store, does not serve an exposure; empty where it does."""
    wrong = [
        f"{name} {mine!r} instead of {theirs!r}"
        for name, mine, theirs in (
            ("instrument", calibration.instrument, info.instrument),
            ("detector", calibration.detector, info.detector),
            ("band", calibration.band, info.band if calibration.kind in BAND_KINDS else ""),
            ("amplifier layout", calibration.layout, layout),
        )
        if mine != theirs
    ]
    if not calibration.validFrom <= info.midpointMjdTai <= calibration.validTo:
        period = f"{calibration.validFrom:.5f}..{calibration.validTo:.5f}"
        wrong.append(f"valid {period} instead of at {info.midpointMjdTai:.5f}")
    return wrong


def _frozen_tables(tables: Tables) -> Tables:
    return MappingProxyType({name: frozen_array(np.ascontiguousarray(tables[name], float)) for name in sorted(tables)})


def make_calibration(
    kind: str,
    *,
    instrument: str,
    detector: int,
    image: NDArray[np.floating] | None = None,
    variance: NDArray[np.floating] | None = None,
    mask: NDArray[np.integer] | None = None,
    tables: Tables | None = None,
    band: str = "",
    lamp: str = "",
    layout: str = "",
    validFrom: float = 0.0,
    validTo: float = FOREVER,
    inputs: Iterable[str] = (),
    metadata: Mapping[str, float] | None = None,
) -> Calibration:
    """Return a Calibration whose id follows from its content: the same input gives the same id.

    Raises ConfigurationError for an unknown kind, DataError for planes that differ in shape or are absent.
    """
    if kind not in KINDS:
        raise ConfigurationError(f"unknown calibration kind {kind!r}; there are {', '.join(KINDS)}")
    empty = np.zeros((0, 0))
    planes = [empty if plane is None else plane for plane in (image, variance, mask)]
    if not planes[0].shape == planes[1].shape == planes[2].shape:
        raise DataError(f"{kind} of detector {detector}: image, variance and mask differ in shape")
    if (planes[0].size == 0) != (kind in TABLE_KINDS):
        raise DataError(f"{kind} of detector {detector}: {'has a picture' if planes[0].size else 'lacks its picture'}")
    made = Calibration(
        kind=kind,
        id="",
        instrument=instrument,
        detector=detector,
        band=band,
        lamp=lamp,
        layout=layout,
        validFrom=float(validFrom),
        validTo=float(validTo),
        image=planes[0],  # type: ignore[arg-type]
        variance=planes[1],  # type: ignore[arg-type]
        mask=planes[2],  # type: ignore[arg-type]
        inputs=tuple(sorted(inputs)),
        metadata=dict(sorted((metadata or {}).items())),
        tables=tables or {},
    )
    object.__setattr__(made, "id", f"{kind}-{detector}-{band or 'all'}-{_digest(made)}")
    return made


def _digest(made: Calibration) -> str:
    fields = ("kind", "instrument", "detector", "band", "lamp", "layout", "validFrom", "validTo", "inputs")
    identity = repr([*(getattr(made, name) for name in fields), dict(made.metadata)])
    digest = hashlib.sha256(identity.encode())
    for plane in (made.image, made.variance, made.mask):
        digest.update(plane.data)
    for name, table in made.tables.items():
        digest.update(f"{name}{table.shape}".encode())
        digest.update(table.tobytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class CalibrationSet:
    """The masters that one exposure needs, by kind."""

    by_kind: Mapping[str, Calibration] = field(default_factory=dict)

    def need(self, kind: str, info: ExposureInfo, shape: tuple[int, int], layout: str) -> Calibration:
        """Return the master of `kind` after checking that it applies; raises ConfigurationError."""
        if kind not in self.by_kind:
            raise ConfigurationError(
                f"exposure {info.label} ({info.fileName}) needs a {kind} and none was given; "
                f"make one with `skydelta calibrate {kind}`, or change isr.steps in survey.toml"
            )
        self.by_kind[kind].check_applies(info, shape, layout)
        return self.by_kind[kind]

    def ids(self) -> dict[str, str]:
        """Return the calibration id by kind: the provenance of what these were applied to."""
        return {kind: calibration.id for kind, calibration in sorted(self.by_kind.items())}
