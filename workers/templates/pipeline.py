"""The template job: plan cells from calibrated exposures, build those that changed, publish the version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path

from schemas.errors import DataError, TransientError
from workers.imaging.fits import read_exposure
from workers.imaging.tracts import CellId, Tessellation
from workers.survey.config import TemplatesConfig
from workers.templates.build import ExposureCache, build_cell
from workers.templates.calexps import CalexpEntry, checked, index_calexps
from workers.templates.cell import CellPlan, CellRecord, PlannedInput, content_id
from workers.templates.match import TemplateMatch, template_for
from workers.templates.selection import input_weight, select_inputs
from workers.templates.store import Manifest, TemplateStore, version_digest
from workers.templates.window import inside_window

__all__ = ["TemplateMatch", "build", "build_cell", "build_plans", "plan", "template_for"]

Progress = Callable[[int, int], None]
"""Called with the cells done and the cells there are."""
_METHOD = 2
"""Raised whenever the same inputs would give other pixels, so that no cell of the old method is kept."""
_CHUNK = 16


def plan(entries: Iterable[CalexpEntry], config: TemplatesConfig) -> tuple[CellPlan, ...]:
    """Return the plan of every cell that has enough epochs, by band, tract, column and row.

    Only entries inside the window of `config` are looked at. Raises DataError where two entries have one identity.
    """
    grid = Tessellation(config.pixel_scale, config.cell_size)
    found: dict[tuple[str, CellId], list[tuple[CalexpEntry, float]]] = {}
    for entry in checked(inside_window(entries, config)):
        for cell, part in grid.cells_over(entry.wcs, entry.shape).items():
            found.setdefault((entry.band, cell), []).append((entry, part))
    plans = []
    for band, cell in sorted(found):
        chosen = select_inputs(found[band, cell], config)
        if chosen:
            plans.append(_cell_plan(band, cell, grid, config, chosen))
    return tuple(plans)


def _cell_plan(
    band: str, cell: CellId, grid: Tessellation, config: TemplatesConfig, chosen: tuple[CalexpEntry, ...]
) -> CellPlan:
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
        for entry in chosen
    )
    settings = [_METHOD, grid.pixel_scale, grid.cell_size, config.min_epochs]
    where = [band, cell.tract, cell.cellX, cell.cellY]
    what = [[i.visit, i.detector, i.midpointMjdTai, i.weight, i.sha256, i.calexp] for i in inputs]
    return CellPlan(
        band=band,
        cell=cell,
        grid=grid,
        min_epochs=config.min_epochs,
        inputs=inputs,
        templateId=content_id("T", [settings, where, what]),
    )


def build(
    calexps: Path,
    store: TemplateStore,
    config: TemplatesConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """Build a template version from the calibrated exposures below the folder `calexps`, and make it current.

    As `build_plans`. Raises DataError where no cell has enough epochs.
    """
    entries = index_calexps(calexps)
    plans = plan(entries, config)
    if not plans:
        inside = inside_window(entries, config)
        raise DataError(
            f"no template can be made: of {len(entries)} calibrated exposures in {calexps}, {len(inside)} lie in the "
            f"window {list(config.window)} (MJD TAI), and no sky cell has {config.min_epochs} visits of one "
            f"band with a FWHM <= {config.max_fwhm_arcsec} arcsec; run `skydelta isr` on older frames, or change "
            "[templates] in survey.toml"
        )
    return build_plans(plans, store, config, workers=workers, progress=progress)


def build_plans(
    plans: tuple[CellPlan, ...],
    store: TemplateStore,
    config: TemplatesConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """Build the cells of `plans` into a version of `store`, and make it current; return its manifest.

    Cells whose plan is that of the current version are linked from it, cells that an interrupted build has finished are
    kept. Where nothing at all changed the current version stays. The files have the same bytes for any number of
    workers (processes).
    """
    digest = version_digest(plans, *config.window)
    now = store.manifest()
    if now is not None and now.digest == digest:
        return now
    version = store.begin(digest)
    records: list[CellRecord] = []
    waiting: list[CellPlan] = []
    for item in plans:
        kept = store.kept(version, item)
        if kept is None:
            waiting.append(item)
        else:
            records.append(kept)
    done = len(plans) - len(waiting)
    for count, fresh in _built(waiting, store.root, version, workers):
        records += fresh
        done += count
        if progress is not None:
            progress(done, len(plans))
    manifest = Manifest(
        version=version,
        digest=digest,
        begin=config.window[0],
        end=config.window[1],
        grid=Tessellation(config.pixel_scale, config.cell_size),
        cells=tuple(sorted(records, key=lambda record: (record.band, record.cell))),
    )
    store.publish(manifest)
    return manifest


def _built(plans: list[CellPlan], root: Path, version: str, workers: int) -> Iterator[tuple[int, list[CellRecord]]]:
    """Yield the number of cells of each finished chunk, and the records of those that have data."""
    if workers <= 1:
        load = ExposureCache(read_exposure)
        for item in plans:
            yield 1, _build_chunk(root, version, [item], load)
        return
    size = max(1, min(_CHUNK, -(-len(plans) // workers)))
    chunks = [plans[start : start + size] for start in range(0, len(plans), size)]
    try:
        with ProcessPoolExecutor(workers, mp_context=_processes()) as pool:
            tasks = [pool.submit(_build_chunk, root, version, chunk) for chunk in chunks]
            for chunk, task in zip(chunks, tasks, strict=True):
                yield len(chunk), task.result()
    except BrokenProcessPool as error:
        raise TransientError(
            f"a template worker died while building version {version} (out of memory?); run the same command again, "
            "with fewer --workers: the finished cells are kept"
        ) from error


def _processes() -> BaseContext:
    """Return the way to start processes: from a server that has imported this room once, where there is one."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _build_chunk(
    root: Path, version: str, plans: list[CellPlan], load: ExposureCache | None = None
) -> list[CellRecord]:
    """Build neighbouring cells and write their files; return the records of those that have data."""
    store, load = TemplateStore(root), load or ExposureCache(read_exposure)
    cells = (build_cell(item, load) for item in plans)
    return [store.write(version, cell) for cell in cells if cell is not None]
