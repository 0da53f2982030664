"""Open what survey.toml names: bus, DIA database, blob store. The only place that picks an implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.errors import ConfigurationError
from stream.blobs import BlobStore
from stream.dead_letters import DeadLetters
from stream.topics import Topics
from workers.clock import mjd_tai_now
from workers.version import code_version

if TYPE_CHECKING:
    from stream.bus import Bus
    from workers.database import Database
    from workers.survey.config import Survey

__all__ = ["database_path", "open_blobs", "open_bus", "open_database", "open_dead_letters", "open_topics"]


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


def database_path(survey: Survey, prefix: str = "") -> str:
    """Return the path of the DIA database; a replay's lies beside the live one, its prefix before the name."""
    path = survey.path(survey.config.database.path)
    return str(path.with_name(prefix + path.name))


def open_database(survey: Survey, prefix: str = "") -> Database:
    """Return the DIA database of the survey; raises UnreachableError or ConfigurationError."""
    from workers.database.sqlite import SqliteDatabase

    return SqliteDatabase(database_path(survey, prefix))


def open_blobs(survey: Survey) -> BlobStore:
    """Return the blob store of the survey."""
    return BlobStore(survey.path(survey.config.blobs.path), survey.config.blobs.inline_max_bytes)


def open_dead_letters(topics: Topics, blobs: BlobStore) -> DeadLetters:
    """Return what writes dead letters to the survey's topic."""
    return DeadLetters(topics.name("dead"), blobs, mjd_tai_now, code_version())
