"""Scores of training sources by models that have not seen them, and the cleaning of the bogus class with them.

The survey's own detections contain real sources, on a clean subtraction mostly. Their share pi shows in the score
distribution: the fraction of own detections above the median of the injections is pi / 2, as bogus ones hardly get
there. The pi * N best ones leave the bogus class; fewer or more makes the classifier worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.score.boosting import boost, margins
from workers.score.labels import MIN_CLASS, TrainingSet

__all__ = ["Cleaned", "clean", "cross_fit", "real_fraction"]

_Float = NDArray[np.float64]
_FOLDS = 5
_ENOUGH_ARTEFACTS = 30
_LIGHT = 0.25
"""Total weight of the own detections at first, relative to that of the artefacts."""
_HEAVY = 5.0
"""Weight of an own bogus detection at most, where they are few."""


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
            booster = _trained(data.subset(~test), seed + k)
            out[test] = margins(booster, data.features[test])
    return out


def _trained(data: TrainingSet, seed: int) -> Any:
    return boost(data.features, data.injected, data.weight, seed)


def real_fraction(scores: _Float, data: TrainingSet) -> float:
    """Return pi, the share of real sources among own detections, from cross-fit scores (n,).

    Without artefacts: twice the fraction of own detections above the injections' median. With them the classes are
    known apart from the own detections, and the count above even odds is adjusted for what each class has there
    (Forman 2008, "adjusted count"): own real sources depress the scores round themselves, so few reach the median.
    """
    own, bogus = scores[data.own], scores[~data.injected & ~data.own]
    real = scores[data.injected]
    if not len(own):
        return 0.0
    if len(bogus) < _ENOUGH_ARTEFACTS:
        return min(2.0 * float(np.mean(own > np.median(real))), 1.0)
    seen, found, false = (float(np.mean(part > 0.0)) for part in (own, real, bogus))
    return float(np.clip((seen - false) / max(found - false, 1e-9), 0.0, 1.0))


def clean(data: TrainingSet, seed: int) -> Cleaned:
    """Return the training set without the pi * N best own detections, with new cross-fit scores.

    With enough artefacts the own detections weigh little at first: real ones that dominate them would be learned as
    bogus otherwise, while kinds of bogus that neither injections nor artefacts resemble still show. Then pi is found
    again with what is left of them at full weight. Without artefacts they are the bogus class from the start.
    """
    artefacts = int((~data.injected & ~data.own).sum())
    if artefacts >= _ENOUGH_ARTEFACTS:
        light = min(1.0, _LIGHT * artefacts / max(int(data.own.sum()), 1))
        keep, _ = _kept(data, cross_fit(data.weighted(light), seed))
        scores = _scores_of_all(_balanced(data, keep), keep, seed + _FOLDS)
    else:
        scores = cross_fit(data, seed)
    keep, pi = _kept(data, scores)
    cleaned = _balanced(data, keep).subset(keep)
    return Cleaned(cleaned, cross_fit(cleaned, seed + 2 * _FOLDS), pi, int((~keep).sum()))


def _balanced(data: TrainingSet, keep: NDArray[np.bool_]) -> TrainingSet:
    """Return `data` with weights by which the own detections to `keep` count as much as artefacts, within limits."""
    artefacts, own = int((~data.injected & ~data.own).sum()), int((data.own & keep).sum())
    return data.weighted(float(np.clip(artefacts / max(own, 1), 1.0, _HEAVY)))


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
        out[~known] = margins(_trained(part, seed), data.features[~known])
    return out
