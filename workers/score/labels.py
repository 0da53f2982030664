"""The training set: detected injections are real; the survey's own detections are bogus, with exceptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from schemas.errors import DataError
from workers.imaging.stamps import Stamps
from workers.score.artefacts import ARTEFACT_DTYPE
from workers.score.features import FEATURE_NAMES, features
from workers.score.source_pixels import Floats

__all__ = ["MIN_CLASS", "TrainingSample", "TrainingSet", "label_detections", "sky_groups", "training_set"]

_Index = NDArray[np.int64]
_Bool = NDArray[np.bool_]
_Rows = NDArray[Any]

MIN_CLASS = 10
"""Sources of either class below which nothing can be learned."""
_MATCH = 1.5  # pixels
_REPEAT = 2.0
"""Pixels: an own detection that close to one of an earlier round on the same exposure is the same one."""
_AMBIGUOUS = 12.0
"""Pixels round an injection in which other detections are neither real nor bogus: they may be its debris."""
_SAME_SKY = 1.0 / 3600.0  # degrees


@dataclass(frozen=True)
class TrainingSample:
    """Detections of one subtraction with injected sources."""

    sources: _Rows
    """diaSource rows."""
    stamps: Stamps
    truth: _Rows
    """What was injected, INJECTION_DTYPE."""
    artefacts: _Rows = field(default_factory=lambda: np.zeros(0, ARTEFACT_DTYPE))
    """What was made bogus on purpose, ARTEFACT_DTYPE."""


@dataclass(frozen=True)
class TrainingSet:
    """n labelled detections."""

    features: Floats
    """Shape (n, k)."""
    injected: _Bool
    """An injection that was found."""
    own: _Bool
    """A detection of the survey's own, real or bogus. What is neither injected nor own is an artefact."""
    snr: Floats
    group: _Index
    """Detections at one place on the sky share a number; they are never split between training and test."""

    weight: Floats
    """Within its class."""

    def weighted(self, own: float) -> TrainingSet:
        """Return the set with weight `own` for own detections and 1 for all others."""
        return replace(self, weight=np.where(self.own, np.float32(own), np.float32(1.0)))

    def subset(self, keep: NDArray[Any]) -> TrainingSet:
        """Return the part that `keep` (bool or indices) selects."""
        return TrainingSet(**{name: column[keep] for name, column in vars(self).items()})


def label_detections(sources: _Rows, truth: _Rows, artefacts: _Rows) -> NDArray[np.int8]:
    """Return 1 for a detected injection, 2 for an artefact, 0 for an own detection, -1 for the rest, int8 (n,).

    An injection is found by the nearest detection within 1.5 pixels (or along half its trail) of the same sign and,
    where it is a point source, of about its flux; one that is found by what was there anyway counts for nothing.
    """
    labels = np.zeros(len(sources), np.int8)
    places = np.column_stack([sources["x"], sources["y"]]).astype(float)
    for artefact in artefacts:
        labels[_along(places, artefact) <= _AMBIGUOUS] = 2
    if not len(truth) or not len(sources):
        return labels
    tree = cKDTree(places)
    centres = np.column_stack([truth["x"], truth["y"]])
    reach = np.maximum(_MATCH, 0.5 * truth["trailLength"])
    for near in tree.query_ball_point(centres, _AMBIGUOUS + reach):
        labels[near] = -1
    distance, nearest = tree.query(centres)
    for k in np.flatnonzero(distance <= reach).tolist():
        if _agrees(sources[nearest[k]], truth[k]):
            labels[nearest[k]] = 1
    return labels


def _along(places: NDArray[np.float64], artefact: np.void) -> NDArray[np.float64]:
    """Return the distance of places (n, 2) from the line that an artefact is, pixels."""
    offset = places - np.array([artefact["x"], artefact["y"]])
    direction = np.array([np.cos(artefact["angle"]), np.sin(artefact["angle"])])
    along = np.clip(offset @ direction, -0.5 * artefact["length"], 0.5 * artefact["length"])
    return np.asarray(np.linalg.norm(offset - along[:, None] * direction, axis=1))


def _agrees(source: np.void, truth: np.void) -> bool:
    """Return whether sign and, for a point source, flux (within a factor 2 and 3 sigma) are those injected."""
    if bool(source["isNegative"]) != bool(truth["flux"] < 0.0):
        return False
    flux, error = abs(float(source["psfFlux"])), 3.0 * float(source["psfFluxErr"])
    if truth["trailLength"] > 1.0 or not np.isfinite(flux + error):
        return True
    true = abs(float(truth["flux"]))
    return 0.5 * true - error <= flux <= 2.0 * true + error


def training_set(samples: Sequence[TrainingSample]) -> TrainingSet:
    """Return the labelled detections of all samples; those that several rounds on one exposure repeat are taken once.

    Raises DataError where there are fewer than 10 detected injections, or fewer than 10 artefacts and other detections.
    """
    labels = [label_detections(sample.sources, sample.truth, sample.artefacts) for sample in samples]
    _drop_repeats(samples, labels)
    parts = [
        (features(sample.sources[keep], _kept(sample.stamps, keep)), sample.sources[keep], label[keep])
        for sample, label in zip(samples, labels, strict=True)
        if (keep := label >= 0).any()
    ]
    label = np.concatenate([np.zeros(0, np.int8), *(part for _, _, part in parts)])
    check_classes(int((label == 1).sum()), int((label != 1).sum()))
    rows = np.concatenate([sources[["ra", "dec", "snr"]] for _, sources, _ in parts])
    return TrainingSet(
        features=np.concatenate([np.zeros((0, len(FEATURE_NAMES)), np.float32), *(part for part, _, _ in parts)]),
        injected=label == 1,
        own=label == 0,
        snr=rows["snr"].astype(np.float32),
        group=sky_groups(rows["ra"], rows["dec"]),
        weight=np.ones(len(rows), np.float32),
    )


def check_classes(real: int, bogus: int) -> None:
    """Raise DataError where either class is too small to learn from."""
    if real < MIN_CLASS:
        raise DataError(
            f"only {real} injected sources were detected, {MIN_CLASS} are needed: raise score.injections in "
            "survey.toml, give more exposures, or look at the subtraction's metrics"
        )
    if bogus < MIN_CLASS:
        raise DataError(
            f"only {bogus} detections of the survey's own can serve as examples of bogus ones, {MIN_CLASS} are needed: "
            "give more exposures to `skydelta calibrate classifier`, or lower subtract.threshold in survey.toml for "
            "the training"
        )


def sky_groups(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> _Index:
    """Return a number per position (degrees, (n,)): chains of positions within 1 arcsec of the next share one."""
    alpha, delta = np.radians(ra), np.radians(dec)
    points = np.column_stack([np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta)])
    pairs = cKDTree(points).query_pairs(np.radians(_SAME_SKY), output_type="ndarray")
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(ra), len(ra)))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def _kept(stamps: Stamps, keep: _Bool) -> Stamps:
    return Stamps(**{name: plane[keep] for name, plane in vars(stamps).items()})


def _drop_repeats(samples: Sequence[TrainingSample], labels: list[NDArray[np.int8]]) -> None:
    """Set the label of own detections that an earlier sample of the same exposure has too to -1, in place."""
    seen: dict[tuple[int, int], list[NDArray[np.float64]]] = {}
    for sample, label in zip(samples, labels, strict=True):
        own = np.flatnonzero(label == 0)
        if not len(own):
            continue
        rows = sample.sources[own]
        places = np.column_stack([rows["x"], rows["y"]]).astype(float)
        earlier = seen.setdefault((int(rows["visit"][0]), int(rows["detector"][0])), [])
        if earlier:
            distance, _ = cKDTree(np.concatenate(earlier)).query(places)
            label[own[distance <= _REPEAT]] = -1
        earlier.append(places)
