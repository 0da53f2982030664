"""`skydelta dead`: dead letters."""

from __future__ import annotations

from typing import Any

import click

from schemas.errors import DataError
from stream.bus import Message
from workers.cli.options import json_option, print_json, print_table, survey_option
from workers.connect import open_blobs, open_bus, open_dead_letters, open_topics
from workers.records import decoded_messages
from workers.survey.config import Survey

__all__ = ["command"]


@click.group()
def command() -> None:
    """List, show and retry dead letters: inputs that could not be processed, with their cause and original bytes."""


def _letters(survey: Survey, prefix: str) -> list[tuple[Message, dict[str, Any]]]:
    bus = open_bus(survey)
    found = decoded_messages(bus, open_topics(survey, bus, prefix).name("dead"))
    return sorted(found, key=lambda pair: pair[0].offset)


def _one(survey: Survey, prefix: str, number: int) -> dict[str, Any]:
    for message, letter in _letters(survey, prefix):
        if message.offset == number:
            return letter
    raise DataError(f"there is no dead letter {number}; `skydelta dead list` shows their numbers")


@command.command("list")
@survey_option
@click.option("--prefix", default="", help="Of a replay.")
@json_option
def list_letters(survey: Survey, prefix: str, as_json: bool) -> None:
    """List dead letters: number, stage, key, kind of error, cause."""
    rows = [
        (
            message.offset,
            letter["stage"],
            letter["key"].decode(errors="replace"),
            letter["errorType"],
            letter["message"],
        )
        for message, letter in _letters(survey, prefix)
    ]
    names = ("number", "stage", "key", "error", "cause")
    if as_json:
        print_json([dict(zip(names, row, strict=True)) for row in rows])
    elif rows:
        print_table(names, rows)
    else:
        click.echo("no dead letters", err=True)


@command.command()
@click.argument("number", type=int)
@survey_option
@click.option("--prefix", default="", help="Of a replay.")
@click.option("-o", "--output", type=click.File("wb"), help="Write the original bytes here.")
@json_option
def show(survey: Survey, number: int, prefix: str, output: Any, as_json: bool) -> None:
    """Show one dead letter whole; -o writes the original bytes."""
    letter = _one(survey, prefix, number)
    if output is not None:
        output.write(open_blobs(survey).open_payload(letter["value"]))
    if as_json:
        print_json(letter)
        return
    for name, value in letter.items():
        click.echo(f"{name}: {value if name != 'value' else str(value['size']) + ' bytes'}")


@command.command()
@click.argument("numbers", metavar="NUMBER...", type=int, nargs=-1, required=True)
@survey_option
@click.option("--prefix", default="", help="Of a replay.")
def retry(survey: Survey, numbers: tuple[int, ...], prefix: str) -> None:
    """Publish the original message of dead letters once more, after the cause was mended."""
    bus = open_bus(survey)
    letters = open_dead_letters(open_topics(survey, bus, prefix), open_blobs(survey))
    for number in numbers:
        letter = _one(survey, prefix, number)
        if not letter["topic"]:
            raise DataError(
                f"dead letter {number} is a file that `skydelta ingest` refused ({letter['key'].decode()}); "
                "mend the file or camera.toml and ingest it again"
            )
        bus.publish([letters.original(letter)])
        click.echo(f"{number}: published on {letter['topic']}")
