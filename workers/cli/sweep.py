"""`skydelta sweep`: orphans in the blob store."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import click

from schemas.errors import SchemaError
from stream import codec
from workers.cli.options import survey_option
from workers.connect import open_blobs, open_bus
from workers.survey.config import Survey

__all__ = ["command", "named_blobs"]

_NAME = re.compile(rb"[0-9a-f]{64}")


def named_blobs(value: Any) -> Iterator[str]:
    """Yield the sha256 of every payload inside a decoded record that is not inline."""
    if isinstance(value, dict):
        if "sha256" in value and "inline" in value and value["inline"] is None:
            yield value["sha256"]
        for item in value.values():
            yield from named_blobs(item)
    elif isinstance(value, list):
        for item in value:
            yield from named_blobs(item)


def _named_in(value: bytes) -> set[str]:
    try:
        return set(named_blobs(codec.decode(value).record))
    except SchemaError:  # garbage, or of a newer version: Avro writes a name as it is
        return {name.decode() for name in _NAME.findall(value)}


@click.command()
@survey_option
@click.option("--older-than", default=86400.0, show_default=True, help="Seconds since it was written.")
@click.option("--yes", is_flag=True, help="Delete; without it they are only counted.")
def command(survey: Survey, older_than: float, yes: bool) -> None:
    """Delete pixels in the blob store that no message on the bus names any more."""
    bus, blobs = open_bus(survey), open_blobs(survey)
    live: set[str] = set()
    for topic in bus.topics():
        for message in bus.read(topic):
            live |= _named_in(message.value)
    if not yes:
        click.echo(f"{len(live)} blobs are named by messages; with --yes those that are not, and are old, are deleted")
        return
    removed = blobs.sweep(live, older_than, time.time())
    click.echo(f"{len(removed)} blobs deleted, {len(live)} named by messages")
