"""The isr worker: signature removal and characterization of one raw exposure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from schemas.errors import DataError
from workers.characterize.color_terms import ColorTerm
from workers.characterize.limits import Fault, find_fault
from workers.characterize.nightly_terms import known_color_terms
from workers.characterize.pipeline import Options, characterize
from workers.imaging.bright_stars import BrightStars, bright_stars
from workers.imaging.calibration_store import CalibrationStore
from workers.imaging.exposure import Exposure, ExposureInfo
from workers.imaging.fits import write_exposure
from workers.imaging.reference_field import field_stars
from workers.imaging.reference_store import Reference, open_reference
from workers.ingest.pipeline import read_exposure, read_info
from workers.isr.masters import masters_for, open_store
from workers.isr.pipeline import apply_steps, remove_signature
from workers.isr.snaps import combine_snaps
from workers.items import CalexpItem, RawItem, SourcesItem, ended_item
from workers.survey.config import Survey, load_survey
from workers.templates.calexps import read_entry

__all__ = ["CalibratedFile", "IsrStage", "calexp_path", "calibrate_file", "compile_steps", "paired"]


def calexp_path(survey: Survey, info: ExposureInfo) -> Path:
    """Return where the calibrated exposure of a visit and detector is archived."""
    name = f"{info.visit}_{info.detector:03d}.fits"
    return survey.archive / "calexps" / str(info.night) / name


@dataclass
class IsrStage:
    """Raw bytes in, calibrated exposure (nJy) out; optionally archived as FITS."""

    survey: Survey
    reference: Reference
    store: CalibrationStore
    colorTerms: Mapping[str, ColorTerm]
    name: str = field(default="isr", init=False)

    @classmethod
    def open(cls, survey: Survey) -> IsrStage:
        """Bind the stage to the survey's reference catalogue and calibrations; raises ConfigurationError."""
        reference = open_reference(survey.path(survey.config.reference.path))
        terms = known_color_terms(survey.color_terms, survey.config.characterize.photometry)
        return cls(survey, reference, open_store(survey), terms)

    def calibrate(self, data: bytes, file_name: str) -> Exposure:
        """Return the calibrated exposure of a raw file's bytes; raises DataError or ConfigurationError."""
        return self._characterized(self._electrons(data, file_name))

    def calibrate_snaps(self, first: tuple[bytes, str], second: tuple[bytes, str]) -> Exposure:
        """Return the calibrated exposure that two snaps of one visit make up, each given as bytes and file name."""
        one, two = self._electrons(*first), self._electrons(*second)
        return self._characterized(combine_snaps(one, two, self.survey.config.isr.snaps))

    def _electrons(self, data: bytes, file_name: str) -> Exposure:
        camera, config = self.survey.camera, self.survey.config.isr
        raw = read_exposure(data, file_name, camera)
        masters = masters_for(raw.info, camera, self.store, config)
        return remove_signature(raw, camera, masters, config, self._bright_stars(raw.info))

    def _bright_stars(self, info: ExposureInfo) -> BrightStars | None:
        """What may throw ghosts on this exposure; asked only where the survey looks for them."""
        options = self.survey.config.isr.ghosts
        if "ghosts" not in self.survey.config.isr.steps:
            return None
        near = self.reference.within(info.ra, info.dec, options.radius).at(info.midpointMjdTai)
        return bright_stars(near, info.band, info.ra, info.dec, options.radius, options.magnitude_limit)

    def _characterized(self, electrons: Exposure) -> Exposure:
        config = self.survey.config.characterize
        boxes = self.survey.camera.detector(electrons.info.detector).boxes
        slack, date = 2.0 * config.astrometry.search_radius_pixels, electrons.info.midpointMjdTai
        stars = field_stars(self.reference, electrons.need_wcs(), electrons.shape, slack, date)
        return characterize(electrons, stars, Options(config, boxes, self.colorTerms, self.survey.camera.site))

    def fault(self, exposure: Exposure) -> Fault | None:
        """Return the limit that a calibrated exposure does not keep."""
        return find_fault(exposure.metrics, self.survey.config.characterize.limits)

    def process(self, item: RawItem) -> CalexpItem | SourcesItem:
        """Calibrate one exposure from the bus; one beyond the survey's limits ends here and is not archived."""
        exposure = self.calibrate(item.data, item.info.fileName)
        fault = self.fault(exposure)
        if fault is not None:
            limit = exposure.metrics["psfLimit"]
            return ended_item(exposure, item, fault.outcome, failure=fault.text, psfLimit=limit)
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


def calibrate_file(folder: str, raw: Path, output: Path | None = None, second: Path | None = None) -> CalibratedFile:
    """Calibrate one raw file of the survey in `folder`, with the `second` snap of its visit, and write the result.

    What can't be calibrated is told, not raised.
    """
    stage = _stage(folder)
    try:
        given = [(path.read_bytes(), path.name) for path in (raw, second) if path is not None]
        exposure = stage.calibrate(*given[0]) if second is None else stage.calibrate_snaps(given[0], given[1])
    except OSError as error:
        return CalibratedFile(raw, None, {}, f"can't be read: {error.strerror}")
    except DataError as error:
        return CalibratedFile(raw, None, {}, str(error))
    path = calexp_path(stage.survey, exposure.info)
    if output is not None:
        path = output if output.suffix else output / path.name
    shown = {name: exposure.metrics[name] for name in _SHOWN if name in exposure.metrics}
    fault = stage.fault(exposure)
    if fault is not None and output is None:
        return CalibratedFile(raw, None, shown, f"{fault.outcome}: {fault.text}; not archived (-o writes it elsewhere)")
    write_exposure(path, exposure)
    return CalibratedFile(raw, path, shown)


def compile_steps(folder: str, raw: Path, without: tuple[str, ...]) -> None:
    """Take a raw file through the survey's steps except some, for the sake of their loops: compiled once, then on disk.

    Processes that start together on a new machine would each compile all of them, half a minute long.
    """
    survey = load_survey(Path(folder))
    config = survey.config.isr
    steps = tuple(name for name in config.steps if name not in without)
    frame = read_exposure(raw.read_bytes(), raw.name, survey.camera)
    masters = masters_for(frame.info, survey.camera, open_store(survey), config, steps)
    apply_steps(frame, survey.camera, masters, config, steps)


def paired(paths: Sequence[Path], survey: Survey) -> list[tuple[Path, Path]]:
    """Return the files of snaps in pairs, by visit and detector; raises DataError for what is not two of one."""
    visits: dict[str, list[tuple[float, Path]]] = {}
    for path in paths:
        info = read_info(path.read_bytes(), path.name, survey.camera)
        visits.setdefault(info.label, []).append((info.midpointMjdTai, path))
    for label, found in sorted(visits.items()):
        if len(found) != 2:
            names = ", ".join(path.name for _, path in found)
            raise DataError(f"exposure {label} has {len(found)} of two snaps ({names}); give both, and no others")
    pairs = [[path for _, path in sorted(found)] for _, found in sorted(visits.items())]
    return [(first, second) for first, second in pairs]


@cache
def _stage(folder: str) -> IsrStage:
    """Bind the stage once per process."""
    return IsrStage.open(load_survey(Path(folder)))
