"""[templates] of survey.toml: which epochs may enter a template, which of them do, and on what pixels."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from schemas.errors import ConfigurationError

__all__ = ["TemplatesConfig"]

_TWO_SEASONS = 731.0
"""Days; from one conjunction with the Sun to the next but one it is 730.5."""
_LONGEST_GAP = 180.0
"""Days, of season-aligned windows: a longer one could leave nothing of a season."""


class TemplatesConfig(BaseModel):
    """The prior-year window and how templates are combined."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    begin: float | None = Field(None, description="MJD TAI, first epoch allowed; with `end` the window stands still")
    end: float | None = Field(None, description="MJD TAI, last epoch allowed; visits up to it are refused")
    window_days: float = Field(365.0, gt=0, description="length of a window that moves on every day: no begin and end")
    gap_days: float = Field(60.0, ge=0, description="from the last epoch of a window that moves to the day of the job")
    season_aligned: bool = Field(
        False,
        description="of a window that moves: instead of window_days, the last whole season of each cell, from one "
        "conjunction with the Sun to the next, still no later than gap_days before the job",
    )
    pixel_scale: float = Field(gt=0, description="arcsec")
    cell_size: int = Field(256, ge=64, le=2048, description="pixels")
    min_epochs: int = Field(3, ge=1)
    max_epochs: int = Field(40, ge=1, description="visits of a cell: those that make it deepest")
    min_selected: int = Field(12, ge=1, description="visits that good seeing leaves in a cell, where there are so many")
    fwhm_fraction: float = Field(0.33, gt=0, le=1, description="of a cell's visits, those of the best seeing")
    max_fwhm_arcsec: float = Field(10.0, gt=0)
    min_transparency: float = Field(
        0.75, ge=0, le=1, description="beside photometry.zero_point, else beside the clearer visits of the cell"
    )
    max_psf_error: float = Field(
        0.04, gt=0, description="of the PSF model, relative to its value at a pixel, as bright stars show it"
    )
    max_ellipticity: float = Field(0.21, gt=0, le=1, description="of the PSF, (a - b) / (a + b)")
    min_psf_stars: int = Field(4, ge=0, description="fitted; sparse fields of small cameras have no more than 5")
    max_astrometric_rms: float = Field(
        0.1, gt=0, description="per coordinate, in FWHM; 0.1 takes 3 % off the peak of a star"
    )
    keep_warps_days: float = Field(
        400.0, ge=0, description="for which warps are kept after the last job that used them; 0: not after the job"
    )
    veto_known: bool = Field(
        True, description="light of the transients that the DIA database knows is left out of new templates"
    )
    airmass_bands: tuple[str, ...] = Field(
        (), description='bands with templates in airmass bins besides the whole one, as ["u", "g"]; needs a site'
    )
    airmass_spread_arcsec: float = Field(
        0.05, gt=0, description="how far an input may show a star of 12,000 K from its place in the bin's template"
    )
    _day: float | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _ordered(self) -> TemplatesConfig:
        if (self.begin is None) != (self.end is None):
            raise ValueError("templates.begin and templates.end go together; without both the window moves")
        if self.begin is not None and self.end is not None and self.begin >= self.end:
            raise ValueError(f"templates.begin {self.begin} must be before templates.end {self.end}")
        return self

    @model_validator(mode="after")
    def _aligned(self) -> TemplatesConfig:
        if self.season_aligned and self.begin is not None:
            raise ValueError("templates.season_aligned is for a window that moves: leave begin and end out")
        if self.season_aligned and self.gap_days > _LONGEST_GAP:
            raise ValueError(f"templates.gap_days {self.gap_days} is above {_LONGEST_GAP}: seasons would be left empty")
        return self

    @property
    def window(self) -> tuple[float, float]:
        """First and last epoch allowed in any cell, MJD TAI; ConfigurationError for a window that moves."""
        if self.begin is None or self.end is None:
            raise ConfigurationError("the template window moves (no templates.begin and end): ask for that of a day")
        return self.begin, self.end

    @property
    def day(self) -> float | None:
        """MJD of the day of the job whose window this is (see `at`); None for a window that stands still."""
        return self._day

    def at(self, mjd: float) -> TemplatesConfig:
        """Return this with the window that a job of the day of `mjd` (MJD TAI) has: the same all day long.

        Season-aligned, this is the window that holds those of all cells (`workers.templates.window.cell_window`).
        """
        if self.begin is not None:
            return self
        day = math.floor(mjd)
        end = day - self.gap_days
        begin = day - _TWO_SEASONS if self.season_aligned else end - self.window_days
        moved = self.model_copy(update={"begin": begin, "end": end})
        moved._day = float(day)
        return moved
