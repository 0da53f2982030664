"""What `skydelta check` looks at: each finding says what is wrong and what mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ConfigurationError, SkydeltaError
from workers.calibrate.worker import read_file
from workers.connect import open_blobs, open_bus, open_database, open_topics
from workers.imaging.reference_store import open_reference
from workers.ingest.pipeline import detector_reach
from workers.isr.masters import masters_for, open_store
from workers.score.model import load_classifier
from workers.survey.config import Survey, load_survey
from workers.templates.store import TemplateStore

__all__ = ["Finding", "check_survey"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    good: bool
    text: str
    """What was found; for a failure, what mends it."""
    exit_code: int = 0


def check_survey(folder: Path, raw: Path | None) -> Iterator[Finding]:
    """Yield findings about the survey in `folder`, with one `raw` file against the camera where one is given."""
    yield from _guarded("configuration", lambda: _configuration(folder))
    try:
        survey = load_survey(folder)
    except ConfigurationError:
        return
    if raw is not None:
        yield from _guarded("raw file", lambda: _raw(survey, raw))
        yield from _guarded("astrometry", lambda: _astrometry(survey, raw))
        yield from _guarded("calibrations", lambda: _calibrations(survey, raw))
    yield from _guarded("reference", lambda: _reference(survey))
    yield from _guarded("bus", lambda: _bus(survey))
    yield from _guarded("database", lambda: _database(survey))
    yield from _guarded("blob store", lambda: _blobs(survey))
    yield from _guarded("templates", lambda: _templates(survey))
    yield from _guarded("classifier", lambda: _classifier(survey))


def _guarded(what: str, look: Callable[[], str]) -> Iterator[Finding]:
    try:
        yield Finding(what, True, look())
    except SkydeltaError as error:
        yield Finding(what, False, str(error), error.exit_code)


def _configuration(folder: Path) -> str:
    survey = load_survey(folder)
    amplifiers = sum(len(detector.amplifiers) for detector in survey.camera.detectors)
    detectors = len(survey.camera.detectors)
    return f"{survey.config.name}, camera {survey.camera.name}: {detectors} detectors, {amplifiers} amplifiers"


def _raw(survey: Survey, path: Path) -> str:
    info = read_file(path, survey).info
    time = f"MJD TAI {info.midpointMjdTai:.5f}, night {info.night}"
    return f"{path.name}: {info.kind}, visit {info.label}, band {info.band}, {time}"


def _astrometry(survey: Survey, path: Path) -> str:
    raw = read_file(path, survey)
    if raw.info.kind != "science":
        return f"a {raw.info.kind} needs none"
    if survey.camera.wcs is None and "CTYPE1" not in raw.header:
        raise ConfigurationError(
            f"{path.name} has no WCS (no CTYPE1) and camera.toml has no [wcs] table; make a rough one with "
            f"`skydelta reference from-frame {path} --scale ARCSEC_PER_PIXEL`"
        )
    ra, dec, _ = detector_reach(raw, survey.camera)
    source = "camera.toml [wcs] and the pointing" if survey.camera.wcs is not None else "the header"
    return f"WCS from {source}: detector centre at {ra:.5f} {dec:+.5f}"


def _calibrations(survey: Survey, path: Path) -> str:
    info = read_file(path, survey).info
    if info.kind != "science":
        return f"looked up for science exposures, this is a {info.kind}"
    chosen = masters_for(info, survey.camera, open_store(survey), survey.config.isr)
    return ", ".join(chosen.ids().values()) or "isr.steps ask for none"


def _reference(survey: Survey) -> str:
    catalogue = open_reference(survey.path(survey.config.reference.path))
    return f"{len(catalogue)} stars in bands {', '.join(catalogue.bands)}"


def _bus(survey: Survey) -> str:
    bus = open_bus(survey)
    topics = open_topics(survey, bus)
    return f"{survey.config.bus.kind}: {len(topics.all())} topics, {survey.config.bus.partitions} partitions"


def _database(survey: Survey) -> str:
    return ", ".join(f"{count} {name}" for name, count in open_database(survey).counts().items())


def _blobs(survey: Survey) -> str:
    blobs = open_blobs(survey)
    blobs.get(blobs.put(b"skydelta check"))
    return f"{survey.path(survey.config.blobs.path)} takes and gives bytes"


def _templates(survey: Survey) -> str:
    manifest = TemplateStore(survey.templates).manifest()
    if manifest is None:
        raise ConfigurationError(f"there is no template in {survey.templates}; run `skydelta templates build`")
    bands: dict[str, int] = {}
    for cell in manifest.cells:
        bands[cell.band] = bands.get(cell.band, 0) + 1
    cells = ", ".join(f"{count} cells in {band}" for band, count in sorted(bands.items()))
    return f"version {manifest.version}: {cells}"


def _classifier(survey: Survey) -> str:
    classifier = load_classifier(survey.path(survey.config.score.model))
    return f"{classifier.version}, threshold {classifier.threshold:.3f}"
