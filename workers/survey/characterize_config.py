"""[characterize] of survey.toml: background, PSF, WCS and zero point, a table per step."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["AstrometryConfig", "BackgroundConfig", "CharacterizeConfig", "LimitsConfig", "PhotometryConfig", "PsfConfig"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackgroundConfig(_Model):
    """The sky level."""

    mesh: int = Field(64, ge=8, description="pixels")


class PsfConfig(_Model):
    """The point-spread function and the stars that it is measured on."""

    degree: int = Field(2, ge=0, le=3, description="at most; fewer stars take a lower one")
    size: int = Field(25, ge=9, le=61, description="pixels, odd")
    star_snr: float = Field(50.0, gt=5)


class AstrometryConfig(_Model):
    """The WCS, from the telescope's pointing and the reference catalogue."""

    search_radius_arcsec: float = Field(20.0, gt=0, description="of the pointing error")
    match_radius_arcsec: float = Field(2.0, gt=0, description="after the offset search")
    min_matches: int = Field(8, ge=3)


class PhotometryConfig(_Model):
    """The zero point."""

    min_stars: int = Field(5, ge=3)


class LimitsConfig(_Model):
    """Exposures beyond these limits end here, with an outcome that names the cause; absent: no limit."""

    min_psf_stars: int | None = Field(None, ge=0)
    max_seeing_arcsec: float | None = Field(None, gt=0)
    max_ellipticity: float | None = Field(None, gt=0, lt=1, description="of the PSF, (a - b) / (a + b)")
    max_astrometric_rms_arcsec: float | None = Field(None, gt=0, description="per coordinate, of bright stars")
    min_sky_magnitude: float | None = Field(None, description="AB mag per square arcsec; the sky is too bright below it")
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
