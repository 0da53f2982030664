"""Make the masters of a survey from raw files: one per detector, and per band, lamp and period where they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from schemas.errors import ConfigurationError, DataError
from workers.calibrate.defects import make_defects
from workers.calibrate.flat import combined_lamps
from workers.calibrate.frames import Frames, LazyRaw, Reduce
from workers.calibrate.groups import Group, archived, grouped, read_file
from workers.calibrate.pipeline import RECIPES, make_master
from workers.imaging.calibration_store import CalibrationStore
from workers.imaging.calibrations import Calibration
from workers.isr.masters import masters_for, open_store
from workers.isr.pipeline import apply_steps
from workers.survey.config import Survey

__all__ = ["DERIVED", "KINDS", "make_masters", "read_file", "reducer"]

DERIVED = ("defects",)
"""Kinds that are made from other masters, without frames."""

KINDS = (*RECIPES, *DERIVED)

Progress = Callable[[str], None]


def reducer(survey: Survey, store: CalibrationStore) -> Reduce:
    """Return what runs steps of signature removal on a raw frame with the survey's options and masters."""
    config = survey.config.isr
    return lambda raw, steps: apply_steps(
        raw, survey.camera, masters_for(raw.info, survey.camera, store, config, steps), config, steps
    )


def make_masters(
    kind: str,
    paths: Iterable[Path],
    survey: Survey,
    progress: Progress = lambda text: None,
    *,
    valid_from: float | None = None,
) -> list[Calibration]:
    """Make the masters of `kind` from raw files of any detectors and bands, and save them.

    Without files those of the survey's archive are taken. `valid_from` (MJD TAI) lets masters serve exposures from
    before their own frames, such as a prior-year archive. Derived kinds need no files. Raises DataError for frames of
    another kind, and where there are none.
    """
    store = open_store(survey)
    if kind in DERIVED:
        return _derived(kind, survey, store)
    if kind not in RECIPES:
        raise ConfigurationError(f"can't make a {kind!r}; there are {', '.join(KINDS)}")
    accepted = RECIPES[kind].accepted
    files = list(paths) or archived(survey, accepted)
    if not files:
        raise DataError(f"no {' or '.join(accepted)} frames were named and {survey.archive / 'raw'} has none")
    made = []
    for group in grouped(kind, accepted, files, survey):
        progress(f"{kind} of {group} from {len(group.sources)} frames")
        frames = _frames(kind, group, group.sources, survey, store)
        master = make_master(frames, survey.config.isr.steps, valid_from=valid_from)
        store.save(master)
        made.append(master)
    return made + (_of_all_lamps(made, survey, store) if kind == "flat" else [])


def _of_all_lamps(made: list[Calibration], survey: Survey, store: CalibrationStore) -> list[Calibration]:
    """Put the lamps' flats of each detector and band together where survey.toml gives their weights."""
    together = []
    for detector, band in sorted({(one.detector, one.band) for one in made}):
        weights = survey.config.calibrate.lamp_weights.get(band)
        if weights:
            flats = {one.lamp: one for one in made if (one.detector, one.band) == (detector, band) and one.lamp}
            together.append(combined_lamps(flats, weights))
            store.save(together[-1])
    return together


def _frames(kind: str, group: Group, sources: tuple[LazyRaw, ...], survey: Survey, store: CalibrationStore) -> Frames:
    recipe = RECIPES[kind]
    reduce = reducer(survey, store)
    return Frames(kind, survey.camera, sources, reduce, accepted=recipe.accepted, least=recipe.least, lamp=group.lamp)


def _derived(kind: str, survey: Survey, store: CalibrationStore) -> list[Calibration]:
    made = []
    for detector in survey.camera.detectors:
        dark, flat = store.newest("dark", detector.id), store.newest("flat", detector.id)
        if dark is None and flat is None:
            raise DataError(
                f"detector {detector.id} has neither a master dark nor a master flat to find defects in; "
                "run `skydelta calibrate dark` and `skydelta calibrate flat` first"
            )
        defects = make_defects(dark, flat)
        store.save(defects)
        made.append(defects)
    return made
