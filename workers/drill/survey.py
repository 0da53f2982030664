"""The drill's survey: simulated and calibrated once, kept in the folder for the next drill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from schemas.errors import DataError
from workers.calibrate.worker import make_masters
from workers.drill.settings import SIZES, DrillSettings
from workers.isr.worker import calibrate_file
from workers.score.training import train_classifier
from workers.simulate.pipeline import SurveyFiles, write_survey
from workers.survey.config import load_survey
from workers.templates.pipeline import build
from workers.templates.store import TemplateStore
from workers.version import code_version

__all__ = ["Prepared", "prepared_survey"]

_LINKED = ("camera.toml", "reference.fits", "calibrations", "templates")


@dataclass(frozen=True)
class Prepared:
    """A survey folder with masters, templates and classifier, whose night has not begun."""

    root: Path
    frames: tuple[Path, ...]
    """Raw frames of the night, relative to the root, in order of visit and detector; the first are 20 days older."""
    archived: Path
    """A raw frame of the template window, relative to the root."""

    def copy(self, folder: Path, tables: str) -> Path:
        """Make a survey folder for one night, with `tables` (TOML) after its survey.toml; large things are linked."""
        (folder / "archive").mkdir(parents=True)
        for name in (*_LINKED, "archive/raw"):
            (folder / name).symlink_to((self.root / name).resolve())
        text = (self.root / "survey.toml").read_text(encoding="utf-8")
        (folder / "survey.toml").write_text(f"{text}\n{tables}", encoding="utf-8")
        return folder


def prepared_survey(settings: DrillSettings, say: Callable[[str], None]) -> Prepared:
    """Return the survey of `settings`, made where the folder has none that this version of the code made."""
    root = settings.folder / f"survey-{settings.size}-{settings.seed}"
    marker = root / "prepared.json"
    made = json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else {}
    if made.get("codeVersion") != code_version():
        say("simulate the drill's survey, make masters, templates and classifier")
        shutil.rmtree(root, ignore_errors=True)
        made = _prepare(root, settings)
        marker.write_text(json.dumps(made), encoding="utf-8")
    return Prepared(root, tuple(Path(name) for name in made["frames"]), Path(made["archived"]))


def _prepare(root: Path, settings: DrillSettings) -> dict[str, object]:
    """Do the day's work, as `skydelta demo` does before its night."""
    config = SIZES[settings.size]
    files = write_survey(root, replace(config, seed=config.seed + settings.seed))
    survey = load_survey(root)
    for kind, paths in files.calibration.items():
        make_masters(kind, paths, survey)
    make_masters("defects", (), survey)
    recent = _calibrated(root, files)
    build(survey.archive / "calexps", TemplateStore(survey.templates), survey.config.templates)
    train_classifier(survey, recent)
    frames = [str(path.relative_to(root)) for path in (*files.recent, *files.live)]
    archived = str(files.archive[0].relative_to(root))
    return {"codeVersion": code_version(), "frames": frames, "archived": archived}


def _calibrated(root: Path, files: SurveyFiles) -> list[Path]:
    """Calibrate the archived frames and return the exposures of the recent visits."""
    done = [calibrate_file(str(root), path) for path in (*files.archive, *files.recent)]
    failed = [f"{result.raw.name}: {result.error}" for result in done if result.path is None]
    if failed:
        raise DataError("the drill's survey can't be calibrated; choose another --seed: " + "; ".join(failed))
    return [result.path for result in done[len(files.archive) :] if result.path is not None]
