"""What every DIA database must do: one list of checks, run on each implementation."""

from __future__ import annotations

from workers.database.conformance.catalogue import CATALOGUE_CHECKS
from workers.database.conformance.line import LINE_CHECKS
from workers.database.conformance.positions import POSITION_CHECKS
from workers.database.conformance.samples import (
    Check,
    MakeDatabase,
    make_announcement,
    make_exposure,
    make_object,
    make_sources,
)
from workers.database.conformance.sharing import SHARING_CHECKS
from workers.database.conformance.visits import VISIT_CHECKS

__all__ = ["CHECKS", "Check", "MakeDatabase", "make_announcement", "make_exposure", "make_object", "make_sources"]

CHECKS: tuple[Check, ...] = (
    *POSITION_CHECKS,
    *VISIT_CHECKS,
    *LINE_CHECKS,
    *CATALOGUE_CHECKS,
    *SHARING_CHECKS,
)
"""Each takes the maker and a fresh path, and raises AssertionError with a text."""
