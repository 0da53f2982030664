"""`skydelta simulate`: a synthetic survey with truth tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from schemas.errors import ConfigurationError
from workers.simulate.pipeline import write_survey
from workers.simulate.settings import PRESETS

__all__ = ["command"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--preset", type=click.Choice(list(PRESETS)), default="demo", show_default=True)
@click.option("--seed", type=int, help="Another sky, other noise.")
@click.option("--size", type=click.IntRange(128, 8192), help="Side of a detector in pixels.")
@click.option("--detectors", type=click.IntRange(1, 64), help="Detectors side by side.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="Threads.")
def command(folder: Path, preset: str, seed: int | None, size: int | None, detectors: int | None, workers: int) -> None:
    """Write a survey into FOLDER: configuration, reference catalogue, raw frames by night, truth tables."""
    if (folder / "survey.toml").exists():
        raise ConfigurationError(f"{folder} holds a survey already; choose another folder")
    config = PRESETS[preset]
    if seed is not None:
        config = replace(config, seed=seed)
    old = config.detectors
    chips = replace(old, width=size or old.width, height=size or old.height, count=detectors or old.count)
    config = replace(config, detectors=chips)
    files = write_survey(folder, config, workers=workers)
    counts = {**{kind: len(paths) for kind, paths in files.calibration.items()}, "archive": len(files.archive)}
    counts |= {"recent": len(files.recent), "live": len(files.live)}
    click.echo(f"{folder}: " + ", ".join(f"{count} {name}" for name, count in counts.items()) + " frames")
