"""The isr worker: signature removal and characterization of one raw exposure."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from schemas.errors import DataError
from workers.characterize.pipeline import characterize
from workers.imaging.calibration_store import CalibrationStore
from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.fits import write_exposure
from workers.imaging.reference import ReferenceCatalogue, load_reference
from workers.ingest.pipeline import read_exposure
from workers.isr.masters import masters_for, open_store
from workers.isr.pipeline import remove_signature
from workers.items import CalexpItem, RawItem
from workers.survey.config import Survey, load_survey
from workers.templates.calexps import read_entry

__all__ = ["CalibratedFile", "IsrStage", "calexp_path", "calibrate_file"]


def calexp_path(survey: Survey, info: ExposureInfo) -> Path:
    """Return where the calibrated exposure of a visit and detector is archived."""
    name = f"{info.visit}_{info.detector:03d}.fits"
    return survey.archive / "calexps" / str(info.night) / name


@dataclass
class IsrStage:
    """Raw bytes in, calibrated exposure (nJy) out; optionally archived as FITS."""

    survey: Survey
    reference: ReferenceCatalogue
    store: CalibrationStore
    name: str = field(default="isr", init=False)

    @classmethod
    def open(cls, survey: Survey) -> IsrStage:
        """Bind the stage to the survey's reference catalogue and calibrations; raises ConfigurationError."""
        reference = load_reference(survey.path(survey.config.reference.path))
        return cls(survey, reference, open_store(survey))

    def calibrate(self, data: bytes, file_name: str) -> Exposure:
        """Return the calibrated exposure of a raw file's bytes; raises DataError or ConfigurationError."""
        config = self.survey.config
        raw = read_exposure(data, file_name, self.survey.camera)
        masters = masters_for(raw.info, self.survey.camera, self.store, config.isr)
        electrons = remove_signature(raw, self.survey.camera, masters, config.isr)
        return characterize(electrons, self.reference, config.characterize)

    def process(self, item: RawItem) -> CalexpItem:
        """Calibrate one exposure from the bus."""
        exposure = self.calibrate(item.data, item.info.fileName)
        path = calexp_path(self.survey, exposure.info)
        if self.survey.config.isr.keep_calexps and not _holds_another(path, exposure.info):
            write_exposure(path, exposure)
        return CalexpItem(exposure, item.tile, item.stageTimes)


def _holds_another(path: Path, info: ExposureInfo) -> bool:
    """Tell whether an exposure of this identity but of other raw bytes is archived: the first one stands."""
    try:
        return path.exists() and read_entry(path).sha256 != info.sha256
    except DataError:
        return False  # damaged: better replaced


@dataclass(frozen=True)
class CalibratedFile:
    """How one raw file given by hand ended."""

    raw: Path
    path: Path | None
    metrics: dict[str, float]
    error: str = ""


_SHOWN = ("background", "seeingArcsec", "nPsfStars", "nMatched", "astrometricRms", "zeroPoint", "psfLimit")


def calibrate_file(folder: str, raw: Path, output: Path | None = None) -> CalibratedFile:
    """Calibrate one raw file of the survey in `folder` and write it; a file that can't be is told, not raised."""
    stage = _stage(folder)
    try:
        exposure = stage.calibrate(raw.read_bytes(), raw.name)
    except OSError as error:
        return CalibratedFile(raw, None, {}, f"can't be read: {error.strerror}")
    except DataError as error:
        return CalibratedFile(raw, None, {}, str(error))
    path = calexp_path(stage.survey, exposure.info)
    if output is not None:
        path = output if output.suffix else output / path.name
    write_exposure(path, exposure)
    return CalibratedFile(raw, path, {name: exposure.metrics[name] for name in _SHOWN if name in exposure.metrics})


@cache
def _stage(folder: str) -> IsrStage:
    """Bind the stage once per process."""
    return IsrStage.open(load_survey(Path(folder)))
