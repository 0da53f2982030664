"""Saturated and suspect pixels, from the raw counts: no later step changes what was full."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.imaging.masks import MaskPlane
from workers.isr.assembly import data_pixels
from workers.isr.state import IsrState
from workers.survey.camera import Amplifier, parse_section

__all__ = ["apply", "grown"]

_Places = tuple[NDArray[np.intp], NDArray[np.intp]]


def grown(places: _Places, shape: tuple[int, int]) -> _Places:
    """Return (rows, columns) of the pixels and of their eight neighbours inside `shape`: charge spills over."""
    step = np.array([-1, 0, 1])
    rows = np.clip(places[0][:, None, None] + step[:, None], 0, shape[0] - 1)
    columns = np.clip(places[1][:, None, None] + step[None, :], 0, shape[1] - 1)
    rows, columns = np.broadcast_arrays(rows, columns)
    return rows.ravel(), columns.ravel()


def apply(state: IsrState) -> None:
    """Set SATURATED (grown by one pixel) and SUSPECT; above a measured turnoff (``gain_source = "ptc"``) too."""
    count = 0
    turnoffs = _turnoffs(state)
    height, width = state.mask.shape
    for amplifier, turnoff in zip(state.detector.amplifiers, turnoffs, strict=True):
        pixels = data_pixels(state.raw, amplifier)
        suspect = min(amplifier.suspect or math.inf, turnoff)
        bright = _places(_at_least(pixels, min(suspect, amplifier.saturation)))
        values = pixels[bright]
        if math.isfinite(suspect):
            state.mask[_assembled(bright, values >= suspect, amplifier)] |= int(MaskPlane.SUSPECT)
        full = _assembled(bright, values >= amplifier.saturation, amplifier)
        state.mask[grown(full, (height, width))] |= int(MaskPlane.SATURATED)
        count += full[0].size
    state.metrics["saturatedFraction"] = count / state.mask.size


def _turnoffs(state: IsrState) -> list[float]:
    """Level of each amplifier, in raw ADU, beyond which its noise no longer grows with the light."""
    if state.config.gain_source != "ptc" or "ptc" not in state.calibrations.by_kind:  # frames that ptc is made from
        return [math.inf] * len(state.detector.amplifiers)
    levels = [state.metrics.get(f"overscanLevel_{a.name}", 0.0) for a in state.detector.amplifiers]
    above = state.need("ptc").tables["turnoff"]
    return [level + float(turnoff) for level, turnoff in zip(levels, above, strict=True)]


def _at_least(pixels: NDArray[Any], level: float) -> NDArray[np.bool_]:
    """Compare with a level in the pixels' own type: four times as fast as in double precision."""
    if not np.issubdtype(pixels.dtype, np.integer):
        return np.asarray(pixels >= level)
    limits = np.iinfo(pixels.dtype)
    if level > limits.max:
        return np.zeros(pixels.shape, bool)
    return np.asarray(pixels >= pixels.dtype.type(max(math.ceil(level), limits.min)))


def _places(where: NDArray[np.bool_]) -> _Places:
    """Return what `np.nonzero` does; on a flat array it is ten times as fast."""
    rows, columns = np.divmod(np.flatnonzero(where), where.shape[1])
    return rows, columns


def _assembled(places: _Places, chosen: NDArray[np.bool_], amplifier: Amplifier) -> _Places:
    """Return (rows, columns) in the assembled detector of the chosen places in the amplifier's data."""
    at_rows, at_columns = places[0][chosen], places[1][chosen]
    rows, columns = parse_section(amplifier.position)
    row = rows.stop - 1 - at_rows if amplifier.flip_y else rows.start + at_rows
    column = columns.stop - 1 - at_columns if amplifier.flip_x else columns.start + at_columns
    return row, column
