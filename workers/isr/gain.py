"""Gain: from counts to electrons, amplifier by amplifier."""

from __future__ import annotations

import math

from schemas.errors import DataError
from workers.imaging.exposure import RawExposure
from workers.imaging.masks import MaskPlane
from workers.isr.assembly import bands
from workers.isr.state import IsrState
from workers.survey.camera import Amplifier, Camera, parse_section

__all__ = ["amplifier_gain", "apply", "gains", "read_noises"]


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


def gains(state: IsrState) -> list[float]:
    """Return the gain of each amplifier, electrons per ADU, from where ``isr.gain_source`` says."""
    if state.config.gain_source == "ptc":
        return [float(gain) for gain in state.need("ptc").tables["gain"]]
    return [amplifier_gain(amplifier, state.raw, state.camera) for amplifier in state.detector.amplifiers]


def read_noises(state: IsrState) -> list[float]:
    """Return the read noise of each amplifier, electrons, from where ``isr.gain_source`` says."""
    if state.config.gain_source == "ptc":
        return [float(noise) for noise in state.need("ptc").tables["readNoise"]]
    return [amplifier.read_noise for amplifier in state.detector.amplifiers]


def apply(state: IsrState) -> None:
    """Multiply each amplifier by its gain: image and variance are in electrons and electrons² afterwards.

    An amplifier whose overscan is noisier than ``isr.noisy_amplifier`` electrons becomes BAD.
    """
    state.need_unit("adu", "gain")
    for amplifier, gain in zip(state.detector.amplifiers, gains(state), strict=True):
        for band in bands(amplifier):
            state.image[band] *= gain
            state.variance[band] *= gain**2
        noise = state.metrics.get(f"overscanNoise_{amplifier.name}", 0.0) * gain
        if 0.0 < state.config.noisy_amplifier < noise:
            state.mask[parse_section(amplifier.position)] |= int(MaskPlane.BAD)
    state.unit = "electron"
