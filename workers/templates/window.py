"""The prior-year window: which epochs may enter a template, and which visits may not be compared with one."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.errors import DataError
from workers.imaging.exposure import ExposureInfo
from workers.survey.config import TemplatesConfig
from workers.templates.calexps import CalexpEntry

__all__ = ["inside_window", "refuse_inside_window"]


def inside_window(entries: Iterable[CalexpEntry], config: TemplatesConfig) -> tuple[CalexpEntry, ...]:
    """Return the entries whose mid-exposure lies in [begin, end], MJD TAI; the others never reach a template."""
    begin, end = config.window
    return tuple(entry for entry in entries if begin <= entry.midpointMjdTai <= end)


def refuse_inside_window(info: ExposureInfo, window: tuple[float, float]) -> None:
    """Raise DataError for a science visit that is not later than the window (MJD TAI) of its templates.

    Its own pixels, or those of later epochs, could be in the template, and its transients would subtract themselves.
    """
    begin, end = window
    if info.midpointMjdTai > end:
        return
    place = "inside" if info.midpointMjdTai >= begin else "before"
    raise DataError(
        f"exposure {info.label} (MJD TAI {info.midpointMjdTai:.5f}) lies {place} the template window "
        f"[{begin:.5f}, {end:.5f}]: a template must be older than what is compared with it; "
        "set templates.end in survey.toml before this visit (or leave begin and end out, so that the window moves) and "
        "run `skydelta templates build`"
    )
