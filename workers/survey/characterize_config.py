"""[characterize] of survey.toml: background, PSF, WCS and zero point, a table per step."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AstrometryConfig",
    "BackgroundConfig",
    "CharacterizeConfig",
    "ColorTermConfig",
    "LimitsConfig",
    "PhotometryConfig",
    "PsfConfig",
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackgroundConfig(_Model):
    """The sky level."""

    mesh: int = Field(64, ge=8, description="pixels; the level follows waves of 8 meshes, of 4 where the sky is rough")
    threshold: float = Field(2.5, ge=2.0, le=10.0, description="sigma of the mean of 4x4 pixels: masked as sources")
    grow: int = Field(4, ge=0, le=64, description="pixels masked round each source")
    amplifier_steps: bool = Field(True, description="take off steps between amplifiers where they are significant")


class PsfConfig(_Model):
    """The point-spread function and the stars that it is measured on."""

    degree: int = Field(2, ge=0, le=3, description="at most; reserved stars choose it")
    size: int = Field(25, ge=9, le=61, description="pixels, odd")
    star_snr: float = Field(50.0, gt=5, description="least; with too few stars it is lowered, to a fifth at the most")
    oversample: bool = Field(True, description="a grid twice as fine where the PSF is narrower than 2.5 pixels")


class AstrometryConfig(_Model):
    """The WCS, from the telescope's pointing and the reference catalogue."""

    search_radius_pixels: float = Field(250.0, gt=0, description="of the pointing error, along an axis")
    max_rotation: float = Field(1.0, ge=0, le=180, description="degrees, of the pointing error")
    match_radius_arcsec: float = Field(2.0, gt=0, description="after the offset search")
    min_matches: int = Field(8, ge=3)
    max_edge_error: float = Field(
        0.2, gt=0, le=2, description="pixels, expected at the worst corner; few stars leave corners uncertain"
    )
    parity: Literal["known", "unknown"] = Field(
        "known", description="unknown: the camera may be mirrored against its WCS, both ways are tried"
    )


class ColorTermConfig(_Model):
    """magnitude in the camera's band = magnitude in the catalogue + slope x (color - pivot)."""

    color: str = Field(pattern=r"^[^-]+-[^-]+$", description="two bands of the catalogue, e.g. g-r")
    slope: float = Field(gt=-2, lt=2)
    error: float = Field(0.005, ge=0, description="of the slope")
    pivot: float = Field(0.6, description="mag: the colour of the sources that a zero point is to hold for")


class PhotometryConfig(_Model):
    """The zero point."""

    min_stars: int = Field(5, ge=3)
    spatial: bool = Field(True, description="let the zero point change over the detector where stars left out say so")
    color_terms: dict[str, ColorTermConfig] = Field(
        default_factory=dict,
        description='by band, before those that were fitted, e.g. {r = {color = "g-r", slope = -0.02, pivot = 0.6}}',
    )
    colors: dict[str, str] = Field(
        default_factory=lambda: {"u": "g-r", "g": "g-r", "r": "g-r", "i": "r-i", "z": "r-i", "y": "r-i"},
        description="by band, the colour of the catalogue that `photometry color-terms` fits its term in",
    )
    zero_point: dict[str, float] = Field(
        default_factory=dict,
        description="by band, AB magnitude of one electron per second of a clear sky at airmass 1, for transparency",
    )
    extinction: dict[str, float] = Field(default_factory=dict, description="by band, mag per airmass")
    min_transparency: float = Field(0.75, gt=0, le=1, description="below it a sky is flagged as cloudy")


class LimitsConfig(_Model):
    """Exposures beyond these limits end here, with an outcome that names the cause; absent: no limit."""

    min_psf_stars: int | None = Field(None, ge=0)
    max_seeing_arcsec: float | None = Field(None, gt=0)
    max_ellipticity: float | None = Field(None, gt=0, lt=1, description="of the PSF, (a - b) / (a + b)")
    max_astrometric_rms_arcsec: float | None = Field(None, gt=0, description="per coordinate, of bright stars")
    min_sky_magnitude: float | None = Field(
        None, description="AB mag per square arcsec; the sky is too bright below it"
    )
    min_transparency: float | None = Field(None, gt=0, le=1, description="1: as clear as photometry.zero_point says")
    max_zero_point_scatter: float | None = Field(None, gt=0, description="relative, beyond the stars' errors")
    min_limiting_magnitude: float | None = Field(None, description="AB, point source at 5 sigma")


class CharacterizeConfig(_Model):
    """From electrons to a calibrated exposure."""

    background: BackgroundConfig = BackgroundConfig()
    psf: PsfConfig = PsfConfig()
    astrometry: AstrometryConfig = AstrometryConfig()
    photometry: PhotometryConfig = PhotometryConfig()
    limits: LimitsConfig = LimitsConfig()
