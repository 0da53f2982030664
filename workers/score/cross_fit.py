"""Scores of training sources by models that have not seen them, and the cleaning of the bogus class with them.

The survey's own detections contain real sources, on a clean subtraction mostly. Their share pi shows in the score
distribution: the fraction of own detections above the median of the injections is pi / 2, as bogus ones hardly get
there. The pi * N best ones leave the bogus class; fewer or more makes the classifier worse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.score.boosting import boost, margins
from workers.score.labels import MIN_CLASS, TrainingSet

__all__ = ["Cleaned", "clean", "cross_fit", "real_fraction"]

_Float = NDArray[np.float64]
_FOLDS = 5
_ENOUGH_ARTEFACTS = 30


@dataclass(frozen=True)
class Cleaned:
    """The training set without its presumed real "bogus"."""

    data: TrainingSet
    margins: _Float
    """Cross-fit log-odds of `data`."""
    realFraction: float
    """Share of real sources among the survey's own detections."""
    dropped: int


def folds(data: TrainingSet, seed: int) -> NDArray[np.int64]:
    """Return the fold of each source, int64 (n,): groups stay together, both classes are spread evenly."""
    numbers, first = np.unique(data.group, return_index=True)
    order = np.random.default_rng(seed).permutation(len(numbers))
    order = order[np.argsort(data.injected[first][order], kind="stable")]
    fold = np.empty(len(numbers), np.int64)
    fold[order] = np.arange(len(numbers)) % _FOLDS
    return fold[np.searchsorted(numbers, data.group)]


def cross_fit(data: TrainingSet, seed: int) -> _Float:
    """Return the log-odds of each source by the model trained on the other folds, float64 (n,)."""
    fold = folds(data, seed)
    out = np.zeros(len(fold))
    for k in range(_FOLDS):
        test = fold == k
        if test.any():
            booster = boost(data.features[~test], data.injected[~test], seed + k)
            out[test] = margins(booster, data.features[test])
    return out


def real_fraction(scores: _Float, data: TrainingSet) -> float:
    """Return pi, the share of real sources among own detections: twice their fraction above the injections' median."""
    if not data.own.any():
        return 0.0
    return float(min(2.0 * np.mean(scores[data.own] > np.median(scores[data.injected])), 1.0))


def clean(data: TrainingSet, seed: int) -> Cleaned:
    """Return the training set without the pi * N best own detections, with new cross-fit scores.

    With enough artefacts the first scores come from them and the injections alone, since real sources that dominate
    the own detections would be learned as bogus; what those scores leave of the own detections then joins, and pi is
    estimated again. Without, the own detections are the bogus class from the start.
    """
    if np.count_nonzero(~data.injected & ~data.own) >= _ENOUGH_ARTEFACTS:
        scores = _scores_of_all(data, ~data.own, seed)
        scores = _scores_of_all(data, _kept(data, scores)[0], seed + _FOLDS)
    else:
        scores = cross_fit(data, seed)
    keep, pi = _kept(data, scores)
    cleaned = data.subset(keep)
    return Cleaned(cleaned, cross_fit(cleaned, seed + 2 * _FOLDS), pi, int((~keep).sum()))


def _kept(data: TrainingSet, scores: _Float) -> tuple[NDArray[np.bool_], float]:
    """Return all but the pi * N best own detections (bool (n,); at least 10 bogus sources stay), and pi."""
    pi = real_fraction(scores, data)
    own = np.flatnonzero(data.own)
    spare = int((~data.injected).sum()) - MIN_CLASS
    drop = min(round(pi * len(own)), spare)
    keep = np.ones(len(scores), bool)
    keep[own[np.argsort(-scores[own], kind="stable")[: max(drop, 0)]]] = False
    return keep, pi


def _scores_of_all(data: TrainingSet, known: NDArray[np.bool_], seed: int) -> _Float:
    """Return cross-fit scores of those `known`, and scores of the others by a model of all that are known."""
    out = np.zeros(len(known))
    part = data.subset(known)
    out[known] = cross_fit(part, seed)
    if not known.all():
        out[~known] = margins(boost(part.features, part.injected, seed), data.features[~known])
    return out
