"""Every error that skydelta raises on purpose, as one tree.

::

    SkydeltaError
    ├── ConfigurationError      survey.toml, camera.toml or the environment is wrong      exit 3
    ├── DataError               this input can't be processed; it becomes a dead letter   exit 5
    │   ├── SchemaError         unknown schema id, or bytes that don't decode
    │   ├── ConflictError       the same identity seen with other content
    │   └── FatalInputError     its processing ended the process, again and again
    ├── TransientError          the same call may succeed later; the runner retries       exit 4
    │   └── UnreachableError    bus, database or store does not answer
    └── DeliveryError           the promise of delivery can't be kept: the worker stops   exit 4
        ├── FencedError         another worker owns these positions now
        │   └── ExpiredError    its group declared this worker dead: start it again   exit 75
        └── PositionLostError   messages were deleted before this group read them

The text of each says what, where, why and what to do next. Anything else that escapes is a bug (exit 70).
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "ConflictError",
    "DataError",
    "DeliveryError",
    "ExpiredError",
    "FatalInputError",
    "FencedError",
    "PositionLostError",
    "SchemaError",
    "SkydeltaError",
    "TransientError",
    "UnreachableError",
]


class SkydeltaError(Exception):
    """Root of the tree; `exit_code` is what the command line returns for it."""

    exit_code = 70


class ConfigurationError(SkydeltaError):
    """survey.toml, camera.toml, the installation or the environment is wrong."""

    exit_code = 3


class DataError(SkydeltaError):
    """An input that can't be processed and never will: dead letter, and the stream goes on."""

    exit_code = 5


class SchemaError(DataError):
    """A schema id that is not in the registry, or bytes that don't decode with their schema."""


class ConflictError(DataError):
    """An identity (visit and detector, say) that was seen before with other content."""


class FatalInputError(DataError):
    """An input in whose processing the process died, so often that it is not run again.

    `deaths` of them are known; `trace` is what the last one that left something said (empty where none did).
    `alone` is true where even giving it an outcome ended a process: its dead letter goes without one.
    """

    def __init__(self, text: str, deaths: int = 0, trace: str = "", *, alone: bool = False) -> None:
        super().__init__(text)
        self.deaths, self.trace, self.alone = deaths, trace, alone


class TransientError(SkydeltaError):
    """Tried again, the same call may succeed: the runner retries with growing pauses."""

    exit_code = 4


class UnreachableError(TransientError):
    """The bus, the database or the blob store does not answer."""


class DeliveryError(SkydeltaError):
    """The promise of delivery can't be kept by this worker; it stops without committing."""

    exit_code = 4


class FencedError(DeliveryError):
    """Another member of the group owns these positions now; what this worker did is not committed."""


class ExpiredError(FencedError):
    """Its group declared this member dead while it worked (it was stopped, say): nothing of it was committed.

    The process ends with EX_TEMPFAIL of sysexits.h: start it again.
    """

    exit_code = 75


class PositionLostError(DeliveryError):
    """Messages between the committed position and the oldest kept one are gone (retention)."""
