"""How patient the runner is, and what it says at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Retry", "RunReport"]

_STAGES = ("poll", "process", "commit", "pause")


@dataclass(frozen=True, slots=True)
class Retry:
    """What is done about transient errors: `tries` at once, then pauses; times in seconds."""

    tries: int = 3
    wait: float = 0.05
    longest_wait: float = 2.0
    pause: float = 2.0
    longest_pause: float = 60.0
    growth: float = 6.0
    """Factor from one wait to the next; pauses double."""
    fenced: int = 5
    """Times in a row that a fenced worker may lose its work before it stops."""


@dataclass
class RunReport:
    """What one run did."""

    messages: int = 0
    """Consumed and committed, dead letters included."""
    outputs: int = 0
    """Published, dead letters included."""
    dead_letters: int = 0
    transactions: int = 0
    retries: int = 0
    pauses: int = 0
    fenced: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STAGES, 0.0))
    """Time spent in each, by the wall clock."""
