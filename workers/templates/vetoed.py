"""The record of a veto: where and when nothing may enter a template, for a known transient shone there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["VETO_DTYPE", "Veto"]

_Bool = NDArray[np.bool_]
VETO_DTYPE = np.dtype(
    [("diaObjectId", "i8"), ("ra", "f8"), ("dec", "f8"), ("begin", "f8"), ("end", "f8"), ("radius_arcsec", "f8")]
)
"""Columns of VETOES in a cell's file: degrees ICRS, MJD TAI of the first and last input hit, arcsec."""


@dataclass(frozen=True, order=True)
class Veto:
    """Where and when nothing may enter a template."""

    diaObjectId: int
    ra: float
    """Degrees ICRS."""
    dec: float
    begin: float
    """MJD TAI."""
    end: float
    radius_arcsec: float

    def hits(self, mjd: ArrayLike) -> _Bool:
        """Say which mid-exposure times (MJD TAI) lie inside."""
        mjd = np.asarray(mjd, float)
        return np.asarray((mjd >= self.begin) & (mjd <= self.end))
