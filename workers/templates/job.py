"""The work of the template job: warp the inputs that have no kept warps, build the cells that changed, publish."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar

from schemas.errors import DataError, TransientError
from workers.imaging.tracts import Tessellation
from workers.survey.config import TemplatesConfig
from workers.templates.build import cell_of_warps
from workers.templates.cell import CellPlan, CellRecord, PlannedInput
from workers.templates.store import Manifest, TemplateStore, named_inputs, only_job, version_digest
from workers.templates.warp_file import WarpBlock
from workers.templates.warps import WarpStore

__all__ = ["JobProgress", "TemplateJob", "kept_blocks", "run_plans"]

_Result = TypeVar("_Result")
_CHUNK = 16


@dataclass(frozen=True)
class JobProgress:
    """Called with what is done and what there is to do: first of exposures to warp, then of cells."""

    warps: Callable[[int, int], None] = lambda done, total: None
    cells: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True)
class TemplateJob:
    """What a job did."""

    manifest: Manifest
    warped: int = 0
    """Exposures."""
    built: int = 0
    """Cells with data, bins counted as cells."""
    kept: int = 0
    """Cells that had not changed: linked from the current version, or finished by a job that was interrupted."""
    empty: int = 0
    """Cells in which no pixel has enough epochs."""
    pruned: int = 0
    """Files of kept warps that were removed, no version being made of them any more."""


def run_plans(
    plans: tuple[CellPlan, ...],
    store: TemplateStore,
    config: TemplatesConfig,
    *,
    workers: int = 1,
    progress: JobProgress | None = None,
) -> TemplateJob:
    """Build the cells of `plans` into a version of `store`, and make it current.

    Cells whose plan is that of the current version are linked from it; cells and warps that an interrupted job has
    finished are kept. Where nothing at all changed the current version stays. A cell is made of kept warps only, and
    the files have the same bytes for any number of workers (processes). Raises TransientError while another job is at
    work.
    """
    with only_job(store.root):
        return _run_plans(plans, store, config, workers, progress or JobProgress())


def _run_plans(
    plans: tuple[CellPlan, ...], store: TemplateStore, config: TemplatesConfig, workers: int, progress: JobProgress
) -> TemplateJob:
    digest = version_digest(plans, *config.window)
    now = store.manifest()
    if now is not None and now.digest == digest:
        return TemplateJob(now, kept=len(now.cells) + len(now.bins))
    version = store.begin(digest)
    kept = {item.templateId: record for item in plans if (record := store.kept(version, item)) is not None}
    empty = {item.templateId for item in plans} & set(() if now is None else now.empty)
    waiting = [item for item in plans if item.templateId not in kept and item.templateId not in empty]
    warps = WarpStore(store.warps, Tessellation(config.pixel_scale, config.cell_size))
    with _Workers(workers, version) as pool:
        lacking = _lacking(waiting, warps)
        for done, _ in enumerate(pool.map(_make_warps, [(warps, *one) for one in lacking]), 1):
            progress.warps(done, len(lacking))
        fresh, done = list[CellRecord](), len(kept) + len(empty)
        size = 1 if workers == 1 else max(1, min(_CHUNK, -(-len(waiting) // workers)))
        chunks = [waiting[start : start + size] for start in range(0, len(waiting), size)]
        tasks = [(store.root, version, warps, chunk) for chunk in chunks]
        for chunk, records in zip(chunks, pool.map(_build_chunk, tasks), strict=True):
            fresh += records
            done += len(chunk)
            progress.cells(done, len(plans))
    empty |= {item.templateId for item in waiting} - {record.templateId for record in fresh}
    manifest = _manifest(version, digest, config, [*kept.values(), *fresh], empty)
    named = {item.calexp for one in plans for item in one.inputs}
    store.publish(manifest, named)
    warps.used({(item.calexp, one.cell.tract) for one in plans for item in one.inputs})
    gone = warps.prune(named_inputs(store.root), config.keep_warps_days)
    return TemplateJob(manifest, len(lacking), len(fresh), len(kept), len(empty), len(gone))


def _manifest(
    version: str, digest: str, config: TemplatesConfig, records: Iterable[CellRecord], empty: Iterable[str]
) -> Manifest:
    ordered = sorted(records, key=lambda record: (record.band, record.cell, record.bin))
    return Manifest(
        version=version,
        digest=digest,
        begin=config.window[0],
        end=config.window[1],
        grid=Tessellation(config.pixel_scale, config.cell_size),
        cells=tuple(record for record in ordered if not record.bin),
        day=config.day,
        bins=tuple(record for record in ordered if record.bin),
        empty=tuple(sorted(empty)),
    )


def _lacking(plans: Iterable[CellPlan], warps: WarpStore) -> list[tuple[PlannedInput, tuple[int, ...]]]:
    """Return the inputs of the plans with the tracts for which no warps of them are kept, by time and visit."""
    wanted: dict[str, tuple[PlannedInput, set[int]]] = {}
    for plan in plans:
        for item in plan.inputs:
            wanted.setdefault(item.calexp, (item, set()))[1].add(plan.cell.tract)
    found = []
    for item, tracts in wanted.values():
        absent = tuple(sorted(tract for tract in tracts if not warps.path(item.calexp, tract).exists()))
        if absent:
            found.append((item, absent))
    return sorted(found, key=lambda one: (one[0].midpointMjdTai, one[0].visit, one[0].detector))


def _make_warps(task: tuple[WarpStore, PlannedInput, tuple[int, ...]]) -> None:
    """Warp one exposure onto the cells of some tracts."""
    warps, item, tracts = task
    warps.make(item, tracts)


def kept_blocks(plan: CellPlan, warps: WarpStore) -> list[WarpBlock]:
    """Return the kept warps of a cell's inputs, in their order; raises DataError where one is not kept."""
    blocks = []
    for item in plan.inputs:
        block = warps.block(item, plan.cell)
        if block is None:
            raise DataError(
                f"cell {plan.cell.label} {plan.band}: no warp of exposure {item.visit}:{item.detector} is kept "
                f"({warps.path(item.calexp, plan.cell.tract)}); run `skydelta templates build`"
            )
        blocks.append(block)
    return blocks


def _build_chunk(task: tuple[Path, str, WarpStore, list[CellPlan]]) -> list[CellRecord]:
    """Build neighbouring cells and write their files; return the records of those that have data."""
    root, version, warps, plans = task
    store = TemplateStore(root)
    cells = (cell_of_warps(plan, kept_blocks(plan, warps)) for plan in plans)
    return [store.write(version, cell) for cell in cells if cell is not None]


class _Workers:
    """Does tasks in this process or in several others, which start with the first task."""

    def __init__(self, count: int, version: str) -> None:
        self._count = count
        self._version = version
        self._pool: ProcessPoolExecutor | None = None
        self._exit = ExitStack()

    def __enter__(self) -> _Workers:
        """Return the workers."""
        return self

    def __exit__(self, *raised: Any) -> None:
        """Stop the processes."""
        self._exit.__exit__(*raised)

    def map(self, work: Callable[[Any], _Result], tasks: list[Any]) -> Iterator[_Result]:
        """Yield what `work` makes of each task, in their order."""
        if self._count <= 1:
            yield from map(work, tasks)
            return
        if self._pool is None and tasks:
            self._pool = self._exit.enter_context(ProcessPoolExecutor(self._count, mp_context=_processes()))
        try:
            futures = [] if self._pool is None else [self._pool.submit(work, task) for task in tasks]
            for future in futures:
                yield future.result()
        except BrokenProcessPool as error:
            raise TransientError(
                f"a template worker died while building version {self._version} (out of memory?); run the same command "
                "again, with fewer --workers: the finished warps and cells are kept"
            ) from error


def _processes() -> BaseContext:
    """Return the way to start processes: from a server that has imported this room once, where there is one."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context
