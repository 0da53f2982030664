"""Make the masters of a survey from raw files: one per detector, and per band, lamp and period where they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from schemas.errors import ConfigurationError, DataError
from workers.calibrate import brighter_fatter
from workers.calibrate.certify import LIMITS, Limit, Verdict, certify
from workers.calibrate.defects import make_defects
from workers.calibrate.flat import combined_lamps
from workers.calibrate.frames import Frames, LazyRaw, Reduce
from workers.calibrate.groups import Group, archived, grouped, read_file
from workers.calibrate.pipeline import RECIPES, make_master
from workers.calibrate.plans import load_plan
from workers.imaging.calibration_store import CalibrationStore
from workers.imaging.calibrations import FOREVER, Calibration, make_calibration
from workers.isr.masters import masters_for, open_store
from workers.isr.pipeline import apply_steps
from workers.survey.config import CalibrateConfig, Survey

__all__ = [
    "DERIVED",
    "KINDS",
    "Made",
    "frames_of",
    "groups_of",
    "limit_of",
    "make_masters",
    "previous_of",
    "read_file",
    "reducer",
]

DERIVED = ("defects", "brighter_fatter")
"""Kinds that are made from other masters, without frames."""

KINDS = (*RECIPES, *DERIVED)

Progress = Callable[[str], None]


def reducer(survey: Survey, store: CalibrationStore) -> Reduce:
    """Return what runs steps of signature removal on a raw frame with the survey's options and masters."""
    config = survey.config.isr
    return lambda raw, steps: apply_steps(
        raw, survey.camera, masters_for(raw.info, survey.camera, store, config, steps), config, steps
    )


@dataclass(frozen=True)
class Made:
    """A master, and whether it was certified: else it lies in quarantine and the one before stays in use."""

    master: Calibration
    verdict: Verdict


def make_masters(
    kind: str,
    paths: Iterable[Path],
    survey: Survey,
    progress: Progress = lambda text: None,
    *,
    valid_from: float | None = None,
    by_period: bool = False,
) -> list[Made]:
    """Make the masters of `kind` from raw files of any detectors and bands, judge and save them.

    Without files those of the survey's archive are taken. `valid_from` (MJD TAI) lets masters serve exposures from
    before their own frames, such as a prior-year archive; `by_period` makes one for each period that
    `workers.calibrate.plans` found, without the days that jump. Derived kinds need no files. Raises DataError for
    frames of another kind, and where there are none.
    """
    store = open_store(survey)
    if kind in DERIVED:
        return [_kept(_derived(kind, one.id, store), survey, store) for one in survey.camera.detectors]
    made = []
    for group in groups_of(kind, paths, survey):
        for part in _by_period(kind, group, survey, progress) if by_period else [Part(group.sources)]:
            progress(f"{kind} of {group} from {len(part.sources)} frames{part.told}")
            frames = frames_of(kind, group, part.sources, survey, store)
            begin = part.begin if valid_from is None else valid_from
            steps, config = survey.config.isr.steps, survey.config.calibrate
            master = make_master(frames, steps, config, valid_from=begin, valid_to=part.end)
            made.append(_kept(master, survey, store, part.reason))
    return made + (_of_all_lamps(made, survey, store) if kind == "flat" else [])


def groups_of(kind: str, paths: Iterable[Path], survey: Survey) -> Iterator[Group]:
    """Yield the groups of files, or of the archive's where none are given, that a kind of master is made from."""
    if kind not in RECIPES:
        raise ConfigurationError(f"can't make a {kind!r}; there are {', '.join(KINDS)}")
    accepted = RECIPES[kind].accepted
    files = list(paths) or archived(survey, accepted)
    if not files:
        raise DataError(f"no {' or '.join(accepted)} frames were named and {survey.archive / 'raw'} has none")
    return grouped(kind, accepted, files, survey)


def frames_of(
    kind: str, group: Group, sources: tuple[LazyRaw, ...], survey: Survey, store: CalibrationStore, least: int = 0
) -> Frames:
    """Return `sources` of a group as the frames of one master, `least` (default: the kind's) at least."""
    recipe = RECIPES[kind]
    return Frames(
        kind,
        survey.camera,
        sources,
        reducer(survey, store),
        accepted=recipe.accepted,
        least=least or recipe.least,
        lamp=group.lamp,
    )


@dataclass(frozen=True)
class Part:
    """The sources of one master, and its validity."""

    sources: tuple[LazyRaw, ...]
    begin: float | None = None
    end: float = FOREVER
    reason: str = ""
    """Why a difference from the master before is to be expected."""

    @property
    def told(self) -> str:
        """The period as a progress line names it."""
        return "" if self.begin is None else f", period from MJD {self.begin:.2f} ({self.reason})"


def _by_period(kind: str, group: Group, survey: Survey, progress: Progress) -> list[Part]:
    """Split a group at the periods' borders; days that jump are left out, and what is too short is told."""
    plan = load_plan(survey, kind, group.detector, group.band, group.lamp)
    parts = []
    for period in plan.periods:
        inside = [one for one in group.sources if period.begin <= one.info.midpointMjdTai < period.end]
        left_out = [one for one in inside if one.info.night in period.left_out]
        kept = tuple(one for one in inside if one.info.night not in period.left_out)
        if left_out:
            progress(f"{kind} of {group}: {len(left_out)} frames of {', '.join(map(str, period.left_out))} left out")
        if len(kept) >= RECIPES[kind].least:
            parts.append(Part(kept, period.begin, period.end, period.reason))
        else:
            progress(f"{kind} of {group}: no master for the period from MJD {period.begin:.2f}: {len(kept)} frames")
    return parts


def _kept(master: Calibration, survey: Survey, store: CalibrationStore, between: str = "") -> Made:
    """Judge a master against the one before it, and save it: in quarantine where it is not certified."""
    detector = survey.camera.detector(master.detector)
    limit = limit_of(master.kind, survey.config.calibrate)
    verdict = certify(master, previous_of(master, store), detector, between=between, limit=limit)
    refused = survey.config.calibrate.quarantine and not verdict.certified
    (store.aside if refused else store).save(master)
    return Made(master, verdict)


def limit_of(kind: str, config: CalibrateConfig) -> Limit | None:
    """Return the limit that ``calibrate.limits`` gives a kind; None for the usual one."""
    return replace(LIMITS[kind], difference=config.limits[kind]) if kind in LIMITS and kind in config.limits else None


def previous_of(master: Calibration, store: CalibrationStore) -> Calibration | None:
    """Return the master that was in use when this one begins: of the same series and layout; None for the first."""
    fields = ("instrument", "band", "lamp", "layout")
    before = [
        entry
        for entry in store.entries(master.kind, master.detector)
        if all(getattr(entry, name) == getattr(master, name) for name in fields)
        and (entry.validFrom, entry.id) < (master.validFrom, master.id)
    ]
    return store.load(before[-1].id) if before else None


def _of_all_lamps(made: list[Made], survey: Survey, store: CalibrationStore) -> list[Made]:
    """Put the lamps' flats of each detector and band together where survey.toml gives their weights."""
    together = []
    flats = [one.master for one in made if one.verdict.certified]
    for detector, band in sorted({(flat.detector, flat.band) for flat in flats}):
        weights = survey.config.calibrate.lamp_weights.get(band)
        if weights:
            own = {flat.lamp: flat for flat in flats if (flat.detector, flat.band) == (detector, band) and flat.lamp}
            together.append(_kept(combined_lamps(own, weights), survey, store))
    return together


def _derived(kind: str, detector: int, store: CalibrationStore) -> Calibration:
    return _defects(detector, store) if kind == "defects" else _brighter_fatter(detector, store)


def _defects(detector: int, store: CalibrationStore) -> Calibration:
    dark, flat = store.newest("dark", detector), store.newest("flat", detector)
    if dark is None and flat is None:
        raise DataError(
            f"detector {detector} has neither a master dark nor a master flat to find defects in; "
            "run `skydelta calibrate dark` and `skydelta calibrate flat` first"
        )
    return make_defects(dark, flat)


def _brighter_fatter(detector: int, store: CalibrationStore) -> Calibration:
    transfer = store.newest("ptc", detector)
    if transfer is None:
        raise DataError(f"detector {detector} has no photon transfer curve: run `skydelta calibrate ptc` first")
    solution = brighter_fatter.solve(transfer)
    return make_calibration(
        "brighter_fatter",
        instrument=transfer.instrument,
        detector=transfer.detector,
        layout=transfer.layout,
        validFrom=transfer.validFrom,
        validTo=transfer.validTo,
        tables=solution.tables,
        inputs=transfer.inputs,
        metadata=solution.metadata,
    )
