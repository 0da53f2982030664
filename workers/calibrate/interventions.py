"""interventions.toml: what was done to the camera and when. Calibrations are never combined across an intervention.

::

    [[intervention]]
    mjd = 61110.75              # MJD TAI
    reason = "dewar warmed up"
    detectors = [3, 4]          # optional; all of them where absent
    kinds = ["flat"]            # optional; bias, dark, flat; all of them where absent
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workers.survey.load import load_toml

__all__ = ["Intervention", "Interventions", "load_interventions"]


class Intervention(BaseModel):
    """One intervention."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mjd: float = Field(gt=0, lt=1.0e6, description="MJD TAI")
    reason: str = Field(min_length=1, description="shown with the period that begins here")
    detectors: tuple[int, ...] = Field((), description="absent: all")
    kinds: tuple[Literal["bias", "dark", "flat"], ...] = Field((), description="absent: all")

    def concerns(self, kind: str, detector: int) -> bool:
        """Return whether it splits the calibrations of this kind and detector."""
        return (not self.kinds or kind in self.kinds) and (not self.detectors or detector in self.detectors)


class Interventions(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    intervention: tuple[Intervention, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Interventions:
        if len(set(self.intervention)) != len(self.intervention):
            raise ValueError("the same intervention is given twice")
        return self


def load_interventions(path: Path) -> tuple[Intervention, ...]:
    """Return the interventions in order of time, none where there is no file; raises ConfigurationError."""
    if not path.exists():
        return ()
    declared = load_toml(path, Interventions).intervention
    return tuple(sorted(declared, key=lambda one: (one.mjd, one.reason)))
