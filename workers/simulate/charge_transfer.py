"""Readout clock by clock: each transfer leaves a fraction of the charge behind; traps and amplifier remember."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.simulate.settings import DetectorSettings

__all__ = ["clocked_out", "remembered_offset", "transferred", "trapped"]

_Float = NDArray[np.float64]


def clocked_out(electrons: _Float, design: DetectorSettings) -> _Float:
    """Return the charge of one amplifier as it reaches the output, float64 (rows, columns) with all overscans.

    `electrons` (rows, columns) in readout order. Rows go to the serial register first, then each row through the
    prescan to the output.
    """
    rows = transferred(electrons.T, design.parallel_cti, 0, design.parallel_overscan).T
    return transferred(rows, design.serial_cti, design.prescan, design.overscan)


def transferred(lines: _Float, fraction: float, prescan: int, overscan: int) -> _Float:
    """Return lines (count, length) of charge after readout, (count, prescan + length + overscan), same unit.

    Each line is a register; at every clock all its packets move one place towards the output and leave `fraction` of
    themselves in the place they came from. No closed form: clock by clock.
    """
    count, length = lines.shape
    out = np.zeros((count, prescan + length + overscan))
    _clock(np.ascontiguousarray(lines, np.float64), fraction, prescan, out)
    return out


def trapped(lines: _Float, capacity: float, half: float, decay: float) -> _Float:
    """Return lines (count, length), electrons, after each packet passed one trap at the output; time runs along a line.

    The trap first gives back ``1 - exp(-1 / decay)`` of what it holds, then fills to capacity * s / (s + half) from
    a packet of s electrons (a saturating trap as in Snyder et al. 2021, JATIS 7, 048002).
    """
    released = 1.0 - np.exp(-1.0 / decay)
    out, held = np.empty_like(lines), np.zeros(len(lines))
    for time in range(lines.shape[1]):
        given = held * released
        packet = lines[:, time] + given
        full = capacity * np.maximum(packet, 0.0) / (np.maximum(packet, 0.0) + half)
        after = np.maximum(held - given, full)
        out[:, time] = packet - (after - (held - given))
        held = after
    return out


def remembered_offset(lines: _Float, amplitude: float, decay: float) -> _Float:
    """Return lines (count, length) with the offset that large signals leave in the output amplifier.

    The offset after a signal s is the larger of amplitude * s and what is left of the one before; it falls by
    ``exp(-1 / decay)`` per pixel and is added to the pixels that follow (Snyder et al. 2021, eq. for the drift).
    """
    out, offset = lines.copy(), np.zeros(len(lines))
    for time in range(lines.shape[1]):
        out[:, time] += offset
        offset = np.maximum(amplitude * lines[:, time], offset) * np.exp(-1.0 / decay)
    return out


@njit(cache=True, nogil=True)
def _clock(lines: Any, fraction: float, prescan: int, out: Any) -> None:  # pragma: no cover - compiled
    count, length = lines.shape
    size = prescan + length
    register = np.empty(size + 1)
    for line in range(count):
        register[:prescan] = 0.0
        register[prescan:size] = lines[line]
        register[size] = 0.0
        for clock in range(out.shape[1]):
            out[line, clock] = (1.0 - fraction) * register[0]
            for place in range(size):
                register[place] = fraction * register[place] + (1.0 - fraction) * register[place + 1]
