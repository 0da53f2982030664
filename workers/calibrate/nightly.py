"""What one night's bias, dark or flat frames say of their detector: a record for the change-point finder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.calibrate.frames import Frames
from workers.calibrate.night_families import Family, families_of
from workers.imaging.exposure import ExposureInfo
from workers.imaging.masks import MaskPlane
from workers.survey.camera import Detector

__all__ = ["STEPS", "NightStatistics", "measure_nights", "night_statistics", "nights_from_json", "nights_to_json"]

_Float = NDArray[np.float64]

STEPS = {
    "bias": ("overscan", "saturation"),
    "dark": ("overscan", "saturation", "bias"),
    "flat": ("overscan", "saturation", "bias", "dark"),
}
"""Steps of isr.steps that the frames of each kind go through before they are measured."""

_UNUSABLE = int(MaskPlane.SATURATED | MaskPlane.NO_DATA | MaskPlane.BAD)
_DIGITS = 7
_ERROR_DIGITS = 3


@dataclass(frozen=True)
class NightStatistics:
    """One night of one detector, one kind (one band and lamp) in numbers; the families of `night_families`."""

    kind: str
    instrument: str
    detector: int
    band: str
    lamp: str
    night: int
    """YYYYMMDD"""
    begin: float
    """MJD TAI, midpoint of the first frame."""
    end: float
    """MJD TAI, midpoint of the last frame."""
    inputs: tuple[str, ...]
    """sha256 of the frames, in order of time."""
    families: Mapping[str, Family]

    @property
    def frames(self) -> int:
        """Count of the frames."""
        return len(self.inputs)

    @property
    def group(self) -> tuple[str, str, int, str, str]:
        """What nights must share to be one series: kind, instrument, detector, band, lamp."""
        return (self.kind, self.instrument, self.detector, self.band, self.lamp)


def measure_nights(frames: Frames, survey_steps: Sequence[str] | None = None) -> list[NightStatistics]:
    """Return the statistics of each night that `frames` has, in order; one frame is in memory at a time.

    Frames go through those of `survey_steps` (default: all) that are among the `STEPS` of their kind.
    """
    nights: dict[int, list[int]] = {}
    for index, info in enumerate(frames.infos):
        nights.setdefault(info.night, []).append(index)
    return [_measured(frames, indices, survey_steps) for _, indices in sorted(nights.items())]


def _measured(frames: Frames, indices: list[int], survey_steps: Sequence[str] | None) -> NightStatistics:
    """Spool the night's reduced frames into a file, unusable pixels NaN, and measure that."""
    infos = [frames.infos[index] for index in indices]
    steps = tuple(name for name in _steps(infos) if survey_steps is None or name in survey_steps)
    shape = (len(indices), frames.detector.height, frames.detector.width)
    with tempfile.TemporaryDirectory(prefix="skydelta-") as folder:
        path = Path(folder) / "night"
        with path.open("wb") as stream:
            for index in indices:
                exposure = frames.reduced(index, steps)
                unusable = (exposure.mask & np.int32(_UNUSABLE)) != 0
                image = np.where(unusable, np.float32(np.nan), exposure.image)
                stream.write(np.ascontiguousarray(image, np.float32).data)
        stack = np.memmap(path, np.float32, mode="r", shape=shape)
        statistics = night_statistics(stack, infos, frames.detector, lamp=frames.lamp)
        del stack
    return statistics


def _steps(infos: Sequence[ExposureInfo]) -> tuple[str, ...]:
    kind = infos[0].kind
    if kind not in STEPS:
        raise DataError(f"{infos[0].fileName} is a {kind} frame: nightly statistics are of {', '.join(STEPS)} frames")
    return STEPS[kind]


def night_statistics(
    stack: NDArray[np.float32], infos: Sequence[ExposureInfo], detector: Detector, *, lamp: str = ""
) -> NightStatistics:
    """Return the statistics of frames float32 (n, height, width), ADU, after their kind's `STEPS`; NaN is unusable.

    The frames are of one night, kind and band. A flat is brought to its own level first, a dark divided by its time.
    Raises DataError where they are not alike, or a flat has no light or a dark no time.
    """
    _steps(infos)
    kind = infos[0].kind
    if len({(i.kind, i.instrument, i.detector, i.night, i.band if kind == "flat" else "") for i in infos}) != 1:
        names = ", ".join(info.fileName for info in infos)
        raise DataError(f"statistics of a night need frames of one night, kind, detector and band: {names}")
    scaled, lamp_family = _scaled(stack, infos)
    ordered = sorted(infos, key=lambda info: (info.midpointMjdTai, info.sha256))
    return NightStatistics(
        kind=kind,
        instrument=infos[0].instrument,
        detector=infos[0].detector,
        band=infos[0].band if kind == "flat" else "",
        lamp=lamp,
        night=infos[0].night,
        begin=ordered[0].midpointMjdTai,
        end=ordered[-1].midpointMjdTai,
        inputs=tuple(info.sha256 for info in ordered),
        families={**families_of(kind, scaled, detector), **lamp_family},
    )


def _scaled(stack: NDArray[np.float32], infos: Sequence[ExposureInfo]) -> tuple[NDArray[np.float32], dict[str, Family]]:
    """Return the frames in the unit of their statistics, and for flats the lamp's family."""
    kind = infos[0].kind
    if kind == "bias":
        return stack, {}
    units = np.array(
        [_level(frame) if kind == "flat" else i.exposureTime for frame, i in zip(stack, infos, strict=True)]
    )
    for info, unit in zip(infos, units, strict=True):
        if not unit > 0:
            what = "its level is not above 0" if kind == "flat" else f"it was exposed {info.exposureTime} s"
            raise DataError(f"{info.fileName} says nothing of the detector: {what}; leave this {kind} out")
    scaled = np.asarray(stack / units[:, None, None].astype(np.float32), np.float32)
    if kind == "dark":
        return scaled, {}
    rates = units / np.array([info.exposureTime if info.exposureTime > 0 else np.nan for info in infos])
    error = rates.std(ddof=1) / np.sqrt(len(rates)) if len(rates) > 1 else np.nan
    return scaled, {"lamp": Family(("level",), np.array([rates.mean()]), np.array([error]))}


def _level(frame: NDArray[np.float32]) -> float:
    good = frame[np.isfinite(frame)]
    return float(np.median(good)) if good.size else np.nan


def nights_to_json(nights: Sequence[NightStatistics]) -> str:
    """Return records as a JSON list, a line per night by group and time; values have seven digits, errors three."""
    ordered = sorted(nights, key=lambda night: (night.group, night.night))
    lines = ",\n".join(json.dumps(_tree(night), separators=(",", ":")) for night in ordered)
    return f"[\n{lines}\n]\n"


def _tree(night: NightStatistics) -> dict[str, Any]:
    names = ("kind", "instrument", "detector", "band", "lamp", "night", "begin", "end")
    families = {
        name: {"names": list(f.names), "values": _numbers(f.values), "errors": _numbers(f.errors, _ERROR_DIGITS)}
        for name, f in sorted(night.families.items())
    }
    return {**{name: getattr(night, name) for name in names}, "inputs": list(night.inputs), "families": families}


def _numbers(values: _Float, digits: int = _DIGITS) -> list[float | None]:
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values]


def nights_from_json(text: str, label: str) -> list[NightStatistics]:
    """Read records back; raises DataError naming `label` and the record where the text is not what was written."""
    try:
        trees = json.loads(text)
    except ValueError as error:
        raise DataError(f"{label}: no nightly statistics that skydelta wrote: {error}") from error
    if not isinstance(trees, list):
        raise DataError(f"{label}: no nightly statistics that skydelta wrote: it is no list")
    nights = []
    for number, tree in enumerate(trees, 1):
        try:
            families = {
                name: Family(tuple(map(str, f["names"])), _array(f["values"]), _array(f["errors"]))
                for name, f in tree["families"].items()
            }
            if any(not len(f.names) == len(f.values) == len(f.errors) for f in families.values()):
                raise ValueError("names, values and errors differ in number")
            nights.append(NightStatistics(**{**tree, "inputs": tuple(tree["inputs"]), "families": families}))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{label}, record {number}: no nightly statistics that skydelta wrote: {error}") from error
    return nights


def _array(values: list[float | None]) -> _Float:
    return np.array([np.nan if value is None else float(value) for value in values])
