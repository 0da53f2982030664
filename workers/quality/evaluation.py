"""Sources against truth: completeness and purity per S/N bin, positions, flux pulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = ["BINS", "KINDS", "BinRow", "Evaluation", "Matched", "evaluate", "match_truth"]

Rows = NDArray[Any]

KINDS = ("transient", "asteroid", "variable")

BINS = (5.0, 6.0, 8.0, 12.0, 20.0, 50.0, np.inf)
"""Edges in |S/N|: of the truth for completeness, as measured for purity."""

MATCH_RADIUS = 2.0
"""Pixels between a source and what it may be."""

MARGIN = 24.0
"""Pixels from the edge of the detector within which dithers leave the template incomplete: not judged."""


@dataclass(frozen=True)
class Matched:
    """One exposure: truth rows and sources, and which belong together."""

    truth: Rows
    shape: tuple[int, int]
    """(height, width) of the detector."""
    sources: Rows
    alerted: NDArray[np.bool_]
    """Which sources became alerts."""
    link: NDArray[np.int64]
    """Index of the source of each truth row, -1 where none was found."""
    real: NDArray[np.bool_]
    """Which sources are something in the truth table, however faint."""


@dataclass(frozen=True)
class BinRow:
    """Counts in one S/N bin."""

    low: float
    high: float
    true: int
    detected: int
    alerted: int
    alerts: int
    pure: int

    @property
    def completeness(self) -> float:
        """Fraction of the true changes that became alerts."""
        return self.alerted / self.true if self.true else float("nan")

    @property
    def purity(self) -> float:
        """Fraction of the alerts that are true changes."""
        return self.pure / self.alerts if self.alerts else float("nan")


@dataclass(frozen=True)
class Evaluation:
    """The night against its truth."""

    bins: Mapping[str, Sequence[BinRow]]
    """By kind: transient, asteroid, variable; alerts and purity, which have no kind, are the same in all."""
    above8: int
    """Transients of S/N >= 8 away from saturated stars and defects."""
    completeness8: float
    """Fraction of those detected, whether or not they scored as real."""
    alerted8: float
    """Fraction of those that became alerts."""
    purity: float
    positionRms: float
    """Pixels per axis, of transients with S/N >= 8."""
    pullMean: float
    pullWidth: float
    """Mean and standard deviation of (measured - true flux) / error, of transients with S/N >= 8.

    Only those that are not in the template: the true flux of its mean epoch is another one than its weights give."""
    nPulls: int


def match_truth(truth: Rows, shape: tuple[int, int], sources: Rows, alerted: NDArray[np.bool_]) -> Matched:
    """Match truth rows (x, y, snr …) to diaSource rows of one exposure, nearest first, one to one."""
    link = np.full(len(truth), -1, np.int64)
    real = np.zeros(len(sources), np.bool_)
    if len(truth) and len(sources):
        tree = cKDTree(np.stack([sources["x"], sources["y"]], axis=-1).astype(float))
        points = np.stack([truth["x"], truth["y"]], axis=-1).astype(float)
        pairs = cKDTree(points).sparse_distance_matrix(tree, MATCH_RADIUS, output_type="ndarray")
        taken: set[int] = set()
        for row, source, _ in sorted(pairs.tolist(), key=lambda pair: (pair[2], *pair)):
            if link[row] < 0 and source not in taken:
                link[row] = source
                taken.add(source)
        visible = np.abs(truth["snr"]) > 1.0
        near = cKDTree(points[visible]).query(np.stack([sources["x"], sources["y"]], axis=-1).astype(float))[0]
        real = near <= MATCH_RADIUS if visible.any() else real
    return Matched(truth, shape, sources, alerted, link, real)


def evaluate(exposures: Sequence[Matched]) -> Evaluation:
    """Sum up the exposures of a night."""
    sources = np.concatenate([m.sources[m.alerted] for m in exposures])
    real = np.concatenate([m.real[m.alerted] for m in exposures])
    bins = {kind: _bins(_tally(exposures, kind), np.abs(sources["snr"]), real) for kind in KINDS}
    snr, found, alerted = _tally(exposures, "transient")
    bright = snr >= 8.0
    total = max(int(bright.sum()), 1)
    offset, pulls = _residuals(exposures)
    return Evaluation(
        bins=bins,
        above8=int(bright.sum()),
        completeness8=float((bright & found).sum() / total),
        alerted8=float((bright & alerted).sum() / total),
        purity=float(real.mean()) if len(real) else float("nan"),
        positionRms=float(np.sqrt(np.mean(offset**2))) if len(offset) else float("nan"),
        pullMean=float(np.mean(pulls)) if len(pulls) else float("nan"),
        pullWidth=float(np.std(pulls)) if len(pulls) else float("nan"),
        nPulls=len(pulls),
    )


_Tally = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]


def _bins(tally: _Tally, measured: NDArray[np.floating], real: NDArray[np.bool_]) -> list[BinRow]:
    snr, found, alerted = tally
    rows = []
    for low, high in pairwise(BINS):
        here, there = (snr >= low) & (snr < high), (measured >= low) & (measured < high)
        counts = (here, here & found, here & alerted, there, there & real)
        rows.append(BinRow(low, high, *(int(np.count_nonzero(part)) for part in counts)))
    return rows


def _fair(m: Matched, kind: str) -> NDArray[np.bool_]:
    """Truth rows that could be found: well inside, off saturated stars and defects, no other change on top of them."""
    truth, (height, width) = m.truth, m.shape
    clean = ~truth["nearSaturated"].astype(bool) & ~truth["onDefect"].astype(bool) & (truth["neighbourDistance"] > 6.0)
    inside = (
        (truth["x"] > MARGIN) & (truth["x"] < width - MARGIN) & (truth["y"] > MARGIN) & (truth["y"] < height - MARGIN)
    )
    same = np.char.strip(np.asarray(truth["kind"]).astype("U16")) == kind
    return np.asarray(clean & inside & same)


def _tally(exposures: Sequence[Matched], kind: str) -> _Tally:
    """|S/N| of the fair truth rows of one kind, and whether each was found, and alerted on."""
    snr, found, alerted = [], [], []
    for m in exposures:
        keep, seen = _fair(m, kind), m.link >= 0
        told = np.zeros(len(m.truth), np.bool_)
        told[seen] = m.alerted[m.link[seen]]
        snr.append(np.abs(np.asarray(m.truth["snr"], float))[keep])
        found.append(seen[keep])
        alerted.append(told[keep])
    return np.concatenate(snr), np.concatenate(found), np.concatenate(alerted)


def _residuals(exposures: Sequence[Matched]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Position offsets (both axes, pixels) and flux pulls of the transients found at S/N >= 8."""
    offsets, pulls = [np.zeros(0)], [np.zeros(0)]
    for m in exposures:
        keep = _fair(m, "transient") & (m.link >= 0) & (np.abs(m.truth["snr"]) >= 8.0)
        truth, sources = m.truth[keep], m.sources[m.link[keep]]
        offsets += [np.asarray(sources[axis], float) - np.asarray(truth[axis], float) for axis in ("x", "y")]
        clean = (np.abs(truth["templateFlux"]) < 0.5 * truth["fluxErr"]) & ~sources["psfFlux_flag"]
        pulls.append(((sources["psfFlux"] - truth["fluxChange"]) / sources["psfFluxErr"])[clean].astype(float))
    return np.concatenate(offsets), np.concatenate(pulls)
