"""CPU time and size of a template cell's file and of kept warps, on sky noise with stars.

Run: ``OMP_NUM_THREADS=1 python -m tests.bench.bench_template_files``. A cell of 256x256 px with 12 inputs, and warps of
280x280 px; the variance plane smooth, or with 3 % noise of its own (made from the pixels' counts). Bars: a cell written
in 6 ms and read in 2.5 ms, a warp written in 8 ms and read in 1.7 ms.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from workers.imaging.tracts import CellId, Tessellation
from workers.templates.cell import CellPlan, PlannedInput, TemplateCell
from workers.templates.cell_file import cell_from_bytes, cell_to_bytes, stored_cell
from workers.templates.warp_file import WarpBlock, WarpFile, WarpHeader, stored_block, warp_steps, write_warps

INPUTS, SIDE, BORDER, SIGMA = 12, 256, 12, 5.0
GRID = Tessellation(0.2, SIDE)


def milliseconds(work: Callable[[], object], times: int = 30) -> float:
    """Return the median CPU time of a call."""
    work()
    spent = []
    for _ in range(times):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return 1e3 * float(np.median(spent))


def scene(rng: np.random.Generator, side: int, sigma: float, noisy: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image, mask and variance of a sky with sixty stars."""
    stars, (y, x) = np.zeros((side, side)), np.mgrid[:side, :side]
    for _ in range(60):
        x0, y0 = rng.uniform(0, side, 2)
        stars += 10 ** rng.uniform(1.4, 4.4) * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 1.5**2)
    variance = sigma**2 + stars / 50
    image = stars + rng.normal(0, np.sqrt(variance))
    if noisy:
        variance = variance + rng.normal(0, 0.03 * sigma**2, variance.shape)
    mask = np.where(stars > 40, 128, 0) | np.where(stars > 5000, 2, 0)
    mask[100:102] |= 512
    return image.astype(np.float32), mask.astype(np.int32), variance.astype(np.float32)


def stamp(fwhm: float, size: int = 31) -> np.ndarray:
    """Return a Gaussian PSF."""
    y, x = np.mgrid[:size, :size] - size // 2
    psf = np.exp(-0.5 * (x**2 + y**2) / (fwhm / 2.355) ** 2)
    return (psf / psf.sum()).astype(np.float32)


def cell_of(rng: np.random.Generator, noisy: bool) -> TemplateCell:
    """Return a cell of twelve inputs, two of which reach a part of it only."""
    given = rng.random((INPUTS, SIDE, SIDE)) > 0.003
    given[0, :, :60], given[3, 200:] = False, False
    items = (PlannedInput(None, 1000 + k, 5, 60000.5 + 10.1 * k, 0.01, "a" * 64, "b" * 64) for k in range(INPUTS))
    plan = CellPlan("r", GRID.cell_at(150.1, 2.2), GRID, 3, tuple(items), "tpl-0123456789abcdef0123")
    image, mask, variance = scene(rng, SIDE, SIGMA / np.sqrt(INPUTS), noisy)
    psfs = np.stack([stamp(2.5 + 0.1 * k) for k in range(INPUTS)])
    bits, epochs = np.packbits(given, axis=0, bitorder="little"), given.sum(axis=0).astype(np.int16)
    share, none = (1.0,) * INPUTS, (0,) * INPUTS
    return TemplateCell(plan, image, mask, variance, epochs, bits, psfs.mean(0), share, none, 12.3, 0.7, 1.4, psfs)


def main() -> None:
    """Print the figures."""
    rng = np.random.default_rng(1)
    for noisy in (False, True):
        print("variance with noise of its own" if noisy else "smooth variance")
        cell = cell_of(rng, noisy)
        data = cell_to_bytes(cell)
        names = ("image", "mask", "variance", "nEpochs", "given", "psf", "psfs")
        plain = sum(getattr(cell, name).nbytes for name in names)
        print(f"  cell: {len(data) / SIDE**2:.2f} bytes a pixel, plain {plain / SIDE**2:.2f}")
        print(f"  cell written in {milliseconds(lambda: cell_to_bytes(cell)):.2f} ms", end=", ")  # noqa: B023
        print(f"read in {milliseconds(lambda: cell_from_bytes(data, 'cell')):.2f} ms", end=", ")  # noqa: B023
        print(f"rounded in memory in {milliseconds(lambda: stored_cell(cell)):.2f} ms")  # noqa: B023
        warps(rng, noisy)


def warps(rng: np.random.Generator, noisy: bool) -> None:
    """Print the figures of twelve warps."""
    side = SIDE + 2 * BORDER
    header = WarpHeader(7, 0.2, SIDE, BORDER, 1000, 5, "c" * 64, *warp_steps(SIGMA**2, 1e6))
    blocks = {CellId(7, k, 9): WarpBlock(*scene(rng, side, SIGMA, noisy), stamp(3.0), 1.3) for k in range(12)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "warps.fits"
        spent = milliseconds(lambda: write_warps(path, header, blocks), 5) / len(blocks)
        size = path.stat().st_size / (len(blocks) * side**2)
        print(f"  warps: {size:.2f} bytes a pixel, plain 12.05; written in {spent:.2f} ms each", end=", ")
        with WarpFile(path) as file:
            cell = CellId(7, 5, 9)
            print(f"read in {milliseconds(lambda: file.block(cell)):.2f} ms", end=", ")
            print(f"rounded in memory in {milliseconds(lambda: stored_block(blocks[cell], header)):.2f} ms", end=", ")
        print(f"opened in {milliseconds(lambda: WarpFile(path).close()):.2f} ms")


if __name__ == "__main__":
    main()
