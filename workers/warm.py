"""What a worker does before its first exposure, so that this one is as fast as the hundredth."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np
from numba.core.registry import CPUDispatcher

from workers.process import keep_memory

__all__ = ["load_compiled", "take_memory", "warm_up"]

_BYTES_PER_PIXEL = 44
"""At the most, beyond the exposure itself: planes of the subtraction."""
_MOST = 1 << 30
"""Bytes taken in advance."""


@cache
def warm_up(pixels: int) -> None:
    """Load the compiled loops of the stages imported so far, and take the memory of a detector of so many pixels."""
    load_compiled()
    if keep_memory():
        take_memory(min(pixels * _BYTES_PER_PIXEL, _MOST))


def load_compiled() -> int:
    """Load every loop of this product that was compiled before, for all types it was compiled for; return how many.

    Otherwise each would be read from the cache when it is first called, a second or two in all. What was never
    compiled on this machine still is when it is called.
    """
    loaded = 0
    for name, module in list(sys.modules.items()):
        if not name.startswith("workers."):
            continue
        for loop in {id(value): value for value in vars(module).values() if isinstance(value, CPUDispatcher)}.values():
            loaded += _load(loop)
    return loaded


def take_memory(size: int) -> None:
    """Touch `size` bytes once and free them: the process keeps them for its planes."""
    pieces = [np.ones(min(size, 1 << 26), np.uint8) for _ in range(max(size >> 26, 1))]
    del pieces


def _load(loop: Any) -> int:
    """Load the cached versions of one loop."""
    files = getattr(loop._cache, "_cache_file", None)  # no public name for the index of a cache
    if files is None:
        return 0
    signatures = [key[0] for key in files._load_index() if key[1] == loop.targetctx.codegen().magic_tuple()]
    for signature in signatures:
        loop.compile(signature)
    return len(signatures)
