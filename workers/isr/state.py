"""What the steps work on: one detector between its raw counts and its electrons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigurationError
from workers.imaging.bright_stars import BrightStars
from workers.imaging.calibrations import Calibration, CalibrationSet
from workers.imaging.exposure import FloatImage, MaskImage, RawExposure
from workers.isr.assembly import oriented
from workers.survey.camera import Amplifier, Camera, Detector, parse_section
from workers.survey.isr_config import IsrConfig

__all__ = ["IsrState"]


@dataclass
class IsrState:
    """The assembled detector on its way. The pipeline owns it, and each step changes it in place.

    Planes have shape (height, width), are the bench's own and contiguous; nothing else in the product is changed in
    place: on 16 million pixels a pass that allocates costs ten times one that does not.
    """

    raw: RawExposure
    camera: Camera
    detector: Detector
    calibrations: CalibrationSet
    config: IsrConfig
    image: FloatImage
    """In `unit`."""
    mask: MaskImage
    variance: FloatImage
    """In unit²: the noise of the masters applied so far, and from the variance step on that of the counts too."""
    stars: BrightStars | None = None
    """What shines in and round the field, where the caller knows."""
    unit: str = "adu"
    dark_seconds: float = 0.0
    """Of the master dark taken off so far: the Poisson noise of that charge stays in the image."""
    metrics: dict[str, float] = field(default_factory=dict)

    def need_unit(self, unit: str, step: str) -> None:
        """Raise ConfigurationError where the image is not in `unit` when `step` begins."""
        if self.unit != unit:
            raise ConfigurationError(
                f"isr.steps in survey.toml: {step!r} works in {unit} but the image is in {self.unit} by then; "
                f"put it {'before' if unit == 'adu' else 'after'} 'gain'"
            )

    def need(self, kind: str) -> Calibration:
        """Return the master of `kind` that applies to this exposure; raises ConfigurationError."""
        height, width = self.image.shape
        return self.calibrations.need(kind, self.raw.info, (height, width), self.detector.layout)

    def part(self, amplifier: Amplifier, plane: NDArray[Any]) -> NDArray[Any]:
        """Return the amplifier's pixels of a plane in readout order, [0, 0] read first: a view that can be written."""
        return oriented(plane[parse_section(amplifier.position)], amplifier)

    def flag(self, where: NDArray[np.bool_], planes: int) -> None:
        """Set `planes` where `where` (height, width) is true."""
        if where.any():
            self.mask[where] |= np.int32(planes)

    def flag_as(self, master: Calibration) -> None:
        """Set the planes of a master's mask where it has any."""
        at, bits = master.flagged
        self.mask.ravel()[at] |= bits
