"""Write a synthetic survey into a folder: configuration, reference catalogue, raw frames by night, truth tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from astropy.table import Table

from workers.simulate.cadence import Visit, plan_visits, template_window
from workers.simulate.camera import camera_toml, to_toml
from workers.simulate.exposure import make_frame, to_fits
from workers.simulate.reference import reference_catalogue
from workers.simulate.settings import SimulatedSurvey
from workers.simulate.truth import exposure_truth, object_table
from workers.survey.config import SurveyConfig
from workers.survey.isr_config import STEP_ORDER, IsrConfig

__all__ = ["SurveyFiles", "raw_path", "survey_toml", "truth_path", "write_survey"]

Progress = Callable[[int, int], None]
"""Called with the number of frames written and their total."""


@dataclass(frozen=True)
class SurveyFiles:
    """What was written, by role; paths of raw frames in order of visit and detector."""

    root: Path
    survey: Path
    camera: Path
    reference: Path
    objects: Path
    calibration: Mapping[str, tuple[Path, ...]]
    """By role: bias, dark, flat, ramp, spots."""
    archive: tuple[Path, ...]
    recent: tuple[Path, ...]
    live: tuple[Path, ...]
    truth: tuple[Path, ...]
    """One table per science frame."""


def write_survey(
    root: Path, config: SimulatedSurvey, *, workers: int = 1, progress: Progress | None = None
) -> SurveyFiles:
    """Write the survey of `config` below `root` (made where absent) and return what was written.

    `workers` threads share the frames (the hot loops release the GIL; a process would cost more to start than it
    saves); the files are the same for any number. Existing files are overwritten.
    """
    for folder in ("archive/raw", "truth"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "survey.toml").write_text(survey_toml(config), encoding="utf-8")
    (root / "camera.toml").write_text(camera_toml(config), encoding="utf-8")
    _write_table(reference_catalogue(config), root / "reference.fits")
    _write_table(object_table(config), root / "truth" / "objects.fits")
    tasks = [(visit, detector) for visit in plan_visits(config) for detector in range(config.detectors.count)]
    for visit, detector in tasks:
        raw_path(root, config, visit, detector).parent.mkdir(exist_ok=True)
    for done, _ in enumerate(_write_frames(root, config, tasks, workers), start=1):
        if progress is not None:
            progress(done, len(tasks))
    return _files(root, config, tasks)


def raw_path(root: Path, config: SimulatedSurvey, visit: Visit, detector: int) -> Path:
    """Return where the raw frame of a visit and detector lies."""
    name = "_".join(part for part in (config.name, str(visit.number), visit.role, visit.band, f"d{detector}") if part)
    if visit.kind == "science":
        name = f"{config.name}_{visit.number}_{visit.band}_d{detector}"
    return root / "archive" / "raw" / str(visit.night) / f"{name}.fits"


def truth_path(root: Path, visit: int, detector: int) -> Path:
    """Return where the truth table of a science frame lies."""
    return root / "truth" / f"{visit}_{detector}.fits"


def survey_toml(config: SimulatedSurvey) -> str:
    """Return the text of survey.toml: defaults everywhere but in the template window and the pixel scale."""
    begin, end = template_window(config)
    tree = {
        "name": config.name,
        "camera": "camera.toml",
        "reference": {"path": "reference.fits"},
        **_isr(config),
        "templates": {
            "begin": begin,
            "end": end,
            "pixel_scale": config.optics.pixel_scale,
            "min_epochs": min(3, max(1, config.cadence.archive)),
        },
    }
    SurveyConfig.model_validate(tree)
    return "# A synthetic survey; `skydelta check` explains every key.\n" + to_toml(tree)


def _isr(config: SimulatedSurvey) -> dict[str, object]:
    """The table of steps that undo what the simulated detector does; nothing to set where that is the usual."""
    design = config.detectors
    effects = {
        "crosstalk": design.crosstalk,
        "linearity": design.nonlinearity,
        "deferred_charge": design.serial_cti or design.parallel_cti,
        "brighter_fatter": design.brighter_fatter,
    }
    if not any(effects.values()):
        return {}
    usual = IsrConfig().steps
    steps = [name for name in STEP_ORDER if name in usual or effects.get(name)]
    return {"isr": {"steps": steps, "gain_source": "ptc"}}


def _write_frames(root: Path, config: SimulatedSurvey, tasks: list[tuple[Visit, int]], workers: int) -> Iterator[Path]:
    """Write the frames, one after the other or in a pool; yield each path when it is there, in order."""
    if workers <= 1:
        for visit, detector in tasks:
            yield _write_frame(root, config, visit, detector)
        return
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_write_frame, root, config, visit, detector) for visit, detector in tasks]
        for future in futures:
            yield future.result()


def _write_frame(root: Path, config: SimulatedSurvey, visit: Visit, detector: int) -> Path:
    """Write one raw frame, and its truth table if it shows the sky."""
    frame = make_frame(config, visit, detector)
    path = raw_path(root, config, visit, detector)
    path.write_bytes(to_fits(frame))
    if visit.kind == "science":
        _write_table(exposure_truth(config, visit, detector, frame), truth_path(root, visit.number, detector))
    return path


def _write_table(table: Table, path: Path) -> None:
    table.write(path, format="fits", overwrite=True)


def _files(root: Path, config: SimulatedSurvey, tasks: list[tuple[Visit, int]]) -> SurveyFiles:
    """Sort the paths by role."""
    roles: dict[str, list[Path]] = {}
    truth = []
    for visit, detector in tasks:
        roles.setdefault(visit.role, []).append(raw_path(root, config, visit, detector))
        if visit.kind == "science":
            truth.append(truth_path(root, visit.number, detector))
    return SurveyFiles(
        root=root,
        survey=root / "survey.toml",
        camera=root / "camera.toml",
        reference=root / "reference.fits",
        objects=root / "truth" / "objects.fits",
        calibration={kind: tuple(roles[kind]) for kind in ("bias", "dark", "flat", "ramp", "spots") if kind in roles},
        archive=tuple(roles.get("archive", ())),
        recent=tuple(roles.get("recent", ())),
        live=tuple(roles.get("live", ())),
        truth=tuple(truth),
    )
