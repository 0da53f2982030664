"""Make the masters of a survey from raw files: one per detector, and per band for flats."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from schemas.errors import DataError
from workers.calibrate.defects import make_defects
from workers.calibrate.pipeline import RawSource, make_master
from workers.imaging.calibrations import Calibration, CalibrationStore
from workers.imaging.exposure import RawExposure
from workers.ingest.pipeline import read_exposure
from workers.isr.pipeline import apply_steps
from workers.survey.config import Survey

__all__ = ["KINDS", "make_masters", "read_file"]

KINDS = ("bias", "dark", "flat", "defects")


def read_file(path: Path, survey: Survey) -> RawExposure:
    """Return the raw exposure in a file; raises DataError where it can't be read or does not fit the camera."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    return read_exposure(data, path.name, survey.camera)


def make_masters(
    kind: str,
    paths: Iterable[Path],
    survey: Survey,
    progress: Callable[[str], None] = lambda text: None,
    *,
    valid_from: float | None = None,
) -> list[Calibration]:
    """Make the masters of `kind` from raw files of any detectors and bands; those of another kind are an error.

    `valid_from` (MJD TAI) lets masters serve exposures from before their own frames, such as a prior-year archive.
    Defects are made from the newest dark and flat of each detector, without files.
    """
    store = CalibrationStore(survey.calibrations)
    if kind == "defects":
        return _defects(survey, store)
    groups: dict[tuple[int, str], list[Path]] = {}
    for path in sorted(paths):
        info = read_file(path, survey).info
        if info.kind != kind:
            raise DataError(
                f"{path} is a {info.kind} frame, not a {kind}; give frames of one kind, or mend header.kind"
            )
        groups.setdefault((info.detector, info.band if kind == "flat" else ""), []).append(path)
    made = []
    for (detector, band), files in sorted(groups.items()):
        progress(f"{kind} of detector {detector} {band}".rstrip() + f" from {len(files)} frames")
        loaders: list[RawSource] = [partial(read_file, path, survey) for path in files]
        steps = survey.config.isr.steps
        made.append(make_master(kind, loaders, survey.camera, store, apply_steps, steps=steps, valid_from=valid_from))
    return made


def _defects(survey: Survey, store: CalibrationStore) -> list[Calibration]:
    made = []
    for detector in survey.camera.detectors:
        newest = {kind: _newest(store, kind, detector.id) for kind in ("dark", "flat")}
        if not any(newest.values()):
            raise DataError(
                f"detector {detector.id} has neither a master dark nor a master flat to find defects in; "
                "run `skydelta calibrate dark` and `skydelta calibrate flat` first"
            )
        defects = make_defects(newest["dark"], newest["flat"])
        store.save(defects)
        made.append(defects)
    return made


def _newest(store: CalibrationStore, kind: str, detector: int) -> Calibration | None:
    masters = [store.load(path.stem) for path in sorted(store.root.glob(f"{kind}-{detector}-*.fits"))]
    return max(masters, key=lambda master: (master.validFrom, master.id), default=None)
