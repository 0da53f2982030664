"""Which exposures go into a cell, and with what weight."""

from __future__ import annotations

from collections.abc import Iterable

from workers.survey.config import TemplatesConfig
from workers.templates.calexps import CalexpEntry

__all__ = ["input_weight", "select_inputs"]


def input_weight(entry: CalexpEntry) -> float:
    """Return the weight of an exposure: 1 / (background variance per square arcsec x FWHM²), nJy^-2.

    This is, up to a constant, the inverse variance of the flux of a faint star, so the weighted mean has the greatest
    depth for point sources that fixed weights give. Fluxes being calibrated, the variance holds the transparency and
    the exposure time: transparency T divides the variance in electrons by T², as in the weights T² / (sky FWHM²) of
    Annis et al. 2014 (ApJ 794, 120). One weight per exposure, never per pixel: the mean stays linear and unbiased.
    """
    return 1.0 / (entry.variance * entry.fwhm**2)


def select_inputs(candidates: Iterable[tuple[CalexpEntry, float]], config: TemplatesConfig) -> tuple[CalexpEntry, ...]:
    """Return the exposures of one cell, by time, visit and detector; none where they are too few.

    `candidates` are exposures of one band with the fraction of the cell that each covers. Exposures with a FWHM above
    `max_fwhm_arcsec` are left out; the `max_epochs` visits with the most weight x covered fraction stay; fewer visits
    than `min_epochs` make no template.
    """
    worth: dict[int, float] = {}
    good = [(entry, part) for entry, part in candidates if part > 0 and entry.fwhm <= config.max_fwhm_arcsec]
    for entry, part in good:
        worth[entry.visit] = worth.get(entry.visit, 0.0) + input_weight(entry) * part
    if len(worth) < config.min_epochs:
        return ()
    best = set(sorted(worth, key=lambda visit: (-worth[visit], visit))[: config.max_epochs])
    chosen = [entry for entry, _ in good if entry.visit in best]
    return tuple(sorted(chosen, key=lambda entry: (entry.midpointMjdTai, entry.visit, entry.detector)))
