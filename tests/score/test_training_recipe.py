"""The classifier on synthetic stamps: it separates, copes with real sources among the bogus, and is calibrated."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from schemas.errors import ConfigurationError, DataError
from workers.imaging.stamps import Stamps
from workers.score.artefacts import ARTEFACT_DTYPE
from workers.score.boosting import boost, margins
from workers.score.cross_fit import clean
from workers.score.features import features
from workers.score.labels import training_set
from workers.score.model import Classifier
from workers.score.pipeline import TrainingSample, score, train
from workers.survey.config import ScoreConfig

CONFIG = ScoreConfig()
Draw = Callable[..., Any]


@pytest.fixture(scope="module")
def contaminated(drawer: Draw, truth_maker: Any) -> Callable[[float, int], tuple[TrainingSample, Any]]:
    """A sample of 600 injections and 300 own detections, some of which are real, and what is what."""

    def make(share: float, seed: int) -> tuple[TrainingSample, Any]:
        own = 300
        hidden = round(share * own)
        drawn = drawer(600 + hidden, own - hidden, seed)
        known = np.flatnonzero(drawn.real)[:600]
        keep = np.isin(np.arange(len(drawn.real)), known)
        return TrainingSample(drawn.sources, drawn.stamps, truth_maker(drawn, keep)), drawn

    return make


@pytest.fixture(scope="module")
def classifier(contaminated: Any) -> Classifier:
    return train([contaminated(0.1, 20)[0]], CONFIG)


@pytest.fixture(scope="module")
def unseen(drawer: Draw) -> Any:
    return drawer(500, 500, 999, visit=9)


def test_it_separates_what_it_has_not_seen(classifier: Classifier, unseen: Any, area: Any) -> None:
    scored = score(unseen.sources, unseen.stamps, classifier)
    assert area(scored["reliability"], unseen.real) > 0.97
    accepted = scored["reliability"] >= classifier.threshold
    assert accepted[unseen.real].mean() > 0.85
    assert accepted[~unseen.real].mean() < 0.15


def test_both_signs_score_alike(classifier: Classifier, unseen: Any) -> None:
    scored = score(unseen.sources, unseen.stamps, classifier)
    accepted = scored["reliability"] >= classifier.threshold
    negative = unseen.sources["isNegative"]
    assert abs(accepted[unseen.real & negative].mean() - accepted[unseen.real & ~negative].mean()) < 0.1


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_the_share_of_real_sources_is_found_and_cleaning_does_not_hurt(
    share: float, contaminated: Any, unseen: Any
) -> None:
    found, gain = [], []
    table = features(unseen.sources, unseen.stamps)
    for seed in (31, 32):
        data = training_set([contaminated(share, seed)[0]])
        cleaned = clean(data, 1)
        found.append(cleaned.realFraction)
        missed = []
        for part in (data, cleaned.data):
            scores = margins(boost(part.features, part.injected, part.weight, 1), table)
            cut = np.quantile(scores[~unseen.real], 0.95)
            missed.append(float((scores[unseen.real] < cut).mean()))
        gain.append(missed[0] - missed[1])
    assert np.mean(found) == pytest.approx(share, rel=0.3)
    assert np.mean(gain) > -0.01


def test_own_detections_that_are_mostly_real_do_not_spoil_it(
    drawer: Draw, truth_maker: Any, unseen: Any, area: Any
) -> None:
    injected, own, made = drawer(300, 0, 41, visit=1), drawer(70, 8, 42, visit=2), drawer(0, 150, 43, visit=3)
    artefacts = np.zeros(150, ARTEFACT_DTYPE)
    artefacts["x"], artefacts["y"] = made.sources["x"], made.sources["y"]
    nothing = truth_maker(own, np.zeros(78, bool))
    samples = [
        TrainingSample(injected.sources, injected.stamps, truth_maker(injected, injected.real)),
        TrainingSample(own.sources, own.stamps, nothing),
        TrainingSample(made.sources, made.stamps, nothing, artefacts),
    ]
    classifier = train(samples, CONFIG)
    assert classifier.card["calibration"]["realFraction"] == pytest.approx(70 / 78, abs=0.15)
    scored = score(unseen.sources, unseen.stamps, classifier)["reliability"]
    assert area(scored, unseen.real) > 0.97
    assert (scored[unseen.real] >= classifier.threshold).mean() > 0.9


def test_reliability_is_a_probability(drawer: Draw, truth_maker: Any) -> None:
    train_on, stream = drawer(600, 400, 51), drawer(150, 1350, 52, visit=5)
    hidden = np.flatnonzero(train_on.real)[:40]
    known = train_on.real & ~np.isin(np.arange(1000), hidden)
    made = train([TrainingSample(train_on.sources, train_on.stamps, truth_maker(train_on, known))], CONFIG)
    chance = score(stream.sources, stream.stamps, made)["reliability"]
    edges = np.quantile(chance, np.linspace(0, 1, 11))
    index = np.clip(np.searchsorted(edges, chance, side="right") - 1, 0, 9)
    error = sum(
        (index == k).mean() * abs(chance[index == k].mean() - stream.real[index == k].mean()) for k in np.unique(index)
    )
    assert error < 0.04


def test_the_same_input_gives_the_same_classifier(contaminated: Any, classifier: Classifier) -> None:
    again = train([contaminated(0.1, 20)[0]], CONFIG)
    assert (again.text, again.card) == (classifier.text, classifier.card)
    other = train([contaminated(0.1, 20)[0]], CONFIG.model_copy(update={"seed": 7}))
    assert other.version != classifier.version


def test_missing_rows_hardly_change_a_score(classifier: Classifier, unseen: Any) -> None:
    def without(columns: slice) -> np.ndarray:
        planes = dict(vars(unseen.stamps))
        for name in ("difference", "science", "template"):
            planes[name] = planes[name].copy()
            planes[name][:, :, columns] = np.nan
        return np.asarray(score(unseen.sources, Stamps(**planes), classifier)["reliability"])

    whole = np.asarray(score(unseen.sources, unseen.stamps, classifier)["reliability"])
    change = np.abs(without(slice(0, 2)) - whole)
    assert np.median(change) < 0.02
    assert np.isfinite(without(slice(0, 31))).all()


def test_scoring_fills_two_columns_of_a_copy(classifier: Classifier, unseen: Any) -> None:
    before = unseen.sources.copy()
    scored = score(unseen.sources, unseen.stamps, classifier)
    assert before.tobytes() == unseen.sources.tobytes()
    assert (scored["reliabilityVersion"] == classifier.version).all()
    assert ((scored["reliability"] >= 0) & (scored["reliability"] <= 1)).all()
    for name in set(scored.dtype.names) - {"reliability", "reliabilityVersion"}:
        assert scored[name].tobytes() == before[name].tobytes()
    none = Stamps(**{name: plane[:0] for name, plane in vars(unseen.stamps).items()})
    assert len(score(unseen.sources[:0], none, classifier)) == 0


def test_a_source_scores_the_same_alone(classifier: Classifier, unseen: Any) -> None:
    few = Stamps(**{name: plane[7:8] for name, plane in vars(unseen.stamps).items()})
    alone = score(unseen.sources[7:8], few, classifier)["reliability"][0]
    assert alone == score(unseen.sources, unseen.stamps, classifier)["reliability"][7]


def test_stamps_of_another_size_are_refused(classifier: Classifier, unseen: Any) -> None:
    small = Stamps(
        **{name: plane if name.endswith("Psf") else plane[:, 2:-2, 2:-2] for name, plane in vars(unseen.stamps).items()}
    )
    with pytest.raises(ConfigurationError, match="31 pixels, these have 27"):
        score(unseen.sources, small, classifier)


def test_too_little_to_learn_from_is_a_data_error(drawn: Any, truth_maker: Any) -> None:
    sample = TrainingSample(drawn.sources, drawn.stamps, truth_maker(drawn, np.zeros(900, bool)))
    with pytest.raises(DataError, match="only 0 injected"):
        train([sample], CONFIG)
    with pytest.raises(DataError, match="only 0 injected"):
        train([replace(sample, sources=drawn.sources[:0])], CONFIG)


def test_it_is_quick(contaminated: Any, classifier: Classifier, unseen: Any) -> None:
    sample, _ = contaminated(0.1, 20)
    begin = time.process_time()
    train([sample], CONFIG)
    trained = time.process_time()
    score(unseen.sources, unseen.stamps, classifier)
    per_source = (time.process_time() - trained) / len(unseen.sources)
    assert trained - begin < 6.0  # aim 2 s, on an idle core
    assert per_source < 1.5e-3  # aim 0.3 ms
