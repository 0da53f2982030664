"""Gain: from counts to electrons, amplifier by amplifier."""

from __future__ import annotations

import math

from schemas.errors import DataError
from workers.imaging.exposure import RawExposure
from workers.isr.state import IsrState
from workers.survey.camera import Amplifier, Camera, parse_section

__all__ = ["amplifier_gain", "apply"]


def amplifier_gain(amplifier: Amplifier, raw: RawExposure, camera: Camera) -> float:
    """Return the gain in electrons per ADU: the camera's, else the header's.

    Raises DataError naming amplifier, file and key where neither gives a positive number.
    """
    if amplifier.gain is not None:
        return amplifier.gain
    entry = camera.header.gain
    where = f"{raw.info.fileName}: no gain for amplifier {amplifier.name} of camera {camera.name}"
    fix = "set gain for the amplifier, or [header.gain], in camera.toml"
    if entry is None:
        raise DataError(f"{where}: camera.toml gives none and names no header key; {fix}")
    value = entry.value if entry.key is None else raw.header.get(entry.key)
    try:
        gain = float(value if value is not None else math.nan)
    except ValueError:
        gain = math.nan
    if not (math.isfinite(gain) and gain > 0):
        found = f"{entry.key or 'value'} = {value!r}" if value is not None else f"the header has no {entry.key}"
        raise DataError(f"{where}: {found}; {fix}")
    return gain


def apply(state: IsrState) -> IsrState:
    """Multiply each amplifier by its gain: image and variance are in electrons and electrons² afterwards."""
    state.need_unit("adu", "gain")
    image, variance = state.image.copy(), state.variance.copy()
    removed = None if state.removed is None else state.removed.copy()
    for amplifier in state.detector.amplifiers:
        gain, section = amplifier_gain(amplifier, state.raw, state.camera), parse_section(amplifier.position)
        image[section] *= gain
        variance[section] *= gain**2
        if removed is not None:
            removed[section] *= gain
    return state.replaced(image=image, variance=variance, removed=removed, unit="electron")
