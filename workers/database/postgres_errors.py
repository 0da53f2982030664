"""Errors of PostgreSQL as errors of the tree."""

from __future__ import annotations

import psycopg

from schemas.errors import ConfigurationError, DataError, SkydeltaError, UnreachableError

__all__ = ["passing", "refusal", "translated"]

_REFUSED = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",
    "permission denied",
)
"""What libpq says, for it gives no code, when the server answered and trying again will not help."""


def _text(error: psycopg.Error) -> str:
    return " ".join(str(error).split())


def refusal(error: psycopg.Error, place: str) -> SkydeltaError:
    """Return what an error at the login means: ConfigurationError where the server said no, else UnreachableError."""
    text = _text(error)
    if any(sign in text for sign in _REFUSED):
        return ConfigurationError(
            f"the PostgreSQL server refuses {place}: {text}; check user, password and database in the url of "
            "survey.toml [database], and the server's pg_hba.conf"
        )
    return UnreachableError(
        f"the DIA database {place} does not answer: {text}; check that the server runs and that the url of survey.toml "
        "[database] leads to it"
    )


def translated(error: psycopg.Error, place: str) -> SkydeltaError:
    """Return what an error in a session means.

    UnreachableError may pass; DataError is about the values of one message; ConfigurationError about the tables.
    """
    text = _text(error)
    if isinstance(error, psycopg.errors.DiskFull):
        return UnreachableError(
            f"the disk of the DIA database {place} is full ({text}): nothing of this transaction was written; make "
            "room on the server, and it is tried again"
        )
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return UnreachableError(
            f"another worker holds what this one needs in the DIA database {place}, too long ({text}); it is tried "
            "again, and who holds it is in pg_stat_activity"
        )
    if isinstance(error, psycopg.ProgrammingError):
        return ConfigurationError(
            f"the DIA database {place} refuses: {text}; were its tables changed, or may this user not write them?"
        )
    if isinstance(error, (psycopg.DataError, psycopg.IntegrityError)):
        return DataError(f"the DIA database {place} can't keep this: {text}; nothing of it was written")
    return UnreachableError(
        f"the DIA database {place} does not answer: {text}; a transaction is kept whole or not at all, and the next "
        "one opens a new session"
    )


def passing(error: SkydeltaError) -> SkydeltaError:
    """Return what `error` means to one who has had a session before: no refusal is a message's doing, or for good.

    A password was changed, say, or a right taken away: whoever did it can mend it, and the worker waits for that.
    """
    if isinstance(error, ConfigurationError):
        return UnreachableError(f"{error}; it worked before, so it is tried again until it is mended")
    return error
