"""The frames that a master is made from, one in memory at a time, and what a solver makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.calibrations import BAND_KINDS
from workers.imaging.exposure import Exposure, ExposureInfo, FloatImage, MaskImage, RawExposure
from workers.survey.camera import Camera, Detector

__all__ = ["Frames", "LazyRaw", "RawSource", "Reduce", "Solution", "band_of"]

Reduce = Callable[[RawExposure, tuple[str, ...]], Exposure]
"""Runs steps of signature removal on a raw exposure, with the survey's masters and options."""


@dataclass(frozen=True)
class LazyRaw:
    """A raw exposure that is read when its turn has come, so that one is in memory at a time."""

    info: ExposureInfo
    load: Callable[[], RawExposure]


RawSource = RawExposure | LazyRaw


@dataclass(frozen=True)
class Solution:
    """What a solver found: tables (float64, by name), numbers about them, and a picture where the kind has one."""

    tables: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    metadata: Mapping[str, float] = field(default_factory=dict)
    image: FloatImage | None = None
    variance: FloatImage | None = None
    mask: MaskImage | None = None


class Frames:
    """The frames of one detector (and band, lamp), in order of time.

    Raises DataError where they are of different instruments, detectors or (where `kind` depends on it) bands, are of
    another kind than `accepted`, or one comes twice.
    """

    def __init__(
        self,
        kind: str,
        camera: Camera,
        sources: Sequence[RawSource],
        reduce: Reduce,
        *,
        accepted: tuple[str, ...],
        least: int = 1,
        lamp: str = "",
    ) -> None:
        self.kind, self.camera, self.lamp = kind, camera, lamp
        self._reduce = reduce
        for number, source in enumerate(sources):
            _check_alike(kind, accepted, source.info, [before.info for before in sources[:number]])
        if len(sources) < least:
            raise DataError(f"a master {kind} needs at least {least} frames, {len(sources)} were given")
        self._sources = sorted(sources, key=lambda one: (one.info.midpointMjdTai, one.info.visit, one.info.sha256))
        self.infos: tuple[ExposureInfo, ...] = tuple(source.info for source in self._sources)
        self.detector: Detector = camera.detector(self.infos[0].detector)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.infos)

    def raw(self, index: int) -> RawExposure:
        """Return a raw frame: whole arrays with overscan, ADU."""
        source = self._sources[index]
        return source.load() if isinstance(source, LazyRaw) else source

    def reduced(self, index: int, steps: tuple[str, ...]) -> Exposure:
        """Return a frame after `steps`; in ADU until the gain step is among them."""
        return self._reduce(self.raw(index), steps)


def band_of(kind: str, info: ExposureInfo) -> str:
    """Return the band of a master made from a frame: empty where the kind does not depend on it."""
    return info.band if kind in BAND_KINDS else ""


def _check_alike(kind: str, accepted: tuple[str, ...], info: ExposureInfo, before: list[ExposureInfo]) -> None:
    """Raise DataError where a frame does not belong to those before it."""
    if info.kind not in accepted:
        raise DataError(
            f"{info.fileName} is a {info.kind} frame, not a {' or '.join(accepted)}: leave it out, "
            "or mend [header.kind] in camera.toml"
        )
    for other in before:
        if other.sha256 == info.sha256:
            raise DataError(f"{info.fileName} and {other.fileName} are the same frame; give it once")
    for name, mine, theirs in (
        ("instrument", info.instrument, before[0].instrument if before else info.instrument),
        ("detector", info.detector, before[0].detector if before else info.detector),
        ("band", band_of(kind, info), band_of(kind, before[0]) if before else band_of(kind, info)),
    ):
        if mine != theirs:
            raise DataError(
                f"{info.fileName} has {name} {mine!r} and {before[0].fileName} has {theirs!r}: "
                f"one master {kind} takes frames of one {name}; run the command for each"
            )
