"""Pairs of flats under a drifting lamp, read out by the simulated detector, brighter-fatter on."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from workers.calibrate.frames import Frames, Solution
from workers.calibrate.photon_transfer import STEPS, solve
from workers.imaging.calibrations import CalibrationSet, make_calibration
from workers.imaging.exposure import Exposure, ExposureInfo, RawExposure
from workers.isr.pipeline import apply_steps
from workers.simulate.brighter_fatter import accumulate, border_shifts
from workers.simulate.camera import make_camera
from workers.simulate.charge import cosmic_rays
from workers.simulate.detector import detector_pattern, flat_field
from workers.simulate.readout import read_out
from workers.simulate.settings import TINY, DetectorSettings
from workers.survey.isr_config import IsrConfig

A00 = -2.5e-6
ISR_STEPS = tuple(name for name in STEPS if name in ("overscan", "saturation", "bias"))


class Lamp:
    """A detector in front of a lamp whose level drifts by 1 % between the two flats of a pair, tilted across them."""

    def __init__(self, size: int, amplifiers: tuple[int, int], *, steps: int = 4, drift: float = 0.01) -> None:
        design = DetectorSettings(width=size, height=size, count=1, amplifiers=amplifiers, brighter_fatter=A00)
        self.config = replace(TINY, name="lamp", detectors=design)
        self.camera = make_camera(self.config)
        self.pattern = detector_pattern(self.config, 0)
        self.response = flat_field(self.config, 0, "r")
        self.steps, self.drift = steps, drift

    def light(self, level: float, drift: float) -> np.ndarray:
        """Expected electrons of a flat; the drift is 30 % larger at the right edge than at the left one."""
        tilt = np.linspace(0.85, 1.15, self.response.shape[1])[None, :]
        return level * (1.0 + drift * tilt) * self.response + 5.0 * self.pattern.dark

    def raw(self, light: np.ndarray, number: int, seconds: float, rng: np.random.Generator) -> RawExposure:
        """One frame: charge, cosmic rays at 30 per megapixel and minute, readout."""
        design = self.config.detectors
        charge = accumulate(light, border_shifts(A00), design.full_well, rng=rng, steps=self.steps)
        charge += cosmic_rays(rng, charge.shape, 2.5e-6 * charge.size)
        hdus = read_out(self.config, number, 0, np.minimum(charge, design.full_well))
        return RawExposure(self.info(number, seconds), hdus, {})

    def info(self, number: int, seconds: float) -> ExposureInfo:
        """Of a flat."""
        time, digest, name = 61000.0 + number / 1000.0, f"{number:064d}", f"{number}.fits"
        return ExposureInfo("lamp", number, 0, "r", time, seconds, 150.0, 2.0, 20260101, "flat", digest, name)

    def pairs(self, levels: np.ndarray, seed: int) -> list[RawExposure]:
        """Two flats at each level, electrons, in a row."""
        rng = np.random.default_rng(seed)
        raws = []
        for place, level in enumerate(levels):
            for drift in (0.0, self.drift * rng.choice([-1.0, 1.0])):
                raws.append(self.raw(self.light(level, drift), len(raws) + 100 * seed, 1.0 + place, rng))
        return raws

    def frames(self, raws: list[RawExposure]) -> Frames:
        """For the solver, with the true bias."""
        plane = np.array(self.pattern.bias, np.float32)
        planes = {"image": plane, "variance": 0 * plane, "mask": np.zeros(plane.shape, np.int32)}
        layout = self.camera.detector(0).layout
        bias = make_calibration("bias", instrument="lamp", detector=0, layout=layout, **planes)
        masters = CalibrationSet({"bias": bias})

        def reduce(raw: RawExposure, steps: tuple[str, ...]) -> Exposure:
            return apply_steps(raw, self.camera, masters, IsrConfig(), steps)

        return Frames("ptc", self.camera, raws, reduce, accepted=("flat",))

    def truth(self, name: str) -> np.ndarray:
        """`gain` or `read_noise` of the amplifiers."""
        return np.array([getattr(amplifier, name) for amplifier in self.camera.detector(0).amplifiers])


@lru_cache(maxsize=1)
def measured() -> tuple[Lamp, list[RawExposure], Solution]:
    """Twenty pairs on sixteen amplifiers of 100 x 100 pixels, and what the solver finds in them."""
    lamp = Lamp(400, (4, 4))
    raws = lamp.pairs(np.geomspace(300.0, 60000.0, 20), seed=1)
    return lamp, raws, solve(lamp.frames(raws), ISR_STEPS)


@lru_cache(maxsize=1)
def small() -> tuple[Lamp, list[RawExposure]]:
    """Eight pairs on one amplifier of 160 x 160 pixels: cheap to solve again and again."""
    lamp = Lamp(160, (1, 1), steps=2)
    return lamp, lamp.pairs(np.geomspace(400.0, 50000.0, 8), seed=4)
