"""Sources against truth: completeness and purity per S/N bin, positions, flux pulls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = ["BINS", "BinRow", "Evaluation", "Matched", "evaluate", "match_truth"]

Rows = NDArray[Any]

BINS = (5.0, 6.0, 8.0, 12.0, 20.0, 50.0, np.inf)
"""Edges in |S/N|: of the truth for completeness, as measured for purity."""

MATCH_RADIUS = 2.0
"""Pixels between a source and what it may be."""


@dataclass(frozen=True)
class Matched:
    """One exposure: truth rows and sources, and which belong together."""

    truth: Rows
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

    bins: Sequence[BinRow]
    above8: int
    """True changes of S/N >= 8 away from saturated stars and defects."""
    completeness8: float
    """Fraction of those detected, whether or not they scored as real."""
    alerted8: float
    """Fraction of those that became alerts."""
    purity: float
    positionRms: float
    """Pixels per axis, of detections with S/N >= 8."""
    pullMean: float
    pullWidth: float
    """Mean and standard deviation of (measured - true flux) / error, of transients and asteroids with S/N >= 8."""
    nPulls: int


def match_truth(truth: Rows, sources: Rows, alerted: NDArray[np.bool_]) -> Matched:
    """Match truth rows (x, y, snr …) to diaSource rows of one exposure, nearest first, one to one."""
    link = np.full(len(truth), -1, np.int64)
    real = np.zeros(len(sources), np.bool_)
    if len(truth) and len(sources):
        tree = cKDTree(np.stack([sources["x"], sources["y"]], axis=-1).astype(float))
        points = np.stack([truth["x"], truth["y"]], axis=-1).astype(float)
        distance, index = tree.query(points, distance_upper_bound=MATCH_RADIUS)
        taken: set[int] = set()
        for row in np.argsort(distance, kind="stable"):
            if np.isfinite(distance[row]) and int(index[row]) not in taken:
                link[row] = index[row]
                taken.add(int(index[row]))
        visible = np.abs(truth["snr"]) > 1.0
        near = cKDTree(points[visible]).query(np.stack([sources["x"], sources["y"]], axis=-1).astype(float))[0]
        real = near <= MATCH_RADIUS if visible.any() else real
    return Matched(truth, sources, alerted, link, real)


def evaluate(exposures: Sequence[Matched]) -> Evaluation:
    """Sum up the exposures of a night."""
    truth, found, alerted = _fair(exposures)
    snr = np.abs(truth["snr"])
    sources = np.concatenate([m.sources[m.alerted] for m in exposures])
    real = np.concatenate([m.real[m.alerted] for m in exposures])
    measured = np.abs(sources["snr"])
    bins = []
    for low, high in zip(BINS[:-1], BINS[1:], strict=True):
        here, there = (snr >= low) & (snr < high), (measured >= low) & (measured < high)
        counts = (here, here & found, here & alerted, there, there & real)
        bins.append(BinRow(low, high, *(int(np.count_nonzero(part)) for part in counts)))
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


def _usable(truth: Rows) -> NDArray[np.bool_]:
    """Rows that could be found: inside the frame, off saturated stars and defects, no other change on top of them."""
    fair = ~truth["nearSaturated"].astype(bool) & ~truth["onDefect"].astype(bool)
    return np.asarray(fair & (truth["neighbourDistance"] > 6.0))


def _fair(exposures: Sequence[Matched]) -> tuple[Rows, NDArray[np.bool_], NDArray[np.bool_]]:
    """Fair truth rows of all exposures, and whether each was found, and alerted on."""
    truth, found, alerted = [], [], []
    for m in exposures:
        keep = _usable(m.truth)
        seen = m.link >= 0
        told = np.zeros(len(m.truth), np.bool_)
        told[seen] = m.alerted[m.link[seen]]
        truth.append(m.truth[keep])
        found.append(seen[keep])
        alerted.append(told[keep])
    return np.concatenate(truth), np.concatenate(found), np.concatenate(alerted)


def _residuals(exposures: Sequence[Matched]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Position offsets (both axes, pixels) and flux pulls of what was found at S/N >= 8."""
    offsets, pulls = [], []
    for m in exposures:
        keep = _usable(m.truth) & (m.link >= 0) & (np.abs(m.truth["snr"]) >= 8.0)
        truth, sources = m.truth[keep], m.sources[m.link[keep]]
        for axis in ("x", "y"):
            offsets.append(np.asarray(sources[axis], float) - np.asarray(truth[axis], float))
        kind = np.asarray(truth["kind"]).astype("U16")
        steady = np.isin(np.char.strip(kind), ("transient", "asteroid"))  # a variable's template flux is another mean
        clean = steady & ~sources["psfFlux_flag"] & (sources["psfFluxErr"] > 0)
        pulls.append((sources["psfFlux"] - truth["fluxChange"])[clean] / sources["psfFluxErr"][clean])
    return np.concatenate(offsets), np.concatenate(pulls).astype(float)
