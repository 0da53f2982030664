"""The one line in which exposures are associated; each sky tile sees its part of it."""

from __future__ import annotations

from workers.database import Announcement
from workers.database.visits import COLUMNS, WAITING, SqlVisits, announcement_of, numbers

__all__ = ["SqlLine"]


class SqlLine(SqlVisits):
    """`workers.database.Line` in SQL.

    The rows of `line` are the tiles of open exposures, and its index (tile, rank) has the head of every tile: what has
    ended is not in it. Ranks come from one counter; its row stays locked until the transaction ends, so that no rank
    appears after a higher one.
    """

    def enqueue(self, visit: int, detector: int, late: bool) -> None:
        """Give an open exposure the next rank, on each of its tiles; nothing where it has a place already."""
        waits = "EXISTS (SELECT 1 FROM line WHERE visit = ? AND detector = ? AND rank = 0)"
        key = (visit, detector)
        self.connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'rank'")
        self.connection.execute(
            f"UPDATE announcements SET late = ? WHERE visit = ? AND detector = ? AND {waits}",  # noqa: S608
            (int(late), *key, *key),
        )
        self.connection.execute(
            "UPDATE line SET rank = (SELECT value FROM counters WHERE name = 'rank') "
            "WHERE visit = ? AND detector = ? AND rank = 0",
            key,
        )

    def deliver(self, visit: int, detector: int, sha256: str, message: bytes, *, instead: bool = False) -> bool:
        """Keep the scored message until its turn; False where it is here, or nothing waits for it."""
        known = "UPDATE SET message = excluded.message" if instead else "NOTHING"
        rows = self.connection.query(
            "INSERT INTO deliveries(visit, detector, sha256, message) SELECT ?, ?, ?, ? WHERE NOT EXISTS ("  # noqa: S608
            "SELECT 1 FROM announcements WHERE visit = ? AND detector = ? AND outcome <> 'missing' "
            "AND (outcome <> 'open' OR sha256 <> ?)) "
            f"ON CONFLICT(visit, detector, sha256) DO {known} RETURNING visit",
            (visit, detector, sha256, message, visit, detector, sha256),
        )
        return bool(rows)

    def delivered(self, visit: int, detector: int) -> bytes | None:
        """Return the kept message of the sha256 that was announced, if it is here."""
        rows = self.connection.query(
            "SELECT message FROM deliveries WHERE visit = ? AND detector = ? "
            "AND sha256 = (SELECT sha256 FROM announcements WHERE visit = ? AND detector = ?)",
            (visit, detector, visit, detector),
        )
        return rows[0][0] if rows else None

    def head(self, tile: int) -> Announcement | None:
        """Return the open exposure of lowest rank on this tile."""
        rows = self.connection.query(
            f"SELECT {COLUMNS} FROM announcements WHERE (visit, detector) = "  # noqa: S608
            "(SELECT visit, detector FROM line WHERE tile = ? AND rank > 0 ORDER BY rank LIMIT 1)",
            (tile,),
        )
        return announcement_of(rows[0]) if rows else None

    def heads(self) -> list[Announcement]:
        """Return the open exposures that are the first on one of their tiles at least, in order of announcement."""
        rows = self.connection.query(
            f"SELECT {COLUMNS} FROM announcements WHERE (visit, detector) IN ("  # noqa: S608
            "SELECT l.visit, l.detector FROM line l WHERE l.rank > 0 AND l.rank = "
            "(SELECT MIN(m.rank) FROM line m WHERE m.tile = l.tile AND m.rank > 0)) ORDER BY seq"
        )
        return [announcement_of(row) for row in rows]

    def finish(self, visit: int, detector: int, outcome: str, alerts: int, processedMjdTai: float) -> None:
        """Write how an exposure ended, take it out of the line and drop its kept messages."""
        self.connection.execute(
            "UPDATE announcements SET outcome = ?, alerts = ?, processedMjdTai = ? WHERE visit = ? AND detector = ?",
            (outcome, alerts, float(processedMjdTai), visit, detector),
        )
        for table in ("line", "deliveries"):
            text = f"DELETE FROM {table} WHERE visit = ? AND detector = ?"  # noqa: S608
            self.connection.execute(text, (visit, detector))

    def reopen(self, visit: int, detector: int) -> None:
        """Turn ``failed`` into ``open``, without a place in the line; nothing for any other outcome."""
        rows = self.connection.query(
            "UPDATE announcements SET outcome = 'open' WHERE visit = ? AND detector = ? AND outcome = 'failed' "
            "RETURNING tiles",
            (visit, detector),
        )
        places = [(visit, detector, tile) for row in rows for tile in numbers(row[0])]
        self.connection.executemany(WAITING, places)
