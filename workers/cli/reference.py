"""`skydelta reference`: build a reference catalogue from extracts, look into one, or make one where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from schemas.errors import ConfigurationError
from workers.cli.options import json_option, print_json, print_table, survey_option
from workers.survey.config import Survey, load_survey

if TYPE_CHECKING:
    from workers.imaging.reference_store import Reference
    from workers.reference_build.build import BuildReport

__all__ = ["command"]

_SHOWN = 50
"""Stars printed by `show` as a table."""


@click.group()
def command() -> None:
    """Build and show the reference catalogue, or make one from a frame where there is none."""


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
    from workers.imaging.reference import save_reference
    from workers.reference import catalogue_from_frame, with_rough_wcs

    path = survey.path(survey.config.reference.path)
    if path.exists():
        raise ConfigurationError(f"{path} exists already; it was left as it is. Move it away to make another")
    if scale is not None:
        survey = with_rough_wcs(survey, scale, rotation, -1 if mirrored else 1)
    catalogue = catalogue_from_frame(frame, survey, zero_point)
    save_reference(path, catalogue)
    click.echo(f"{path}: {len(catalogue)} stars in band {', '.join(catalogue.bands)}")


@command.command("build")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "-i", "--input", "inputs", type=click.Path(path_type=Path), multiple=True, required=True, metavar="FILE",
    help="FITS, VOTable, ECSV or CSV, also gzipped; once per file.",
)  # fmt: skip
@click.option(
    "--format", "kind", type=click.Choice(["auto", "gaia", "ps1", "lsst", "generic"]), default="auto",
    show_default=True, help="Whose column names the files have; auto tells from the columns.",
)  # fmt: skip
@click.option(
    "--column", "columns", multiple=True, metavar="NAME=COLUMN",
    help="A quantity's column, e.g. ra=RA_ICRS or pmRa=pm_ra[arcsec/yr], or one number, e.g. epoch=2016.0.",
)  # fmt: skip
@click.option(
    "--band", "bands", multiple=True, metavar="NAME=COLUMN",
    help="A band's column, e.g. r=rMeanPSFMag, K=Ks,e_Ks[mag+1.85] (AB less Vega), g=gflux[Jy].",
)  # fmt: skip
@click.option(
    "--columns", "mapping", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="MAPPING.toml",
    help="The same as tables [columns] and [bands].",
)  # fmt: skip
@click.option("--bands", "kept", metavar="G,BP,RP", help="Keep only these bands.")
@click.option("--radius", default=1.0, show_default=True, help="Arcsec within which two catalogues' stars are one.")
@click.option("--nside", default=32, show_default=True, help="Of the shards, a power of 2; 64 or more in dense fields.")
@click.option("--replace", is_flag=True, help="Replace the catalogue that OUT holds.")
@json_option
def build(
    out: Path,
    inputs: tuple[Path, ...],
    kind: str,
    columns: tuple[str, ...],
    bands: tuple[str, ...],
    mapping: Path | None,
    kept: str | None,
    radius: float,
    nside: int,
    replace: bool,
    as_json: bool,
) -> None:
    """Build a sharded reference catalogue in the folder OUT from extracts of Gaia, PS1 and others.

    Where files of several catalogues are given their stars are joined: positions and motions are Gaia's, fluxes
    everybody's. Set [reference] path in survey.toml to OUT.
    """
    from workers.reference_build.build import BuildOptions, build_reference
    from workers.reference_build.columns import read_column_map

    if nside < 1 or nside > 1024 or nside & (nside - 1):
        raise click.BadParameter("a power of 2 from 1 to 1024", param_hint="--nside")
    names = tuple(name.strip() for name in (kept or "").split(",") if name.strip())
    given = read_column_map(mapping, columns, bands)
    options = BuildOptions(kind, given, names, radius, nside, replace)
    store, report = build_reference(out, inputs, options, lambda text: click.echo(text, err=True))
    if as_json:
        print_json({"path": str(out), "name": store.name, "bands": store.bands} | store.index.history)
        return
    _print_report(report)
    click.echo(f"{out}: {store.name}, {len(store)} stars in {len(store.index.shards)} shards")


def _print_report(report: BuildReport) -> None:
    rows = [(one.file, one.kind, ",".join(one.bands), one.rows, one.noPosition, one.noFlux) for one in report.inputs]
    print_table(("file", "format", "bands", "rows", "no position", "no flux"), rows)
    for one in report.inputs:
        if one.assumedEpoch is not None:
            click.echo(
                f"{one.file} states no epoch: {one.assumedEpoch} was taken; --column epoch=YEAR says another", err=True
            )
    click.echo(
        f"left out: {report.duplicates} rows that repeat a star, {report.ambiguous} near a star of another catalogue "
        f"but not certainly it; {report.joined} stars are in more than one catalogue"
    )


@command.command("show", context_settings={"ignore_unknown_options": True})
@click.argument("ra", type=float, required=False)
@click.argument("dec", type=float, required=False)
@click.option("--radius", default=60.0, show_default=True, help="Arcsec round the place.")
@click.option("--mjd", type=float, help="Positions at this date; otherwise at the catalogue's epoch.")
@click.option(
    "--catalogue", type=click.Path(path_type=Path), metavar="PATH", help="Default: [reference] path of the survey."
)
@click.option("-s", "--survey", "folder", default=".", show_default=True, metavar="DIR", help="The survey's folder.")
@json_option
def show(
    ra: float | None,
    dec: float | None,
    radius: float,
    mjd: float | None,
    catalogue: Path | None,
    folder: str,
    as_json: bool,
) -> None:
    """Show what the reference catalogue holds, and its stars near RA DEC (degrees ICRS), nearest first."""
    from workers.imaging.reference_store import open_reference
    from workers.reference_build.show import near_place, reference_summary

    if (ra is None) != (dec is None) or (dec is not None and abs(dec) > 90.0):
        raise click.UsageError("give RA and DEC, both in degrees, DEC from -90 to 90")
    if catalogue is None:
        survey = load_survey(Path(folder))
        catalogue = survey.path(survey.config.reference.path)
    reference = open_reference(catalogue)
    summary = {"path": str(catalogue)} | reference_summary(reference)
    stars = [] if ra is None or dec is None else near_place(reference, ra, dec, radius, mjd)
    if as_json:
        print_json(summary | ({} if ra is None else {"near": stars}))
        return
    print_table(("reference", ""), [(key, _text(value)) for key, value in summary.items()])
    if ra is not None:
        _print_stars(reference, stars, radius)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {number}" for key, number in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _print_stars(reference: Reference, stars: list[dict[str, Any]], radius: float) -> None:
    click.echo(f"{len(stars)} stars within {radius:g} arcsec")
    columns = ("distance", "ra", "dec", "pmRa", "pmDec", *reference.bands)
    shown = [_star_row(star, reference.bands) for star in stars[:_SHOWN]]
    if shown:
        print_table(columns, shown)
    if len(stars) > _SHOWN:
        click.echo(f"and {len(stars) - _SHOWN} more; --json lists them all", err=True)


def _star_row(star: dict[str, Any], bands: tuple[str, ...]) -> tuple[str, ...]:
    place = f"{star['distance']:.2f}", f"{star['ra']:.7f}", f"{star['dec']:+.7f}"
    return *place, *map(_short, (star["pmRa"], star["pmDec"])), *(_short(star["magnitude"][band]) for band in bands)


def _short(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"
