"""`skydelta object ID`: what is known of one object."""

from __future__ import annotations

import click

import schemas
from schemas.errors import DataError
from workers.cli.options import json_option, print_json, print_table, survey_option
from workers.connect import open_database
from workers.survey.config import Survey

__all__ = ["command"]


@click.command()
@click.argument("number", metavar="ID", type=int)
@survey_option
@click.option("--prefix", default="", help="Of a replay.")
@json_option
def command(survey: Survey, number: int, prefix: str, as_json: bool) -> None:
    """Show the object with this diaObjectId and its light curve; a diaSourceId leads to its object."""
    database = open_database(survey, prefix)
    rows = database.object(number)
    if len(rows) == 0:
        source = database.source(number)
        rows = database.object(int(source["diaObjectId"][0])) if len(source) else rows
    if len(rows) == 0:
        raise DataError(f"the database knows no object and no source {number}; `skydelta alerts tail` lists objects")
    sources = database.sources_of(int(rows["diaObjectId"][0]))
    row = {name: rows[name][0].item() for name in rows.dtype.names or ()}
    if as_json:
        print_json({"diaObject": row, "diaSources": schemas.rows_to_records(sources)})
        return
    print_table(("diaObject", ""), [(name, str(value)) for name, value in row.items()])
    columns = ("midpointMjdTai", "band", "psfFlux", "psfFluxErr", "snr", "reliability", "visit", "detector")
    print_table(columns, [tuple(source[name].item() for name in columns) for source in sources])
