"""Open what survey.toml names: bus, DIA database, blob store. The only place that picks an implementation."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import ConfigurationError
from stream.attempts import Attempts
from stream.blobs import BlobStore
from stream.dead_letters import DeadLetters
from stream.topics import Topics
from workers.clock import mjd_tai_now
from workers.version import code_version

if TYPE_CHECKING:
    from stream.bus import Bus
    from workers.archive.store import AlertArchive
    from workers.database import Database
    from workers.survey.config import Survey

__all__ = [
    "database_name",
    "open_archive",
    "open_attempts",
    "open_blobs",
    "open_bus",
    "open_database",
    "open_dead_letters",
    "open_topics",
]

_SHORTEST_IDLE = 30.0  # s


def open_bus(survey: Survey) -> Bus:
    """Return the bus of the survey with its topics created; raises UnreachableError or ConfigurationError."""
    config = survey.config.bus
    if config.kind == "embedded":
        from stream.bus.embedded import EmbeddedBus

        return EmbeddedBus(survey.path(config.path), session_timeout=config.session_timeout_s)
    if not config.bootstrap:
        raise ConfigurationError('survey.toml: [bus] kind = "kafka" needs bootstrap = "host:port"')
    from stream.bus.kafka import KafkaBus

    return KafkaBus(
        config.bootstrap,
        properties=dict(config.properties),
        replication=config.replication,
        session_timeout=config.session_timeout_s,
        group_protocol=config.group_protocol,
    )


def open_topics(survey: Survey, bus: Bus, prefix: str = "") -> Topics:
    """Return the topic names of the survey under `prefix` (a replay has its own), creating those that don't exist."""
    topics = Topics(prefix=prefix + survey.config.bus.prefix, partitions=survey.config.bus.partitions)
    bus.ensure(topics.all())
    return topics


def database_name(survey: Survey, prefix: str = "") -> str:
    """Return where the DIA database is; that of a replay carries its prefix. For messages to people."""
    config = survey.config.database
    if config.kind == "postgresql":
        return f"PostgreSQL schema {_namespace(config.namespace, prefix)}"
    return str(_sqlite_path(survey, prefix))


def open_database(survey: Survey, prefix: str = "") -> Database:
    """Return the DIA database of the survey; raises UnreachableError or ConfigurationError.

    PostgreSQL ends a transaction whose worker sends nothing for twice the bus's session time-out, and for 30 s at
    least: a worker may compute so long between two questions.
    """
    config = survey.config.database
    if config.kind == "sqlite":
        from workers.database.sqlite import SqliteDatabase

        return SqliteDatabase(_sqlite_path(survey, prefix))
    if not config.url:
        raise ConfigurationError(
            'survey.toml: [database] kind = "postgresql" needs url = "postgresql://user@host/name"'
        )
    from workers.database.postgres import PostgresDatabase

    # A zombie's locks end soon after its place in the group does.
    idle = max(_SHORTEST_IDLE, 2.0 * survey.config.bus.session_timeout_s)
    return PostgresDatabase(config.url, _namespace(config.namespace, prefix), idle_timeout=idle)


def _sqlite_path(survey: Survey, prefix: str) -> Path:
    path = survey.path(survey.config.database.path)
    return path.with_name(prefix + path.name)


def _namespace(name: str, prefix: str) -> str:
    """Return the PostgreSQL schema of a prefix: what may stand in a name, and a hash of all of it."""
    if not prefix:
        return name
    plain = re.sub("[^a-z0-9]+", "_", prefix.lower()).strip("_")[:12]
    return f"{name}_{plain}_{hashlib.sha256(prefix.encode()).hexdigest()[:8]}"


def open_archive(survey: Survey, prefix: str = "") -> AlertArchive:
    """Return the archive of alerts; that of a replay carries its prefix."""
    from workers.archive.store import AlertArchive

    return AlertArchive(survey.archive / f"{prefix}alerts")


def open_attempts(survey: Survey) -> Attempts:
    """Return the journal of attempts that the survey's workers on this machine share."""
    return Attempts(survey.state / "attempts")


def open_blobs(survey: Survey) -> BlobStore:
    """Return the blob store of the survey."""
    return BlobStore(survey.path(survey.config.blobs.path), survey.config.blobs.inline_max_bytes)


def open_dead_letters(topics: Topics, blobs: BlobStore) -> DeadLetters:
    """Return what writes dead letters to the survey's topic."""
    return DeadLetters(topics.name("dead"), blobs, mjd_tai_now, code_version())
