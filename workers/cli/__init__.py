"""The command line: `skydelta COMMAND`. One file per command, imported only when it runs."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from schemas.errors import SkydeltaError
from workers.process import prepare_process

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS = {
    "demo": "A simulated survey from raw pixels to alerts and a report; no server, no network.",
    "init": "Write a commented survey.toml and camera.toml into a folder.",
    "check": "Check configuration, camera, bus, database, calibrations and templates.",
    "ingest": "Announce raw files to the night, or watch a folder for them.",
    "run": "Run workers: one stage, stages joined by +, or all.",
    "isr": "Calibrate one raw file: signature removal, PSF, WCS, zero point.",
    "catalogue": "Measure every source of calibrated exposures into FITS tables.",
    "astrometry": "Solve the detectors of a visit jointly and write the WCS back.",
    "subtract": "Subtract the template from one calibrated exposure.",
    "score": "Score the sources of one subtraction.",
    "calibrate": "Make master bias, dark, flat and defects, or train the classifier.",
    "templates": "Plan, build and show templates.",
    "replay": "Run an archived night again, apart from the live one, and compare.",
    "drill": "Break a night in every way that is promised to be harmless, and compare.",
    "alerts": "Follow, show and save alerts.",
    "object": "Show what is known of one object.",
    "dead": "List, show and retry dead letters.",
    "status": "Lag, last visit, stage times, outcomes and dead letters.",
    "report": "Write the report of a night as one HTML page.",
    "photometry": "Fit the colour terms of the camera's bands.",
    "reference": "Build and show the reference catalogue; make one from a frame where there is none.",
    "simulate": "Write a synthetic survey with truth tables.",
    "sweep": "Delete pixels in the blob store that no message names any more.",
}
"""Every command with its one-line help; the table keeps `-h` fast."""


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"workers.cli.{cmd_name}")
        command = module.command
        assert_is_command(command)
        return command  # type: ignore[no-any-return]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def assert_is_command(command: Any) -> None:
    """Raise TypeError where a command module does not hold a click command: a bug of ours."""
    if not isinstance(command, click.Command):
        raise TypeError(f"{command!r} is not a click command")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="skydelta")
def cli() -> None:
    """Alert production for any camera: raw exposures in, calibrated difference-image alerts out."""


def main() -> None:
    """Entry point: run the command and turn errors of the tree into a message and an exit code."""
    prepare_process()
    try:
        if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
            from workers.cli.guard import check_installation

            check_installation()
        cli.main(prog_name="skydelta", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except SkydeltaError as error:
        click.echo(f"skydelta: {type(error).__name__}: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
