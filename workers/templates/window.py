"""The prior-year window: which epochs may enter a template, and which visits may not be compared with one."""

from __future__ import annotations

import math
from collections.abc import Iterable

from schemas.errors import DataError
from workers.imaging.exposure import ExposureInfo
from workers.survey.config import TemplatesConfig
from workers.templates.calexps import CalexpEntry
from workers.templates.season import season_before

__all__ = ["cell_window", "inside_window", "refuse_inside_window"]


def inside_window(entries: Iterable[CalexpEntry], config: TemplatesConfig) -> tuple[CalexpEntry, ...]:
    """Return the entries whose mid-exposure lies in [begin, end], MJD TAI; the others never reach a template.

    This window holds that of every cell: `cell_window` narrows it where windows are season-aligned.
    """
    begin, end = config.window
    return tuple(entry for entry in entries if begin <= entry.midpointMjdTai <= end)


def cell_window(config: TemplatesConfig, ra: float | None) -> tuple[float, float]:
    """Return (begin, end), both included, MJD TAI, of a cell at `ra` (degrees ICRS; None: wherever it is).

    That of the survey, but for `season_aligned`: the last season that was over on the day of the job, cut where it
    comes nearer to that day than `gap_days`. The day after conjunction the window thus goes over to the season that
    has just ended, but for its last `gap_days`, with hardly a visit in them, the Sun being near; these come in day by
    day, and from `gap_days` after conjunction to the next one the window stands still. Raises ValueError where a
    season-aligned window is asked for without `ra`.
    """
    begin, end = config.window
    if not config.season_aligned:
        return begin, end
    if ra is None:
        raise ValueError("a season-aligned window needs the right ascension of the cell")
    first, conjunction = season_before(ra, float(round(end + config.gap_days)))
    return first, min(end, math.nextafter(conjunction, 0.0))


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
