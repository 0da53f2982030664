"""The version of the code, as alerts and dead letters name it."""

from __future__ import annotations

from importlib.metadata import version

__all__ = ["code_version"]


def code_version() -> str:
    """Return e.g. ``skydelta-0.1.0``."""
    return f"skydelta-{version('skydelta')}"
