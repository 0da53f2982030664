"""Deterministic identity: every id follows from visit, detector and rank, so that a repeat is harmless."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError

__all__ = ["DETECTOR_BITS", "RANK_BITS", "VISIT_BITS", "dia_source_ids", "unpack_dia_source_id"]

VISIT_BITS, DETECTOR_BITS, RANK_BITS = 41, 8, 14
"""They fill the 63 positive bits of a long: visits up to 2.19e12, 256 detectors, 16384 sources in each."""


def dia_source_ids(visit: int, detector: int, count: int) -> NDArray[np.int64]:
    """Return `count` ids, int64: visit, detector and rank packed from high to low bits.

    Raises DataError where one of the three does not fit.
    """
    for name, value, bits in (("visit", visit, VISIT_BITS), ("detector", detector, DETECTOR_BITS)):
        if not 0 <= value < 1 << bits:
            raise DataError(f"{name} {value} does not fit into the {bits} bits that diaSourceId has for it")
    if count > 1 << RANK_BITS:
        raise DataError(
            f"visit {visit} detector {detector}: {count} difference-image sources are more than {1 << RANK_BITS}; "
            "the subtraction has failed, look at the kernel metrics and the template"
        )
    base = (visit << (DETECTOR_BITS + RANK_BITS)) | (detector << RANK_BITS)
    return np.int64(base) + np.arange(count, dtype=np.int64)


def unpack_dia_source_id(number: int) -> tuple[int, int, int]:
    """Return (visit, detector, rank) of a diaSourceId."""
    rank = number & ((1 << RANK_BITS) - 1)
    detector = (number >> RANK_BITS) & ((1 << DETECTOR_BITS) - 1)
    return number >> (DETECTOR_BITS + RANK_BITS), detector, rank
