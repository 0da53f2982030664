"""Frames that the simulated detector reads out of any picture in electrons, as solvers get them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from workers.calibrate.frames import Frames
from workers.imaging.calibrations import Calibration, CalibrationSet, make_calibration
from workers.imaging.exposure import Exposure, ExposureInfo, RawExposure
from workers.isr.assembly import assemble_image
from workers.isr.pipeline import apply_steps
from workers.isr.state import IsrState
from workers.simulate.camera import make_camera
from workers.simulate.detector import detector_pattern
from workers.simulate.readout import read_out
from workers.simulate.settings import TINY, DetectorSettings, SimulatedSurvey
from workers.survey.isr_config import IsrConfig


class Bench:
    """One simulated detector in the laboratory."""

    def __init__(self, name: str = "bench", **detector: object) -> None:
        design = DetectorSettings(**({"width": 320, "height": 320, "count": 1, "cosmic_rays": 0.0} | detector))
        self.config: SimulatedSurvey = replace(TINY, name=name, detectors=design)
        self.camera = make_camera(self.config)
        self.detector = self.camera.detector(0)
        self.pattern = detector_pattern(self.config, 0)

    def raw(self, electrons: np.ndarray, number: int, seconds: float = 1.0, kind: str = "flat") -> RawExposure:
        """The raw frame of electrons (height, width) already drawn."""
        info = ExposureInfo(
            instrument=self.config.name,
            visit=number,
            detector=0,
            band="r" if kind in ("flat", "science") else "",
            midpointMjdTai=61000.0 + number / 1000.0,
            exposureTime=seconds,
            ra=150.0,
            dec=2.0,
            night=20260101,
            kind=kind,
            sha256=f"{number:064d}",
            fileName=f"raw{number}.fits",
        )
        return RawExposure(info, read_out(self.config, number, 0, np.minimum(electrons, self.full_well)), {})

    @property
    def full_well(self) -> float:
        """Electrons."""
        return self.config.detectors.full_well

    def calibration(self, kind: str, **content: object) -> Calibration:
        """A master of this detector."""
        return make_calibration(kind, instrument=self.config.name, detector=0, layout=self.detector.layout, **content)  # type: ignore[arg-type]

    def bias(self) -> Calibration:
        """The true one."""
        plane = np.array(self.pattern.bias, np.float32)
        return self.calibration("bias", image=plane, variance=0 * plane, mask=np.zeros(plane.shape, np.int32))

    def reduce(self, *masters: Calibration) -> Callable[[RawExposure, tuple[str, ...]], Exposure]:
        """What `Frames` reduces raw frames with."""
        calibrations = CalibrationSet({master.kind: master for master in masters})

        def run(raw: RawExposure, steps: tuple[str, ...]) -> Exposure:
            return apply_steps(raw, self.camera, calibrations, IsrConfig(), steps)

        return run

    def state(self, raw: RawExposure, *masters: Calibration, steps: tuple[Callable[[IsrState], None], ...]) -> IsrState:
        """The assembled detector after the `apply` of some steps."""
        image = assemble_image(raw, self.detector)
        calibrations = CalibrationSet({master.kind: master for master in masters})
        mask, variance = np.zeros(image.shape, np.int32), np.zeros_like(image)
        state = IsrState(raw, self.camera, self.detector, calibrations, IsrConfig(), image, mask, variance)
        for step in steps:
            step(state)
        return state

    def frames(self, kind: str, raws: list[RawExposure], *masters: Calibration) -> Frames:
        """Frames for a solver; the kinds of the raws don't matter."""
        accepted = tuple({raw.info.kind for raw in raws})
        return Frames(kind, self.camera, raws, self.reduce(*masters), accepted=accepted)
