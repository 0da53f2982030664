"""Defects: pixels and columns that calibration found broken."""

from __future__ import annotations

from workers.isr.state import IsrState

__all__ = ["apply"]


def apply(state: IsrState) -> None:
    """Set the planes of the defect map; the values stay, nothing is interpolated."""
    state.flag_as(state.need("defects"))
