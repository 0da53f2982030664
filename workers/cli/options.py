"""Options and outputs that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from workers.survey.config import Survey, load_survey

__all__ = ["json_option", "print_json", "print_table", "survey_option", "table_rows"]

_WIDE = 10_000
"""Columns of a pipe or a file: lines there are as long as they are."""

Function = TypeVar("Function", bound=Callable[..., Any])


def _load(ctx: click.Context, parameter: click.Parameter, value: str) -> Survey:
    return load_survey(Path(value))


def survey_option(function: Function) -> Function:
    """Add ``-s/--survey DIR``; the command receives the loaded Survey."""
    return click.option(
        "-s",
        "--survey",
        default=".",
        show_default=True,
        callback=_load,
        metavar="DIR",
        help="The survey's folder.",
    )(function)


def json_option(function: Function) -> Function:
    """Add ``--json``; the command receives `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def print_json(value: Any) -> None:
    """Write one JSON document to stdout; NaN becomes null, numpy scalars become numbers."""
    click.echo(json.dumps(_plain(value), indent=1, sort_keys=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and value != value:
        return None
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def table_rows(rows: Iterable[Sequence[Any]]) -> list[list[str]]:
    """Return the cells as text, floats with nine significant digits."""
    return [[f"{cell:.9g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a plain table to stdout; no cell is ever cut short, since an id may be copied from it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in table_rows(rows):
        table.add_row(*row)
    console = Console(soft_wrap=True, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDE
    console.print(table)
