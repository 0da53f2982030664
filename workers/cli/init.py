"""`skydelta init DIR`: a commented survey.toml and camera.toml to begin with."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from schemas.errors import ConfigurationError
from workers.survey.initial import initial_survey_toml

__all__ = ["command", "example_cameras"]


def example_cameras() -> dict[str, str]:
    """Return the text of each camera file that ships with the product, by name."""
    folder = resources.files("workers.survey") / "examples"
    found = {item.name.removesuffix(".toml"): item for item in folder.iterdir() if item.name.endswith(".toml")}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--camera", default="generic-ccd", show_default=True, help="Example to begin with; --list shows them.")
@click.option("--list", "list_cameras", is_flag=True, is_eager=True, help="List the example cameras and stop.")
def command(folder: Path, camera: str, list_cameras: bool) -> None:
    """Write a commented survey.toml and camera.toml into FOLDER. Existing files are never overwritten."""
    cameras = example_cameras()
    if list_cameras:
        click.echo("\n".join(cameras))
        return
    if camera not in cameras:
        raise ConfigurationError(f"there is no example camera {camera!r}; there are: {', '.join(cameras)}")
    files = {"survey.toml": initial_survey_toml(name=folder.resolve().name), "camera.toml": cameras[camera]}
    for name in files:
        if (folder / name).exists():
            raise ConfigurationError(f"{folder / name} exists already; it was left as it is. Choose another folder")
    for place in ("archive/raw", "archive/calexps", "calibrations", "templates", "state"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        click.echo(str(folder / name))
    click.echo(f"next: edit both, then `skydelta check -s {folder}`", err=True)
