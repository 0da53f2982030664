"""The tables of the DIA database, the same in SQLite and PostgreSQL, and the check that they are of this layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.errors import ConfigurationError
from workers.database.rows import earlier_fingerprints, fingerprints

__all__ = ["LAYOUT_VERSION", "UPGRADE", "check_layout", "expected_layout", "statements", "upgraded_layout"]

LAYOUT_VERSION = "3"

_TABLES = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL){clustered};
CREATE TABLE positions(
  grp TEXT NOT NULL, topic TEXT NOT NULL, part BIGINT NOT NULL, next BIGINT NOT NULL, latest BIGINT NOT NULL,
  PRIMARY KEY(grp, topic, part)){clustered};
CREATE TABLE outputs(
  grp TEXT NOT NULL, topic TEXT NOT NULL, part BIGINT NOT NULL, off BIGINT NOT NULL, packed {blob} NOT NULL,
  PRIMARY KEY(grp, topic, part, off));

CREATE TABLE visits(
  visit BIGINT NOT NULL PRIMARY KEY, mjd {real} NOT NULL, night BIGINT NOT NULL, closing BIGINT NOT NULL,
  closed BIGINT NOT NULL, expected TEXT NOT NULL);
CREATE INDEX visits_open ON visits(mjd, visit) WHERE closed = 0;
CREATE TABLE announcements(
  seq {serial}, visit BIGINT NOT NULL, detector BIGINT NOT NULL, tile BIGINT NOT NULL, mjd {real} NOT NULL,
  sha256 TEXT NOT NULL, night BIGINT NOT NULL, outcome TEXT NOT NULL, alerts BIGINT NOT NULL, tiles TEXT NOT NULL,
  late BIGINT NOT NULL, processedMjdTai {real},
  UNIQUE(visit, detector));
CREATE INDEX announcements_night ON announcements(night, seq);
CREATE TABLE line_states(
  night BIGINT NOT NULL PRIMARY KEY, watermark BIGINT NOT NULL, mjd {real} NOT NULL, visit BIGINT NOT NULL);
CREATE TABLE counters(name TEXT PRIMARY KEY, value BIGINT NOT NULL){clustered};
INSERT INTO counters(name, value) VALUES('rank', 0);
CREATE TABLE line(
  visit BIGINT NOT NULL, detector BIGINT NOT NULL, tile BIGINT NOT NULL, rank BIGINT NOT NULL,
  PRIMARY KEY(visit, detector, tile)){clustered};
CREATE INDEX line_head ON line(tile, rank);
CREATE TABLE deliveries(
  visit BIGINT NOT NULL, detector BIGINT NOT NULL, sha256 TEXT NOT NULL, message {blob} NOT NULL,
  PRIMARY KEY(visit, detector, sha256));

CREATE TABLE dia_objects(
  diaObjectId BIGINT NOT NULL PRIMARY KEY, pixel BIGINT NOT NULL, ra {real}, dec {real}, nDiaSources BIGINT,
  firstDiaSourceMjdTai {real}, lastDiaSourceMjdTai {real}, data {blob} NOT NULL);
CREATE INDEX dia_objects_pixel ON dia_objects(pixel);
CREATE TABLE dia_object_versions(
  diaObjectId BIGINT NOT NULL, validityStartMjdTai {real} NOT NULL, data {blob} NOT NULL,
  PRIMARY KEY(diaObjectId, validityStartMjdTai)){clustered};
CREATE TABLE dia_sources(
  diaObjectId BIGINT NOT NULL, mjd {real} NOT NULL, diaSourceId BIGINT NOT NULL, visit BIGINT NOT NULL,
  detector BIGINT NOT NULL, band TEXT NOT NULL, psfFlux {real}, psfFluxErr {real}, reliability {real},
  data {blob} NOT NULL,
  PRIMARY KEY(diaObjectId, mjd, diaSourceId)){clustered};
CREATE UNIQUE INDEX dia_sources_id ON dia_sources(diaSourceId);
CREATE INDEX dia_sources_visit ON dia_sources(visit, detector);
CREATE TABLE exposures(
  visit BIGINT NOT NULL, detector BIGINT NOT NULL, mjd {real} NOT NULL, band TEXT NOT NULL, psfLimit {real},
  ra {real} NOT NULL, dec {real} NOT NULL, data {blob} NOT NULL,
  PRIMARY KEY(visit, detector)){clustered};
CREATE INDEX exposures_dec ON exposures(dec, mjd);
"""
"""`positions.next` is the offset before which all is settled, `latest` the largest timestamp applied; `outputs` has
a row for each message applied and not settled. A row of `line` with rank 0 waits for its place. Columns beside `data`
are for searching, by this code or by hand.
"""


def statements(words: Mapping[str, str]) -> list[str]:
    """Return the statements that make the tables in an empty database, with the words of its dialect.

    `words` has ``blob``, ``real``, ``serial`` (a key that counts up) and ``clustered`` (behind a table kept in the
    order of its key).
    """
    return [text.strip() for text in _TABLES.format_map(words).split(";") if text.strip()]


def expected_layout() -> list[tuple[str, str]]:
    """Return what the table `meta` holds: the layout's version and a hash of each dtype kept as bytes."""
    return [("layout", LAYOUT_VERSION), *fingerprints().items()]


UPGRADE = "UPDATE meta SET value = ? WHERE name = ? AND value = ?"
"""What `upgraded_layout` is for."""


def upgraded_layout(found: Sequence[tuple[Any, ...]]) -> list[tuple[str, str, str]]:
    """Return (new value, name, old value) of the rows of `meta` that change where an earlier version wrote diaSource.

    Its rows stay as they are, shorter than today's, and are read with null in the columns that came later; an earlier
    version could not read what is written beside them, so that it has to be told.
    """
    kept, today = {str(key): str(value) for key, value in found}, dict(expected_layout())
    old = kept.get("diaSource", "")
    same = {**kept, "diaSource": today["diaSource"]} == today
    return [(today["diaSource"], "diaSource", old)] if same and old in earlier_fingerprints() else []


def check_layout(name: str, found: Sequence[tuple[Any, ...]]) -> None:
    """Compare the rows of `meta` in the database `name` with what this version writes; raises ConfigurationError."""
    kept = {str(key): str(value) for key, value in found}
    for key, value in expected_layout():
        stored = kept.get(key, "none")
        if stored != value:
            raise ConfigurationError(
                f"the DIA database {name} has another {key} layout ({stored[:12]}, here {value[:12]}); "
                "use the skydelta version that wrote it, or start a new database in survey.toml [database]"
            )
