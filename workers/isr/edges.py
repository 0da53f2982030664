"""Edges: pixels too near the detector's border, and rows that a mid-line distorts."""

from __future__ import annotations

import numpy as np

from workers.imaging.exposure import MaskImage
from workers.imaging.masks import MaskPlane
from workers.isr.state import IsrState
from workers.survey.camera import Amplifier, Detector, parse_section

__all__ = ["apply", "mark_border", "midlines"]


def mark_border(mask: MaskImage, width: int, plane: int = MaskPlane.EDGE) -> None:
    """Set `plane` in the outermost `width` pixels of `mask` (int32, height by width), in place."""
    height, columns = mask.shape
    rows, sides, bits = min(width, height), min(width, columns), np.int32(plane)
    mask[:rows] |= bits
    mask[height - rows :] |= bits
    mask[rows : height - rows, :sides] |= bits
    mask[rows : height - rows, columns - sides :] |= bits


def midlines(detector: Detector) -> tuple[list[tuple[int, slice]], list[tuple[int, slice]]]:
    """Return where two amplifiers meet that are read out in opposite directions, away from the line between them.

    First the lines between rows, as (first row above the line, columns), then those between columns, as (first column
    right of the line, rows). Thick detectors bend their field lines there, so that pixels differ in size (0-based
    pixels of the assembled detector).
    """
    rows: list[tuple[int, slice]] = []
    columns: list[tuple[int, slice]] = []
    for one in detector.amplifiers:
        for other in detector.amplifiers:
            _meet(one, other, rows, columns)
    return rows, columns


def _meet(one: Amplifier, other: Amplifier, rows: list[tuple[int, slice]], columns: list[tuple[int, slice]]) -> None:
    """Add the line between two amplifiers where `one` lies below, or left of, the other."""
    (y1, x1), (y2, x2) = parse_section(one.position), parse_section(other.position)
    across = slice(max(x1.start, x2.start), min(x1.stop, x2.stop))
    along = slice(max(y1.start, y2.start), min(y1.stop, y2.stop))
    if y1.stop == y2.start and across.start < across.stop and one.flip_y != other.flip_y:
        rows.append((y2.start, across))
    if x1.stop == x2.start and along.start < along.stop and one.flip_x != other.flip_x:
        columns.append((x2.start, along))


def apply(state: IsrState) -> None:
    """Set EDGE along the border, and along mid-lines where ``[isr.edges]`` asks for it; the values stay."""
    config, bits = state.config.edges, np.int32(MaskPlane.EDGE)
    mark_border(state.mask, config.width)
    rows, columns = midlines(state.detector)
    if config.midline_rows:
        for line, across in rows:
            state.mask[max(line - config.midline_rows, 0) : line + config.midline_rows, across] |= bits
    if config.midline_columns:
        for line, along in columns:
            state.mask[along, max(line - config.midline_columns, 0) : line + config.midline_columns] |= bits
