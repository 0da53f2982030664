"""What every process of the pipeline asks of its libraries before it starts to work."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_memory", "prepare_process"]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Of glibc's mallopt(3)."""
_LARGEST = 1 << 30
"""Bytes: larger blocks go back to the system at once."""


def prepare_process() -> None:
    """Give numerical libraries one thread, unless the environment says otherwise, and keep freed memory.

    Work is shared out by process, and on the small matrices here threads cost more than they give (50 times, with two
    processes on two cores). To be called before numpy is imported.
    """
    for name in _THREADS:
        os.environ.setdefault(name, "1")
    keep_memory()


def keep_memory() -> bool:
    """Let the process keep the memory of planes that were freed, for the next ones; tell whether it does.

    By default every plane is mapped afresh and given back, and the system clears its pages each time: a fifth of the
    time of a characterization. Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, 2 * _LARGEST - 1))
