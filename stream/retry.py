"""The runner's numbered steps, how patient it is, and what it says at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["STEPS", "Retry", "RunReport"]

STEPS = {1: "poll", 2: "process", 3: "bury", 4: "flush", 5: "commit", 6: "count"}
"""Name of each numbered step of a transaction."""


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

    def pause_after(self, troubles: int) -> float:
        """Return the seconds to pause after so many pauses in vain: each is twice as long as the last."""
        return min(self.pause * 2.0 ** min(troubles, 60), self.longest_pause)


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
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys([*STEPS.values(), "pause"], 0.0))
    """Time spent in each step, and in pauses, by the wall clock."""
