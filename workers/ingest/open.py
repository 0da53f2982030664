"""Bind ingest to a survey's bus, database and blob store."""

from __future__ import annotations

from workers.connect import open_blobs, open_bus, open_database, open_dead_letters, open_topics
from workers.ingest.worker import Ingest
from workers.survey.config import Survey

__all__ = ["open_ingest"]


def open_ingest(survey: Survey, prefix: str = "") -> Ingest:
    """Return what ingests files into the survey's bus; topics are created."""
    bus = open_bus(survey)
    topics = open_topics(survey, bus, prefix)
    blobs = open_blobs(survey)
    return Ingest(survey, bus, topics, blobs, open_database(survey, prefix), open_dead_letters(topics, blobs))
