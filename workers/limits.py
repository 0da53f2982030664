"""Limits on metrics: which exposures end before their alerts, and what their outcome is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Bound", "Fault", "find_fault"]


@dataclass(frozen=True)
class Fault:
    """Why an exposure stops here."""

    outcome: str
    text: str


@dataclass(frozen=True)
class Bound:
    """One limit: what it judges, and the outcome beyond it."""

    outcome: str
    metric: str
    limit: str
    """Key in the table of the configuration; above it where it begins with ``max``, else below it."""
    what: str


def find_fault(metrics: Mapping[str, float], limits: Any, bounds: Sequence[Bound], table: str) -> Fault | None:
    """Return the first of `bounds` that `metrics` don't keep, None where all are kept; `limits` of ``[table]``.

    A metric that is absent or NaN is not judged: transparency is not known without a nominal zero point.
    """
    for bound in bounds:
        limit, value = getattr(limits, bound.limit), metrics.get(bound.metric)
        if limit is None or value is None:
            continue
        above = bound.limit.startswith("max")
        if value > limit if above else value < limit:
            side = "above" if above else "below"
            return Fault(bound.outcome, f"{bound.what}: {value:.4g} is {side} {bound.limit} = {limit:g} of [{table}]")
    return None
