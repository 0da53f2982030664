"""Which masters the steps of a survey need for an exposure, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.errors import DataError
from workers.imaging.calibration_store import CalibrationStore
from workers.imaging.calibrations import CalibrationSet
from workers.imaging.exposure import ExposureInfo
from workers.isr.pipeline import needed_kinds
from workers.survey.camera import Camera
from workers.survey.config import Survey
from workers.survey.isr_config import IsrConfig

__all__ = ["layout_of", "masters_for", "open_store"]


def open_store(survey: Survey) -> CalibrationStore:
    """Return the survey's calibrations; flats are taken of the lamps that ``isr.lamps`` names."""
    return CalibrationStore(survey.calibrations, survey.config.isr.lamps)


def layout_of(camera: Camera, info: ExposureInfo) -> str:
    """Return the fingerprint of the amplifiers that read an exposure; raises DataError for an unknown detector."""
    try:
        return camera.detector(info.detector).layout
    except KeyError as error:
        raise DataError(f"{info.fileName}: {error.args[0]}") from error


def masters_for(
    info: ExposureInfo,
    camera: Camera,
    store: CalibrationStore,
    config: IsrConfig,
    steps: Iterable[str] | None = None,
) -> CalibrationSet:
    """Return the masters that `steps` (default: all of the survey's) need; raises ConfigurationError."""
    return store.select(info, needed_kinds(config, steps, info.band), layout_of(camera, info))
