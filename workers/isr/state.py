"""What the steps hand to each other: one detector between its raw counts and its electrons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from schemas.errors import ConfigurationError
from workers.imaging.calibrations import Calibration, CalibrationSet
from workers.imaging.exposure import FloatImage, MaskImage, RawExposure
from workers.survey.camera import Camera, Detector

__all__ = ["IsrState"]


@dataclass(frozen=True)
class IsrState:
    """The assembled detector on its way; each step returns a new one. Planes have shape (height, width)."""

    raw: RawExposure
    camera: Camera
    detector: Detector
    calibrations: CalibrationSet
    image: FloatImage
    """In `unit`."""
    mask: MaskImage
    variance: FloatImage
    """In unit²: the noise of the masters applied so far, and from the variance step on that of the counts too."""
    removed: FloatImage | None = None
    """Charge taken off (dark current) whose Poisson noise stays in the image; in `unit`."""
    unit: str = "adu"
    metrics: Mapping[str, float] = field(default_factory=dict)

    def replaced(self, **changes: Any) -> IsrState:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    def with_metrics(self, **metrics: float) -> IsrState:
        """Return a copy with `metrics` added."""
        return replace(self, metrics={**self.metrics, **metrics})

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
        return self.calibrations.need(kind, self.raw.info, (height, width))

    def masked(self, where: np.ndarray[Any, np.dtype[np.bool_]], planes: int) -> MaskImage:
        """Return the mask with `planes` set where `where` is true."""
        return np.asarray(np.where(where, self.mask | np.int32(planes), self.mask), np.int32)
