"""Deferred charge: electrons that transfers left behind go back to the pixel they came from.

The model, per amplifier, in the order of the readout (Snyder et al. 2021, JATIS 7, 048002, names the same three):

1. each transfer leaves a fraction of the charge behind, to be joined by the next packet: after n transfers, of a packet
   the share C(n + k - 1, k) (1 - f)^n f^k comes k pixels late. Rows are transferred first, then pixels;
2. a trap that all packets pass holds back at most capacity × s / (s + half) electrons of a packet of s, and gives back
   ``1 - exp(-1 / decay)`` of what it holds to each packet;
3. the output amplifier adds to each pixel an offset: after a signal s the larger of amplitude × s and what is left of
   the offset before, falling by ``exp(-1 / decay)`` per pixel.

Each part is inverted exactly by one recursion in readout order, the last part first: a pixel is known as soon as those
read before it are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from workers.isr.gain import read_noises
from workers.isr.state import IsrState
from workers.survey.camera import Amplifier, Detector, parse_section

__all__ = ["apply", "late_shares", "prescan_of", "refill_trap", "remove_offset", "restore"]

_Float = NDArray[np.float64]
_Plane = NDArray[np.float32]
_NEGLIGIBLE = 1.0e-8
_MOST_LATE = 12
_MATTERS = 1.0e-3
_LINES = 64
"""Rows that are turned about and worked on at once: they stay in the processor's cache."""


def late_shares(fraction: float, transfers: NDArray[np.integer]) -> _Float:
    """Return which share of a packet comes 0, 1, 2... pixels late, float64 (lateness, packets), for `transfers` each.

    Exact; cut where the share of the last packet falls below 1e-8, or at 12 pixels.
    """
    n = np.asarray(transfers, float)
    shares = [(1.0 - fraction) ** n]
    while len(shares) <= _MOST_LATE:
        late = len(shares)
        following = shares[-1] * (n + late - 1.0) / late * fraction
        if following.max() < _NEGLIGIBLE:
            break
        shares.append(following)
    return np.stack(shares)


def restore(lines: _Plane, fraction: float, prescan: int) -> None:
    """Undo the losses of transfers in place: float32 electrons (time, lines), `prescan` pixels before the first."""
    shares = late_shares(fraction, np.arange(len(lines)) + prescan + 1)
    _restore(lines, shares.astype(np.float32))


def refill_trap(lines: _Plane, capacity: float, half: float, decay: float) -> None:
    """Undo a trap in place: float32 electrons (time, lines); `capacity` must be below `half`."""
    _refill(lines, np.float32(capacity), np.float32(half), np.float32(1.0 - np.exp(-1.0 / decay)))


def remove_offset(lines: _Plane, amplitude: float, decay: float) -> None:
    """Take off the output amplifier's memory in place: float32 (time, lines), any unit."""
    _remove_offset(lines, np.float32(amplitude), np.float32(np.exp(-1.0 / decay)))


def prescan_of(amplifier: Amplifier, detector: Detector) -> tuple[int, int]:
    """Return how many rows and columns are read before an amplifier's first data pixel.

    They lie in the raw array between the data and the array's beginning, or the next section of another amplifier.
    """
    data = parse_section(amplifier.data)
    begin = [0, 0]
    for other in detector.amplifiers:
        if other.hdu != amplifier.hdu or other.name == amplifier.name:
            continue
        for text in (other.data, other.overscan, other.parallel_overscan):
            if text is None:
                continue
            section = parse_section(text)
            for axis in (0, 1):
                across = 1 - axis
                beside = section[across].start < data[across].stop and data[across].start < section[across].stop
                if beside and section[axis].stop <= data[axis].start:
                    begin[axis] = max(begin[axis], section[axis].stop)
    return data[0].start - begin[0], data[1].start - begin[1]


def apply(state: IsrState) -> None:
    """Put deferred charge back, amplifier by amplifier; the shares of charge moved become metrics.

    The variance gets what the read noise gains (about 2 n f of itself, for it is not transferred), and the error of f
    times transfers times signal where that makes a thousandth of the noise.
    """
    state.need_unit("electron", "deferred_charge")
    tables = state.need("cti").tables
    noises = read_noises(state)
    for index, amplifier in enumerate(state.detector.amplifiers):
        part, variance = state.part(amplifier, state.image), state.part(amplifier, state.variance)
        before = prescan_of(amplifier, state.detector)
        _undo(part, {name: table[index] for name, table in tables.items()}, before)
        transfers = (before[0] + np.arange(part.shape[0]) + 1, before[1] + np.arange(part.shape[1]) + 1)
        extra = [
            noises[index] ** 2 * ((1.0 - float(tables[name][index])) ** (-2.0 * n) - 1.0)
            for name, n in zip(("parallel", "serial"), transfers, strict=True)
        ]
        if max(extra[0].max(), extra[1].max()) > _MATTERS * noises[index] ** 2:
            variance += extra[0].astype(np.float32)[:, None]
            variance += extra[1].astype(np.float32)[None, :]
        _add_errors(part, variance, tables, index, transfers, noises[index])


def _undo(part: _Plane, of: dict[str, NDArray[np.float64]], before: tuple[int, int]) -> None:
    """The last thing that happened is undone first: rows are taken some at a time, time along the first axis."""
    if of["offset"][0] > 0.0 or of["serialTrap"][0] > 0.0 or of["serial"] > 0.0:
        for start in range(0, len(part), _LINES):
            rows = slice(start, start + _LINES)
            lines = np.ascontiguousarray(part[rows].T)
            if of["offset"][0] > 0.0:
                remove_offset(lines, *(float(value) for value in of["offset"]))
            _refilled(lines, of["serialTrap"], float(of["serial"]), before[1])
            part[rows] = lines.T
    _refilled(part, of["parallelTrap"], float(of["parallel"]), before[0])


def _refilled(lines: _Plane, trap: _Float, fraction: float, prescan: int) -> None:
    if trap[0] > 0.0:
        refill_trap(lines, *(float(value) for value in trap))
    if fraction > 0.0:
        restore(lines, fraction, prescan)


def _add_errors(
    part: _Plane,
    variance: _Plane,
    tables: Any,
    index: int,
    transfers: tuple[NDArray[np.integer], NDArray[np.integer]],
    noise: float,
) -> None:
    """Add (error of f × transfers × step to the pixel before)², the derivative of the correction."""
    brightest = float(part.max())
    for axis, name in enumerate(("parallel", "serial")):
        moved = float(tables[f"{name}Error"][index]) * transfers[axis]
        if (moved[-1] * brightest) ** 2 < _MATTERS * max(noise**2, brightest):
            continue
        steps = np.diff(part, axis=axis, prepend=np.float32(0))
        steps *= (moved[:, None] if axis == 0 else moved[None, :]).astype(np.float32)
        variance += steps * steps


@njit(cache=True, nogil=True)
def _restore(lines: Any, shares: Any) -> None:  # pragma: no cover - compiled
    late = shares.shape[0]
    for y in range(lines.shape[0]):
        for k in range(1, min(late, y + 1)):
            share = shares[k, y - k]
            for x in range(lines.shape[1]):
                lines[y, x] -= share * lines[y - k, x]
        whole = np.float32(1.0) / shares[0, y]
        for x in range(lines.shape[1]):
            lines[y, x] *= whole


@njit(cache=True, nogil=True)
def _refill(lines: Any, capacity: Any, half: Any, released: Any) -> None:  # pragma: no cover - compiled
    held = np.zeros(lines.shape[1], np.float32)
    zero = np.float32(0.0)
    for y in range(lines.shape[0]):
        for x in range(lines.shape[1]):
            given = held[x] * released
            left = held[x] - given
            out = lines[y, x]
            # what came out of a packet that filled the trap: packet - (capacity packet / (packet + half) - left)
            after = out - left
            linear = half - capacity - after
            packet = np.float32(0.5) * (np.sqrt(max(linear * linear + np.float32(4.0) * after * half, zero)) - linear)
            caught = capacity * packet / (packet + half) if packet > zero else zero
            fills = caught > left
            held[x] = caught if fills else left
            lines[y, x] = (packet if fills else out) - given


@njit(cache=True, nogil=True)
def _remove_offset(lines: Any, amplitude: Any, kept: Any) -> None:  # pragma: no cover - compiled
    offset = np.zeros(lines.shape[1], np.float32)
    for y in range(lines.shape[0]):
        for x in range(lines.shape[1]):
            signal = lines[y, x] - offset[x]
            lines[y, x] = signal
            offset[x] = max(amplitude * signal, offset[x]) * kept
