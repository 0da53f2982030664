"""Crosstalk: what an amplifier hears of the others, and remembers of the pixel that it read before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigurationError
from workers.imaging.masks import MaskPlane
from workers.isr.state import IsrState

__all__ = ["Coefficients", "apply", "coefficients_of", "heard"]

_Float = NDArray[np.float64]
_Block = NDArray[np.float32]
_CHUNK = 65_536
"""Pixels of each amplifier that are worked on at once: all of them then stay in the processor's cache."""
_MATTERS = 0.1
"""ADU: an error of the correction smaller than this is left out of the variance."""


@dataclass(frozen=True)
class Coefficients:
    """What is heard, ADU per ADU, float32 (lag, victim, aggressor)."""

    direct: _Block
    """Of the true signal."""
    measured: _Block
    """Of the measured signal at lag 0: one minus the inverse of one plus `direct`, exact to all orders."""
    error2: _Block
    """Square of the error of `direct`."""

    @property
    def least(self) -> float:
        """Signal, ADU, below which no coefficient's error makes 0.1 ADU."""
        largest = float(self.error2.max())
        return _MATTERS / largest**0.5 if largest > 0.0 else np.inf


def coefficients_of(table: _Float, error: _Float) -> Coefficients:
    """Return the coefficients from tables (victim, aggressor, lag), float64 ADU per ADU."""
    lagged = np.moveaxis(table, 2, 0)
    first = np.eye(len(table)) - np.linalg.inv(np.eye(len(table)) + lagged[0])
    measured = np.concatenate([first[None], lagged[1:]])
    return Coefficients(*(np.asarray(a, np.float32) for a in (lagged, measured, np.moveaxis(error, 2, 0) ** 2)))


def heard(block: _Block, coefficients: Coefficients) -> _Block:
    """Return what amplifiers hear of each other: same shape as `block`, float32 ADU (amplifiers, rows, columns).

    `block` holds whole rows of measured counts over the offset in readout order, the same rows of all amplifiers.
    Exact at lag 0; signals remembered from pixels before are taken from the counts corrected at lag 0, so that what is
    left is of second order in coefficients of lag >= 1.
    """
    result = _mixed(block, coefficients.measured[0])
    for lag in range(1, len(coefficients.measured)):
        before = block[:, :, :-lag]
        result[:, :, lag:] += _mixed(before - result[:, :, :-lag], coefficients.measured[lag])
    return result


def apply(state: IsrState) -> None:
    """Subtract what is heard, chunk by chunk of rows; victims of aggressors above ``flag_above`` become CROSSTALK.

    The variance gets the coefficients' errors times the signal where that makes 0.1 ADU or more; the aggressors' own
    noise, times 1e-3 and squared, is left out. Raises ConfigurationError where amplifiers differ in shape.
    """
    state.need_unit("adu", "crosstalk")
    tables = state.need("crosstalk").tables
    coefficients = coefficients_of(tables["coefficients"], tables["error"])
    planes = [[state.part(a, plane) for a in state.detector.amplifiers] for plane in (state.image, state.variance)]
    masks = [state.part(a, state.mask) for a in state.detector.amplifiers]
    shapes = {part.shape for part in masks}
    if len(shapes) > 1 or len(masks) != len(tables["coefficients"]):
        raise ConfigurationError(
            f"crosstalk needs amplifiers that are read together: those of detector {state.detector.id} of camera "
            f"{state.camera.name} have shapes {sorted(shapes)}; take 'crosstalk' out of isr.steps in survey.toml"
        )
    height, width = masks[0].shape
    step = max(_CHUNK // width, 1)
    count = 0
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        block = np.stack([part[rows] for part in planes[0]])
        taken = heard(block, coefficients)
        for part, off in zip(planes[0], taken, strict=True):
            part[rows] -= off
        top = float(block.max())
        if top > coefficients.least:
            _add_errors(block, coefficients, [part[rows] for part in planes[1]])
        if top > state.config.crosstalk.flag_above:
            count += _flag(block, coefficients, state.config.crosstalk.flag_above, [part[rows] for part in masks])
    state.metrics["crosstalkFlaggedFraction"] = count / state.mask.size


def _mixed(block: _Block, matrix: _Block) -> _Block:
    """Multiply (victim, aggressor) into (aggressor, rows, columns); a diagonal matrix needs no product."""
    own = np.diag(matrix)
    if not np.any(matrix - np.diag(own)):
        return block * own[:, None, None]
    flat = np.ascontiguousarray(block).reshape(len(block), -1)
    return (matrix @ flat).reshape(block.shape)


def _columns_above(block: _Block, level: float, lag: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows and columns of the pixels that read `lag` after one in which some amplifier is above `level`."""
    rows, columns = np.nonzero((block > np.float32(level)).any(axis=0))
    inside = columns + lag < block.shape[2]
    return rows[inside], columns[inside]


def _add_errors(block: _Block, coefficients: Coefficients, variances: list[_Block]) -> None:
    for lag, error2 in enumerate(coefficients.error2):
        if not error2.any():
            continue
        rows, columns = _columns_above(block, coefficients.least, lag)
        extra = error2 @ block[:, rows, columns] ** 2
        for variance, more in zip(variances, extra, strict=True):
            variance[rows, columns + lag] += more


def _flag(block: _Block, coefficients: Coefficients, level: float, masks: list[NDArray[np.int32]]) -> int:
    """Set CROSSTALK where an amplifier hears one above `level`; return how many pixels."""
    count = 0
    for lag, matrix in enumerate(coefficients.direct):
        rows, columns = _columns_above(block, level, lag)
        loud = (block[:, rows, columns] > np.float32(level)).astype(np.float32)
        hit = (matrix != 0).astype(np.float32) @ loud > 0
        for mask, mine in zip(masks, hit, strict=True):
            mask[rows[mine], columns[mine] + lag] |= np.int32(MaskPlane.CROSSTALK)
        count += int(hit.sum())
    return count
