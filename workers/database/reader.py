"""What the reading commands ask of the database."""

from __future__ import annotations

from workers.database import Rows
from workers.database.connection import Connection
from workers.database.rows import object_rows, source_rows

__all__ = ["SqlReader"]

_COUNTED = ("dia_objects", "dia_sources", "exposures", "announcements")


class SqlReader:
    """`workers.database.DiaReader` in SQL."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def object(self, number: int) -> Rows:
        """Return the object with this id as OBJECT_DTYPE rows (none or one)."""
        return object_rows(self.connection.query("SELECT data FROM dia_objects WHERE diaObjectId = ?", (number,)))

    def sources_of(self, number: int) -> Rows:
        """Return every source of an object in time order."""
        text = "SELECT data FROM dia_sources WHERE diaObjectId = ? ORDER BY mjd, diaSourceId"
        return source_rows(self.connection.query(text, (number,)))

    def sources_in(self, visit: int, detector: int) -> Rows:
        """Return every source of a visit and detector by id."""
        text = "SELECT data FROM dia_sources WHERE visit = ? AND detector = ? ORDER BY diaSourceId"
        return source_rows(self.connection.query(text, (visit, detector)))

    def source(self, number: int) -> Rows:
        """Return the source with this id (none or one)."""
        return source_rows(self.connection.query("SELECT data FROM dia_sources WHERE diaSourceId = ?", (number,)))

    def counts(self) -> dict[str, int]:
        """Return the number of rows by table."""
        text = "SELECT " + ", ".join(f"(SELECT count(*) FROM {name})" for name in _COUNTED)  # noqa: S608
        return dict(zip(_COUNTED, self.connection.query(text)[0], strict=True))

    def close(self) -> None:
        """Release the file or connection; closing twice is allowed."""
        self.connection.close()
