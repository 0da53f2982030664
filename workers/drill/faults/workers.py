"""More workers, the same night: what one does, several must do alike, also where their sky tiles meet."""

from __future__ import annotations

from workers.drill.compare import Difference
from workers.drill.night import Stage, begun
from workers.drill.place import Place
from workers.drill.report import Finding, finding

__all__ = ["inject"]

_CREWS = ((1, 1), (2, 2), (1, 8))
"""Pixel and association workers."""


def inject(stage: Stage, place: Place) -> Finding:
    """One night for each crew; the survey's detectors lie where four sky tiles meet."""
    total = Difference()
    for pixels, associate in _CREWS:
        with begun(stage.settings, stage.prepared, place, "workers") as night:
            night.ingest()
            night.hire(pixels, associate)
            night.finish()
            difference = night.compared(stage.expected)
        stage.say(f"{pixels} pixel and {associate} association workers")
        difference.notes = [f"{pixels} and {associate} workers: {note}" for note in difference.notes]
        total.add(difference)
    return finding("workers", place, total, injections=len(_CREWS), nights=len(_CREWS))
