"""Raw calibration frames in, one master in the store out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigurationError, DataError
from workers.calibrate import bias, dark, flat
from workers.calibrate.combine import Combined, combine, frame_noise
from workers.imaging.calibrations import FOREVER, Calibration, CalibrationSet, CalibrationStore, make_calibration
from workers.imaging.exposure import Exposure, ExposureInfo, FloatImage, RawExposure
from workers.imaging.masks import MaskPlane
from workers.survey.camera import Camera
from workers.survey.config import IsrConfig

__all__ = ["RawSource", "Reduce", "make_master"]

Reduce = Callable[[RawExposure, Camera, CalibrationSet, tuple[str, ...]], Exposure]
"""`workers.isr.pipeline.apply_steps`, handed in because pipelines don't import each other."""

RawSource = RawExposure | Callable[[], RawExposure]
"""A raw exposure, or what loads it when its turn has come (so that one is in memory at a time)."""

_LEAST_FRAMES = 3
_HALF_DAY = 0.5
_UNUSABLE = MaskPlane.SATURATED | MaskPlane.NO_DATA


@dataclass(frozen=True)
class _Recipe:
    steps: tuple[str, ...]
    frame: Callable[[Exposure], FloatImage]


_RECIPES = {
    "bias": _Recipe(bias.STEPS, bias.frame),
    "dark": _Recipe(dark.STEPS, dark.frame),
    "flat": _Recipe(flat.STEPS, flat.frame),
}


def make_master(
    kind: str,
    raws: Iterable[RawSource],
    camera: Camera,
    store: CalibrationStore,
    reduce: Reduce,
    *,
    steps: tuple[str, ...] = IsrConfig().steps,
    valid_from: float | None = None,
    valid_to: float = FOREVER,
) -> Calibration:
    """Make the master `kind` (bias, dark or flat) of one detector from raw frames, save it in `store` and return it.

    Frames go through those of the survey's `steps` that their kind needs, with masters from `store`. The master is
    valid (MJD TAI, inclusive) from half a day before its first frame, or `valid_from`, until a newer one is there, or
    `valid_to`. One frame is in memory at a time; the stack lies in a temporary file. Raises DataError where the frames
    are fewer than three, of different kinds, instruments, detectors or bands, or one comes twice; ConfigurationError
    for an unknown kind or a master that is missing.
    """
    if kind not in _RECIPES:
        raise ConfigurationError(f"can't make a {kind!r} from frames; there are {', '.join(_RECIPES)}")
    recipe = _RECIPES[kind]
    wanted = tuple(name for name in steps if name in recipe.steps)
    with tempfile.TemporaryDirectory(prefix="skydelta-") as folder:
        path = Path(folder) / "stack"
        infos, shape = _spool(kind, raws, camera, store, reduce, wanted, path)
        stack = np.memmap(path, np.float32, mode="r", shape=(len(infos), *shape))
        noise = frame_noise(stack[0], stack[1])
        combined = combine(stack, noise=noise)
        del stack
    image, variance, mask = _finished(kind, combined)
    begin = min(info.midpointMjdTai for info in infos) - _HALF_DAY
    master = make_calibration(
        kind,
        instrument=infos[0].instrument,
        detector=infos[0].detector,
        band=_band(kind, infos[0]),
        image=image,
        variance=variance,
        mask=mask,
        validFrom=begin if valid_from is None else valid_from,
        validTo=valid_to,
        inputs=[info.sha256 for info in infos],
        metadata=_metadata(image, combined, len(infos), noise),
    )
    store.save(master)
    return master


def _spool(
    kind: str,
    raws: Iterable[RawSource],
    camera: Camera,
    store: CalibrationStore,
    reduce: Reduce,
    steps: tuple[str, ...],
    path: Path,
) -> tuple[list[ExposureInfo], tuple[int, int]]:
    """Reduce frame after frame into one file of float32, unusable pixels NaN; return their infos and shape."""
    infos: list[ExposureInfo] = []
    shape = (0, 0)
    needed = tuple(name for name in steps if name in _RECIPES)
    with path.open("wb") as stream:
        for source in raws:
            raw = source() if callable(source) else source
            _check_alike(kind, raw.info, infos)
            exposure = reduce(raw, camera, store.select(raw.info, needed), steps)
            unusable = (exposure.mask & np.int32(_UNUSABLE)) != 0
            frame = np.where(unusable, np.float32(np.nan), _RECIPES[kind].frame(exposure))
            stream.write(np.ascontiguousarray(frame, np.float32).data)
            infos.append(raw.info)
            shape = exposure.shape
    if len(infos) < _LEAST_FRAMES:
        raise DataError(f"a master {kind} needs at least {_LEAST_FRAMES} frames, {len(infos)} were given")
    return infos, shape


def _check_alike(kind: str, info: ExposureInfo, before: list[ExposureInfo]) -> None:
    """Raise DataError where a frame does not belong to those before it."""
    if info.kind != kind:
        raise DataError(
            f"{info.fileName} is a {info.kind} frame, not a {kind}: leave it out, or mend [header.kind] in camera.toml"
        )
    for other in before:
        if other.sha256 == info.sha256:
            raise DataError(f"{info.fileName} and {other.fileName} are the same frame; give it once")
    for name, mine, theirs in (
        ("instrument", info.instrument, before[0].instrument if before else info.instrument),
        ("detector", info.detector, before[0].detector if before else info.detector),
        ("band", _band(kind, info), _band(kind, before[0]) if before else _band(kind, info)),
    ):
        if mine != theirs:
            raise DataError(
                f"{info.fileName} has {name} {mine!r} and {before[0].fileName} has {theirs!r}: "
                f"one master {kind} takes frames of one {name}; run the command for each"
            )


def _band(kind: str, info: ExposureInfo) -> str:
    return info.band if kind == "flat" else ""


def _finished(kind: str, combined: Combined) -> tuple[FloatImage, FloatImage, NDArray[np.int32]]:
    """Return the planes of the master; pixels that no frame had become BAD with value 0 (a flat: 1)."""
    image, variance = combined.mean, combined.variance
    mask: NDArray[np.int32] = np.zeros(image.shape, np.int32)
    if kind == "flat":
        image, variance, mask = flat.normalised(image, variance)
    empty = combined.count == 0
    mask = np.where(empty, mask | np.int32(MaskPlane.BAD), mask)
    fill = np.float32(1.0 if kind == "flat" else 0.0)
    return np.where(empty, fill, image), np.where(empty, np.float32(0), variance), mask


def _metadata(image: FloatImage, combined: Combined, frames: int, noise: float) -> dict[str, float]:
    return {
        "frames": float(frames),
        "median": float(np.median(image)),
        "frameNoise": noise,
        "clippedFraction": 1.0 - float(combined.count.mean()) / frames,
    }
