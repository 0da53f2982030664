"""camera.toml, [[reflections]]: where the optics throw a second image of a bright star, and how large and bright."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

__all__ = ["Ghost", "Glint", "Magnification", "Reflection"]

_Float = NDArray[np.float64]
Row = tuple[FiniteFloat, FiniteFloat]
Magnification = FiniteFloat | tuple[Row, Row]
"""A number, or the rows of a 2x2 matrix that acts on (x, y)."""


class _Reflected(BaseModel):
    """What a ghost and a glint share.

    The frame is the focal plane's, in pixels of the detector along its axes, the boresight (offset_x, offset_y of the
    detector) at the origin. A star at u throws light round ``magnification u + shift``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    magnification: Magnification = Field(description="a number, or a 2x2 matrix as two rows")
    shift: Row = Field((0.0, 0.0), description="pixels")
    fraction: float = Field(gt=0, lt=1, description="of the star's light")
    bands: tuple[str, ...] = Field((), description="absent: all")

    def seen_in(self, band: str) -> bool:
        """Return whether this reflection occurs in `band`."""
        return not self.bands or band in self.bands

    def mapped(self, stars: _Float) -> _Float:
        """Return where the light of stars at float64 (n, 2) offsets from the boresight goes, same frame and shape."""
        matrix = np.asarray(self.magnification, float)
        matrix = matrix * np.eye(2) if matrix.ndim == 0 else matrix
        return np.asarray(stars @ matrix.T + np.asarray(self.shift))


class Ghost(_Reflected):
    """An annulus: the image of the pupil, out of focus after two reflections between optical surfaces.

    Radii in pixels; at field radius r they are ``outer + outer_growth r`` and ``inner + inner_growth r``.
    """

    kind: Literal["ghost"]
    outer: float = Field(gt=0, allow_inf_nan=False, description="radius of the disc, pixels")
    inner: float = Field(0.0, ge=0, allow_inf_nan=False, description="radius of the hole, pixels")
    outer_growth: FiniteFloat = Field(0.0, description="pixels per pixel of field radius")
    inner_growth: FiniteFloat = Field(0.0, description="pixels per pixel of field radius")
    hole_drift: FiniteFloat = Field(
        0.0, description="displacement of the hole's centre from the disc's, pixels per pixel of the star's offset"
    )
    max_radius: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="field radius beyond which a star throws none, pixels"
    )

    @model_validator(mode="after")
    def _is_an_annulus(self) -> Ghost:
        """The hole must be smaller than the disc wherever a star may be."""
        if self.max_radius is None:
            widths, ends = (self.outer_growth - self.inner_growth, self.outer_growth), "for all field radii: set "
            if min(widths) < 0:
                raise ValueError(f"ghost {self.name}: its annulus does not stay open {ends}max_radius")
        for radius in (0.0, self.max_radius or 0.0):
            outer, inner = self.radii(np.array([radius]))
            if not inner[0] < outer[0]:
                raise ValueError(
                    f"ghost {self.name}: inner radius {inner[0]:g} must be less than the outer one, {outer[0]:g}, "
                    f"at field radius {radius:g}"
                )
        return self

    def radii(self, field_radius: _Float) -> tuple[_Float, _Float]:
        """Return (outer, inner) radius, pixels, for stars at `field_radius` pixels from the boresight."""
        inner = np.maximum(self.inner + self.inner_growth * field_radius, 0.0)
        return self.outer + self.outer_growth * field_radius, inner

    def hole_centres(self, stars: _Float) -> _Float:
        """Return the centres of the holes for stars at float64 (n, 2) offsets; the frame of `mapped`."""
        return self.mapped(stars) + self.hole_drift * stars


class Glint(_Reflected):
    """A streak: a star just outside the detectors shines on the edge of a support.

    It begins at the mapped position and runs along the star's radial direction.
    """

    kind: Literal["glint"]
    min_radius: float = Field(ge=0, allow_inf_nan=False, description="of the stars that do it, pixels of field radius")
    max_radius: float = Field(gt=0, allow_inf_nan=False, description="of the stars that do it, pixels of field radius")
    azimuths: Row = Field((0.0, 360.0), description="of the stars that do it: from, to; degrees from x to y")
    length: FiniteFloat = Field(description="pixels, away from the boresight; negative: towards it")
    width: float = Field(gt=0, allow_inf_nan=False, description="pixels, at its beginning")
    end_width: float | None = Field(None, gt=0, allow_inf_nan=False, description="pixels, at its end; absent: as width")

    @model_validator(mode="after")
    def _is_a_streak(self) -> Glint:
        if not self.min_radius < self.max_radius:
            raise ValueError(f"glint {self.name}: min_radius must be less than max_radius")
        if self.length == 0.0:
            raise ValueError(f"glint {self.name}: length must not be 0")
        return self

    def thrown_by(self, stars: _Float) -> NDArray[np.bool_]:
        """Return which stars, at float64 (n, 2) offsets from the boresight, throw this glint."""
        radius = np.hypot(stars[:, 0], stars[:, 1])
        azimuth = np.degrees(np.arctan2(stars[:, 1], stars[:, 0]))
        begin, end = self.azimuths
        inside = (azimuth - begin) % 360.0 <= (end - begin if end - begin <= 360.0 else 360.0)
        return np.asarray((radius >= self.min_radius) & (radius <= self.max_radius) & inside)


Reflection = Annotated[Ghost | Glint, Field(discriminator="kind")]
"""One entry of ``[[reflections]]``; `kind` says which."""
