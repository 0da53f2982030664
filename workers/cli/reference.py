"""`skydelta reference`: a reference catalogue where there is none."""

from __future__ import annotations

from pathlib import Path

import click

from schemas.errors import ConfigurationError
from workers.cli.options import survey_option
from workers.imaging.reference import save_reference
from workers.reference import catalogue_from_frame, with_rough_wcs
from workers.survey.config import Survey

__all__ = ["command"]


@click.group()
def command() -> None:
    """Make a reference catalogue, from one frame where there is none."""


@command.command("from-frame")
@click.argument("frame", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@survey_option
@click.option(
    "--scale", type=click.FloatRange(min=0, min_open=True), help="Arcsec per pixel: adds [wcs] to camera.toml."
)
@click.option("--rotation", default=0.0, show_default=True, help="Degrees from image up to north through east.")
@click.option("--mirrored", is_flag=True, help="East is right when north is up.")
@click.option("--zero-point", default=22.0, show_default=True, help="AB magnitude of one electron per second.")
def from_frame(
    survey: Survey, frame: Path, scale: float | None, rotation: float, mirrored: bool, zero_point: float
) -> None:
    """Make the survey's reference catalogue from the stars of one raw FRAME.

    For frames without a WCS --scale also writes a rough one, from the pointing, into camera.toml. Positions and fluxes
    are then right relative to this frame only: enough to subtract and associate, not to name a place on the sky.
    """
    path = survey.path(survey.config.reference.path)
    if path.exists():
        raise ConfigurationError(f"{path} exists already; it was left as it is. Move it away to make another")
    if scale is not None:
        survey = with_rough_wcs(survey, scale, rotation, -1 if mirrored else 1)
    catalogue = catalogue_from_frame(frame, survey, zero_point)
    save_reference(path, catalogue)
    click.echo(f"{path}: {len(catalogue)} stars in band {', '.join(catalogue.bands)}")
