"""Take away what a night left on servers: its topics and its PostgreSQL schemas."""

from __future__ import annotations

import time

from schemas.errors import UnreachableError
from workers.survey.config import Survey

__all__ = ["clean"]

_PATIENCE = 30.0
"""Seconds for the brokers to delete topics."""


def clean(survey: Survey) -> None:
    """Delete the topics and schemas of one drill's night, those of its replay too; raises UnreachableError."""
    if survey.config.bus.kind == "kafka":
        _delete_topics(survey)
    if survey.config.database.kind == "postgresql":
        _drop_schemas(survey.config.database.url, survey.config.database.namespace)


def _delete_topics(survey: Survey) -> None:
    from stream.bus.kafka_cluster import Cluster

    config = survey.config.bus
    cluster = Cluster(config.bootstrap, dict(config.properties), _PATIENCE)
    deadline = time.monotonic() + _PATIENCE
    while names := [name for name in cluster.topics() if config.prefix in name]:
        cluster.admin().delete_topics(names)  # what it answers is seen in the next list
        if time.monotonic() > deadline:
            raise UnreachableError(f"Kafka {config.bootstrap} has not deleted {names[0]}; do so by hand")
        time.sleep(0.2)


def _drop_schemas(url: str, namespace: str) -> None:
    import psycopg
    from psycopg import sql

    try:
        with psycopg.connect(url, autocommit=True) as session:
            found = session.execute(
                "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, %s)", (namespace,)
            ).fetchall()
            for (name,) in found:
                session.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise UnreachableError(f"schemas {namespace}* could not be dropped: {error}; do so by hand") from error
