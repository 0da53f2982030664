"""The demo: a simulated survey from its first raw frame to the report of a live night, without a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from schemas.errors import DataError, SkydeltaError
from workers.calibrate.worker import make_masters
from workers.ingest.open import open_ingest
from workers.isr.worker import calibrate_file, compile_steps
from workers.night import ALL, Role, run_roles
from workers.score.training import train_classifier
from workers.simulate.pipeline import SurveyFiles, write_survey
from workers.simulate.settings import SimulatedSurvey
from workers.survey.config import Survey, load_survey
from workers.templates.pipeline import build
from workers.templates.store import TemplateStore

__all__ = ["DemoRun", "run_demo"]

_COMPILED_APART = (("cosmic_rays",), ("bleeds", "trails"))
"""Steps that one process leaves to the other where nothing is compiled yet."""

Say = Callable[[str], None]


@dataclass
class DemoRun:
    """What the demo did: the survey, the night (YYYYMMDD) and the seconds of each part."""

    survey: Survey
    night: int
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class _Parts:
    """Says and times the parts."""

    say: Say
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.say(name)
        begin = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begin


def run_demo(root: Path, config: SimulatedSurvey, workers: int, say: Say, bus: str = "") -> DemoRun:
    """Simulate, calibrate, build templates, train, and run the live night; everything lies below `root` afterwards.

    `bus` is text for the [bus] table of survey.toml; empty for the embedded bus. Raises SkydeltaError.
    """
    parts = _Parts(say)
    with parts.part("simulate a survey"):
        files = write_survey(root, config, workers=workers)
        _append(root / "survey.toml", bus)
    survey = load_survey(root)
    with parts.part("make master bias, dark, flat and defects"):
        for kind, paths in files.calibration.items():
            make_masters(kind, paths, survey)
        make_masters("defects", (), survey)
    past = (*files.archive, *files.recent)
    with parts.part(f"calibrate {len(past)} archived exposures"):
        calexps = _calibrated(root, past, workers)
    with parts.part("build templates from prior-year data"):
        build(survey.archive / "calexps", TemplateStore(survey.templates), survey.config.templates, workers=1)
    with parts.part("train the classifier on injections"):
        train_classifier(survey, calexps[len(files.archive) :], say)
    with parts.part(f"run the live night of {len(files.live)} exposures"):
        night = _live_night(survey, files, workers)
    return DemoRun(survey, night, parts.seconds)


def _append(path: Path, bus: str) -> None:
    if bus:
        path.write_text(f"{path.read_text(encoding='utf-8')}\n[bus]\n{bus}\n", encoding="utf-8")


def _calibrated(root: Path, paths: Iterable[Path], workers: int) -> list[Path]:
    """Run isr on the archived frames and return the calibrated exposures in the same order."""
    raws = list(paths)
    if workers == 1:
        done = [calibrate_file(str(root), path) for path in raws]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(compile_steps, [str(root)] * 2, raws[:2], _COMPILED_APART))
            done = list(pool.map(calibrate_file, [str(root)] * len(raws), raws))
    failed = [f"{result.raw.name}: {result.error}" for result in done if result.path is None]
    if failed:
        raise DataError("archived exposures could not be calibrated: " + "; ".join(failed))
    return [result.path for result in done if result.path is not None]


def _live_night(survey: Survey, files: SurveyFiles, workers: int) -> int:
    """Ingest the live frames and run the workers until all are done; return the night."""
    ingested = open_ingest(survey).files(files.live)
    nights = [item.info.night for item in ingested if item.info is not None]
    roles = [Role(ALL[0], drain=True)] * workers + [Role(name, drain=True) for name in ALL[1:]]
    code = run_roles(str(survey.root), roles, threading.Event())
    if code or not nights:
        raise SkydeltaError(f"the night's workers ended with exit code {code}; their messages stand above")
    return nights[0]
