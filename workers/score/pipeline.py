"""Score the sources of one exposure; train the classifier that does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigurationError
from workers.imaging.stamps import Stamps
from workers.score.boosting import boost, even_classes, to_text
from workers.score.calibration import Calibration, figures_by_snr, fit_platt, operating_threshold
from workers.score.cross_fit import Cleaned, clean
from workers.score.features import features
from workers.score.labels import TrainingSample, training_set
from workers.score.model import Classifier, make_classifier
from workers.survey.config import ScoreConfig

__all__ = ["TrainingSample", "score", "train"]

_Rows = NDArray[Any]


def score(sources: _Rows, stamps: Stamps, classifier: Classifier) -> _Rows:
    """Return diaSource rows with `reliability` and `reliabilityVersion` filled, a new array.

    `reliability` is the calibrated probability to be astrophysical, for the mix of real and bogus in the training
    survey. Raises ConfigurationError where the stamps are not of the size that the classifier was trained on.
    """
    scored = sources.copy()
    if not len(scored):
        return scored
    size, trained = stamps.difference.shape[1], classifier.card["stampSize"]
    if size != trained:
        raise ConfigurationError(
            f"the classifier {classifier.version} was trained on stamps of {trained} pixels, these have {size}: set "
            "subtract.stamp_size back, or train again with `skydelta calibrate classifier`"
        )
    scored["reliability"] = classifier.reliability(features(sources, stamps))
    scored["reliabilityVersion"] = classifier.version
    return scored


def train(samples: Sequence[TrainingSample], config: ScoreConfig) -> Classifier:
    """Return a classifier trained on subtractions with injected sources, the same for the same input.

    Raises DataError where too few injections, or too few other detections, were found to learn from.
    """
    data = training_set(samples)
    cleaned = clean(data, config.seed)
    own = int(data.own.sum())
    # the ends of the range that a sample of this size can tell from 0 and 1
    pi = float(np.clip(cleaned.realFraction, 1.0 / (own + 2.0), 1.0 - 1.0 / (own + 2.0)))
    real = cleaned.data.injected
    weight = even_classes(cleaned.data.weight, real)
    calibration = Calibration(*fit_platt(cleaned.margins, real, weight), pi)
    odds = calibration.log_odds(cleaned.margins)
    threshold = operating_threshold(odds, real, weight, pi)
    accepted = calibration.reliability(cleaned.margins) >= threshold
    content = {
        "threshold": threshold,
        "stampSize": int(samples[0].stamps.difference.shape[1]),
        "calibration": asdict(calibration),
        "crossFit": figures_by_snr(accepted, real, cleaned.data.snr, pi),
        "training": _training_record(samples, cleaned, config),
    }
    booster = boost(cleaned.data.features, real, cleaned.data.weight, config.seed)
    return make_classifier(to_text(booster), content)


def _training_record(samples: Sequence[TrainingSample], cleaned: Cleaned, config: ScoreConfig) -> dict[str, Any]:
    """Return what went into the training."""
    visits = {(int(row["visit"]), int(row["detector"])) for s in samples if len(s.sources) for row in s.sources[:1]}
    return {
        "exposures": [f"{visit}:{detector}" for visit, detector in sorted(visits)],
        "rounds": len(samples),
        "injected": int(sum(len(sample.truth) for sample in samples)),
        "nReal": int(cleaned.data.injected.sum()),
        "nArtefacts": int((~cleaned.data.injected & ~cleaned.data.own).sum()),
        "nBogus": int(cleaned.data.own.sum()),
        "nDropped": cleaned.dropped,
        "seed": config.seed,
    }
