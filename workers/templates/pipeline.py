"""The template job: plan cells from calibrated exposures, build those that changed, publish the version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.tracts import CellId, Tessellation
from workers.survey.config import TemplatesConfig
from workers.templates.airmass_cells import BinnedInputs, Telescope, binned_bands, bins_of
from workers.templates.build import build_cell
from workers.templates.calexps import CalexpEntry, checked, index_calexps
from workers.templates.cell import CellPlan, PlannedInput
from workers.templates.job import JobProgress, TemplateJob, run_plans
from workers.templates.match import TemplateMatch, template_for
from workers.templates.method import template_id
from workers.templates.selection import Reason, choose_inputs, input_weight
from workers.templates.store import Manifest, TemplateStore
from workers.templates.veto import RADIUS_FWHM, for_cell, pinned
from workers.templates.vetoed import Veto
from workers.templates.window import inside_window

__all__ = [
    "JobProgress",
    "Known",
    "TemplateJob",
    "TemplateMatch",
    "build",
    "build_cell",
    "plan",
    "planned",
    "run_job",
    "run_plans",
    "template_for",
]

Known = Callable[[Tessellation, set[CellId], float], Mapping[int, tuple[Veto, ...]]]
"""Called with the grid, cells and the FWHM (arcsec) of the worst input; returns vetoes of known transients by tract."""
Progress = Callable[[int, int], None]
"""Called with the cells done and the cells there are."""


def plan(entries: Iterable[CalexpEntry], config: TemplatesConfig) -> tuple[CellPlan, ...]:
    """Return the plan of every cell that has enough epochs, by band, tract, column and row.

    Only entries inside the window of `config` are looked at. Raises DataError where two entries have one identity.
    """
    return planned(entries, config)[0]


def planned(
    entries: Iterable[CalexpEntry],
    config: TemplatesConfig,
    known: Known | None = None,
    telescope: Telescope | None = None,
) -> tuple[tuple[CellPlan, ...], Counter[tuple[str, Reason]]]:
    """Return what `plan` does, and how many times an exposure was left out of a cell, by band and reason.

    `known` gives the vetoes of known transients, by tract, on a grid's cells for inputs of a FWHM (arcsec). In the
    `airmass_bands` of `config` the plans of a cell's airmass bins follow its own; they need the `telescope`:
    ConfigurationError where it is not known.
    """
    rules = binned_bands(config, telescope)
    grid = Tessellation(config.pixel_scale, config.cell_size)
    found: dict[tuple[str, CellId], list[tuple[CalexpEntry, float]]] = {}
    for entry in checked(inside_window(entries, config)):
        for cell, part in grid.cells_over(entry.wcs, entry.shape).items():
            found.setdefault((entry.band, cell), []).append((entry, part))
    worst = max((entry.fwhm for chosen in found.values() for entry, _ in chosen), default=0.0)
    vetoes = {} if known is None else known(grid, {cell for _, cell in found}, min(worst, config.max_fwhm_arcsec))
    vectors = _vectors((entry for (band, _), some in found.items() if band in rules for entry, _ in some), telescope)
    plans, left = list[CellPlan](), Counter[tuple[str, Reason]]()
    for band, cell in sorted(found):
        ra = grid.centre(cell)[0] if config.season_aligned else None
        chosen = choose_inputs(found[band, cell], config, ra)
        left.update({(band, reason): count for reason, count in chosen.counts().items()})
        if not chosen.inputs:
            continue
        known_there = vetoes.get(cell.tract, ())
        binned = bins_of(chosen.inputs, vectors, rules[band]) if band in rules else ()
        if not binned:
            plans.append(_cell_plan(band, cell, grid, config, (chosen.inputs, known_there)))
        plans += [_cell_plan(band, cell, grid, config, (one.entries, known_there), one) for one in binned]
    return tuple(plans), left


def _vectors(entries: Iterable[CalexpEntry], telescope: Telescope | None) -> dict[str, NDArray[np.float64]]:
    """Return the refraction vector of each exposure by its label."""
    if telescope is None:
        return {}
    apart = {entry.label: entry for entry in entries}
    return {key: telescope.vector(one.wcs, one.shape, one.midpointMjdTai) for key, one in apart.items()}


def _cell_plan(
    band: str,
    cell: CellId,
    grid: Tessellation,
    config: TemplatesConfig,
    chosen: tuple[tuple[CalexpEntry, ...], tuple[Veto, ...]],
    binned: BinnedInputs | None = None,
) -> CellPlan:
    name, vector = ("", None) if binned is None else (binned.name, binned.vector)
    inputs = tuple(
        PlannedInput(
            path=entry.path,
            visit=entry.visit,
            detector=entry.detector,
            midpointMjdTai=entry.midpointMjdTai,
            weight=input_weight(entry),
            sha256=entry.sha256,
            calexp=entry.calexp,
        )
        for entry in chosen[0]
    )
    radius = RADIUS_FWHM * max(entry.fwhm for entry in chosen[0])  # of this cell, lest another's seeing change it
    wanted = for_cell(
        (replace(veto, radius_arcsec=radius) for veto in chosen[1]), grid, cell, inputs, min_epochs=config.min_epochs
    )
    vetoes = pinned(wanted, inputs)
    return CellPlan(
        band=band,
        cell=cell,
        grid=grid,
        min_epochs=config.min_epochs,
        inputs=inputs,
        templateId=template_id(band, cell, grid, config.min_epochs, inputs, vetoes, name),
        vetoes=vetoes,
        bin=name,
        vector=vector,
    )


def run_job(
    calexps: Path,
    store: TemplateStore,
    config: TemplatesConfig,
    *,
    workers: int = 1,
    progress: JobProgress | None = None,
    known: Known | None = None,
    telescope: Telescope | None = None,
) -> TemplateJob:
    """Build a template version from the calibrated exposures below the folder `calexps`, and make it current.

    As `run_plans`; `known` and `telescope` as in `planned`. Raises DataError where no cell has enough epochs.
    """
    entries = index_calexps(calexps)
    plans, left = planned(entries, config, known, telescope)
    if not plans:
        inside = inside_window(entries, config)
        why = "; ".join(f"{count} x {band} {reason}" for (band, reason), count in sorted(left.items()))
        raise DataError(
            f"no template can be made: of {len(entries)} calibrated exposures in {calexps}, {len(inside)} lie in the "
            f"window {list(config.window)} (MJD TAI), and no sky cell has {config.min_epochs} good visits of one band"
            + (f" (left out of cells: {why})" if why else "")
            + "; run `skydelta isr` on older frames, or change [templates] in survey.toml"
        )
    return run_plans(plans, store, config, workers=workers, progress=progress)


def build(
    calexps: Path,
    store: TemplateStore,
    config: TemplatesConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """Do `run_job` and return the manifest; `progress` is called with the cells done and the cells there are."""
    told = JobProgress() if progress is None else JobProgress(cells=progress)
    return run_job(calexps, store, config, workers=workers, progress=told).manifest
