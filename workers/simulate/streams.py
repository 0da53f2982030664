"""Random streams by name: what is drawn for one purpose never depends on what is drawn for another."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["stream"]


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Return the generator of (`seed`, `purpose`, `numbers`), e.g. ``stream(1, "noise", visit, detector)``.

    Draws of length n are a prefix of draws of length n + 1, so that a larger population keeps its first members.
    One purpose always takes the same count of numbers: numpy's SeedSequence pads with zeros.
    """
    key = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, key, *numbers])))
