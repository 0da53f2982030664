"""Train the classifier on a survey's own exposures: inject, subtract, learn from what was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from schemas.errors import DataError
from workers.imaging.exposure import Exposure
from workers.imaging.fits import read_exposure
from workers.imaging.injection import inject_pair, plan_injections
from workers.score.artefacts import add_artefacts, plan_artefacts
from workers.score.model import Classifier, save_classifier
from workers.score.pipeline import TrainingSample, train
from workers.subtract.pipeline import subtract
from workers.subtract.worker import SubtractStage
from workers.survey.config import Survey, SurveyConfig
from workers.templates.calexps import read_entry

__all__ = ["injected_samples", "train_classifier"]

_PIXELS_PER_INJECTION = 75.0**2
"""Denser fakes would disturb the matching kernel, the background and each other."""
_ARTEFACTS = 0.6
"""Per injection."""
_MAX_EXPOSURES = 16
"""Evenly taken from those given: more add time, not much knowledge."""
_MAX_ROUNDS = 4
"""Per exposure."""


def _silent(text: str) -> None:
    """Say nothing."""


def train_classifier(survey: Survey, paths: Sequence[Path], say: Callable[[str], None] = _silent) -> Classifier:
    """Train on calibrated exposures taken after the template window, write the classifier to score.model, return it.

    `say` is called with a line for each exposure that is left out and with a summary. Raises DataError where no
    exposure can be used, or too few sources are found to learn from.
    """
    config, stage = survey.config, SubtractStage.open(survey)
    end = _window_end(stage)
    chosen = _spread(_after_window(paths, end, say))
    if not chosen:
        raise DataError(
            f"none of the {len(paths)} calibrated exposures was taken after the template window (it ends at MJD TAI "
            f"{end:.5f}); give later ones to `skydelta calibrate classifier`, or end the window "
            "earlier with templates.end in survey.toml and build the templates again"
        )
    each = math.ceil(config.score.injections / len(chosen))
    samples: list[TrainingSample] = []
    for path in chosen:
        exposure = read_exposure(path)
        match = stage.template(exposure)
        if match is None:
            say(f"{path}: left out, the templates don't cover it")
            continue
        samples += injected_samples(exposure, match.exposure, each, config)
    if not samples:
        raise DataError(
            f"the templates cover none of the {len(chosen)} exposures; build them with `skydelta templates build`"
        )
    classifier = train(samples, config.score)
    save_classifier(classifier, survey.path(config.score.model))
    say(_summary(classifier))
    return classifier


def injected_samples(exposure: Exposure, template: Exposure, count: int, config: SurveyConfig) -> list[TrainingSample]:
    """Return the subtractions of one exposure with `count` injections in all, in as many rounds as they need.

    The random numbers follow from score.seed, visit, detector and round alone. Fewer are injected where four rounds
    don't hold them.
    """
    room = max(1, int(exposure.image.size / _PIXELS_PER_INJECTION))
    rounds = min(math.ceil(count / room), _MAX_ROUNDS)
    samples = []
    for number in range(rounds):
        info = exposure.info
        rng = np.random.default_rng([config.score.seed, info.visit, info.detector, number])
        plan = plan_injections(exposure, template, min(room, math.ceil(count / rounds)), rng)
        artefacts = plan_artefacts(exposure, template, math.ceil(_ARTEFACTS * len(plan)), plan, rng)
        pair = inject_pair(exposure, template, plan, rng)
        science, reference = add_artefacts(*pair, artefacts, rng)
        result = subtract(science, reference, config.subtract)
        samples.append(TrainingSample(result.sources, result.stamps, plan, artefacts))
    return samples


def _window_end(stage: SubtractStage) -> float:
    """Return the last epoch, MJD TAI, that the current templates may hold."""
    manifest = stage.store.manifest()
    if manifest is None:
        raise DataError(f"there is no template in {stage.store.root}; run `skydelta templates build`")
    return manifest.end


def _after_window(paths: Iterable[Path], end: float, say: Callable[[str], None]) -> list[Path]:
    """Return the paths of exposures that are later than the template window, by time; the others are named."""
    found = []
    for path in paths:
        entry = read_entry(path)
        if entry.midpointMjdTai > end:
            found.append((entry.midpointMjdTai, entry.visit, entry.detector, path))
        else:
            say(f"{path}: left out, taken at MJD TAI {entry.midpointMjdTai:.5f}, not after the template window")
    return [path for *_, path in sorted(found)]


def _spread(paths: Sequence[Path]) -> list[Path]:
    """Return at most 16 of `paths`, evenly spaced."""
    count = min(len(paths), _MAX_EXPOSURES)
    return [paths[i] for i in np.linspace(0, len(paths) - 1, count).round().astype(int)] if count else []


def _summary(classifier: Classifier) -> str:
    """Return one line about a fresh classifier."""
    record, overall = classifier.card["training"], classifier.card["crossFit"][0]
    return (
        f"{classifier.version}: {record['nReal']} injections and {record['nBogus']} + {record['nArtefacts']} bogus "
        f"from {len(record['exposures'])} exposures; completeness {overall['completeness']:.1%}, bogus that pass "
        f"{overall['falsePositiveRate']:.1%} at reliability {classifier.threshold:.3f}; "
        f"{classifier.card['calibration']['realFraction']:.1%} of the survey's own detections look real"
    )
