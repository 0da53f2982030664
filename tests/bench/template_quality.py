"""Noise and depth of templates of simulated exposures, against truth and beside other programs' coadds."""

from __future__ import annotations

import resource
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from reproject import reproject_interp
from scipy.optimize import minimize

from tests.bench.template_scene import SCALE, Visit, expose, rendered, sky_places, star_field, visits, write_field
from workers.imaging.exposure import Exposure
from workers.imaging.fits import read_exposure
from workers.imaging.psf import PsfModel
from workers.survey.config import TemplatesConfig
from workers.templates.calexps import index_calexps
from workers.templates.cell import TemplateCell
from workers.templates.pipeline import build_cell, plan

__all__ = ["quality"]

CONFIG = TemplatesConfig(begin=60000.0, end=60365.0, pixel_scale=SCALE)
SIDE, CENTRE, HALF, RADIUS = 1100, (150.0, 2.0), 9, 6.0


@dataclass(frozen=True)
class Made:
    """A cell, with the exposures that it was made of and what it should hold."""

    cell: TemplateCell
    exposures: list[Exposure]
    truth: np.ndarray
    """The stars as each input saw them, with the weights of the inputs in each pixel, nJy."""
    places: np.ndarray
    """(x, y, flux) of the stars."""


def made(epochs: list[Visit], stars: np.ndarray, seed: int) -> list[Made]:
    """Return all cells that every epoch covers whole."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        exposures = [expose(visit, stars, SIDE, CENTRE, seed) for visit in epochs]
        write_field(Path(folder), exposures)
        for item in plan(index_calexps(Path(folder)), CONFIG):
            cell = build_cell(item, read_exposure)
            if cell is not None and min(cell.used) > 0.9:
                found.append(_with_truth(cell, epochs, exposures, stars))
    return found


def _with_truth(cell: TemplateCell, epochs: list[Visit], exposures: list[Exposure], stars: np.ndarray) -> Made:
    wcs = cell.plan.grid.cell_wcs(cell.plan.cell)
    x, y = wcs.sky_to_pixel(*sky_places(stars, *CENTRE))
    by_visit = {visit.number: visit for visit in epochs}
    given = np.unpackbits(cell.given, axis=0, bitorder="little")[: len(cell.plan.inputs)]
    total, value = np.zeros(cell.image.shape), np.zeros(cell.image.shape)
    for item, here in zip(cell.plan.inputs, given, strict=True):
        total += item.weight * here
        value += item.weight * here * rendered(cell.image.shape, x, y, stars[:, 2], by_visit[item.visit].fwhm)
    places = np.stack([x, y, stars[:, 2]], axis=-1)
    return Made(cell, exposures, value / np.where(total > 0, total, 1.0), places)


def quality() -> None:
    """Print pulls of pixels, apertures and PSF fluxes, the depth against the best weights, and the others' noise."""
    epochs = visits(12)
    for name, per_cell in (("empty sky", 0.0), ("stars, 40 a cell, to 2000 nJy", 40.0)):
        cells = [one for seed in range(6) for one in made(epochs, star_field(SIDE, per_cell, 2e3, 1), seed)]
        print(f"{name}: {len(cells)} cells of 12 inputs")
        for label, pulls in _pulls(cells).items():
            error = 1.0 / np.sqrt(2.0 * len(pulls))
            print(
                f"  {label:34} pulls: mean {pulls.mean():+.3f}, width {pulls.std():.3f} +- {error:.3f} ({len(pulls)})"
            )
        if not per_cell:
            _print_depths(cells, epochs)
    _beside(epochs)


def _spots(cell: TemplateCell) -> list[tuple[slice, slice]]:
    """Return boxes that share no pixel, all of whose pixels have every input."""
    whole = cell.nEpochs == cell.nEpochs.max()
    side = 2 * HALF + 1
    corners = range(0, cell.image.shape[0] - side + 1, side)
    boxes = [(slice(y, y + side), slice(x, x + side)) for y in corners for x in corners]
    return [box for box in boxes if whole[box].all()]


def _pulls(cells: list[Made]) -> dict[str, np.ndarray]:
    """Return (measured - truth) / error: of pixels, of circles and of PSF fluxes, both with `noiseCorrelation`."""
    axis = np.arange(-HALF, HALF + 1)
    circle = (np.hypot(*np.meshgrid(axis, axis)) <= RADIUS).astype(float)
    pixels, apertures, psf_fluxes = [], [], []
    for one in cells:
        cell = one.cell
        off, good = cell.image - one.truth, cell.nEpochs == cell.nEpochs.max()
        pixels.append((off[good] / np.sqrt(cell.variance[good]))[::3])
        middle = cell.psf.shape[0] // 2
        psf = cell.psf[middle - HALF : middle + HALF + 1, middle - HALF : middle + HALF + 1].astype(float)
        for box in _spots(cell):
            for into, shape in ((apertures, circle), (psf_fluxes, psf)):
                noise = np.sqrt(np.sum(shape**2 * cell.variance[box]) * cell.noiseCorrelation)
                into.append(np.sum(shape * off[box]) / noise)
    names = ("pixels", f"circles of {RADIUS} px", "PSF fluxes")
    return dict(zip(names, (np.concatenate(pixels), np.array(apertures), np.array(psf_fluxes)), strict=True))


def _psf_flux_scatter(image: np.ndarray, psf: np.ndarray, boxes: list[tuple[slice, slice]]) -> list[float]:
    middle = psf.shape[0] // 2
    cut = psf[middle - HALF : middle + HALF + 1, middle - HALF : middle + HALF + 1].astype(float)
    return [float(np.sum(cut * image[box]) / np.sum(cut**2)) for box in boxes]


def _print_depths(cells: list[Made], epochs: list[Visit]) -> None:
    """Print the depth in the header, as PSF fluxes scatter, of the best weights, and of the best coadd at all."""
    fluxes = [flux for one in cells for flux in _psf_flux_scatter(one.cell.image, one.cell.psf, _spots(one.cell))]
    told = np.median([one.cell.depth for one in cells])
    stamps = np.array([PsfModel.gaussian(visit.fwhm, size=31, width=9, height=9).coefficients[0] for visit in epochs])
    variance = np.array([visit.sigma**2 for visit in epochs])

    def depth(logs: np.ndarray) -> float:
        weight = np.exp(logs - logs.max())
        weight /= weight.sum()
        psf = np.tensordot(weight, stamps, axes=1)
        return 5.0 * float(np.sqrt(np.sum(weight**2 * variance) / np.sum(psf**2)))

    areas = 1.0 / np.square(stamps).sum(axis=(1, 2))
    used = depth(-np.log(variance * np.array([visit.fwhm for visit in epochs]) ** 2))
    best = minimize(lambda logs: depth(logs), -np.log(variance * areas)).fun
    ideal = 5.0 / np.sqrt(np.sum(1.0 / (variance * areas)))
    print(f"  5 sigma depth, nJy: header {told:.3f}, scatter of PSF fluxes {5.0 * np.std(fluxes):.3f} ({len(fluxes)})")
    print(f"    theory: these weights {used:.3f}, best weights of a mean {best:.3f}, likelihood coadd {ideal:.3f}")
    print(f"    header over best weights of a mean {told / best:.4f}")


def _beside(epochs: list[Visit]) -> None:
    """Print CPU seconds and the scatter of PSF fluxes of our cell and of reproject's, of the same inputs."""
    one = made(epochs, star_field(SIDE, 0.0, 2e3, 1), 9)[0]
    cell, boxes = one.cell, _spots(one.cell)
    by_visit = {exposure.info.visit: exposure for exposure in one.exposures}
    start = time.process_time()
    build_cell(_planned(cell, one), lambda path: by_visit[int(path.stem)])
    ours = time.process_time() - start
    wcs, side = cell.plan.grid.cell_wcs(cell.plan.cell), cell.image.shape[0]
    start = time.process_time()
    planes = [_reprojected(by_visit[item.visit], wcs, side) for item in cell.plan.inputs]
    weights = np.array([item.weight for item in cell.plan.inputs])
    mean = np.tensordot(weights / weights.sum(), planes, axes=1)
    theirs = time.process_time() - start
    scatter = [np.std(_psf_flux_scatter(image, cell.psf, boxes)) for image in (cell.image, mean)]
    print("one cell of 12 inputs, empty sky:")
    print(f"  ours, with rejection and variance: {ours:.2f} s CPU, PSF fluxes scatter by {scatter[0]:.3f} nJy")
    print(f"  reproject (bicubic), image alone:  {theirs:.2f} s CPU, PSF fluxes scatter by {scatter[1]:.3f} nJy")
    program = shutil.which("SWarp") or shutil.which("swarp")
    if program is None:
        print("  SWarp is not installed")
    else:
        coadd, seconds = _swarped(program, [by_visit[item.visit] for item in cell.plan.inputs], weights, (wcs, side))
        noise = np.std(_psf_flux_scatter(coadd, cell.psf, boxes))
        print(f"  SWarp (Lanczos-3, its files too):  {seconds:.2f} s CPU, PSF fluxes scatter by {noise:.3f} nJy")
    _print_bright(epochs)


def _planned(cell: TemplateCell, one: Made):
    """Return the plan of a cell with a path, that says the visit, for each input."""
    inputs = tuple(replace(item, path=Path(f"{item.visit}.fits")) for item in cell.plan.inputs)
    return replace(cell.plan, inputs=inputs)


def _reprojected(exposure: Exposure, wcs, side: int) -> np.ndarray:
    source = (exposure.image, exposure.need_wcs().header())
    return reproject_interp(source, wcs.header(), shape_out=(side, side), order="bicubic", return_footprint=False)


def _swarped(program: str, exposures: list[Exposure], weights: np.ndarray, target) -> tuple[np.ndarray, float]:
    """Return SWarp's weighted coadd of exposures on the target (WCS, side), and the CPU seconds of its process."""
    wcs, side = target
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (exposure, weight) in enumerate(zip(exposures, weights, strict=True)):
            header = exposure.need_wcs().header()
            fits.writeto(folder / f"{number}.fits", exposure.image, header)
            flat = np.full(exposure.image.shape, weight / weights.max(), np.float32)
            fits.writeto(folder / f"{number}.weight.fits", flat, header)
        head = wcs.header()
        head["NAXIS"], head["NAXIS1"], head["NAXIS2"] = 2, side, side
        (folder / "coadd.head").write_text(head.tostring(sep="\n", endcard=True) + "\n")
        options = {
            "WEIGHT_TYPE": "MAP_WEIGHT", "RESCALE_WEIGHTS": "N", "COMBINE_TYPE": "WEIGHTED", "SUBTRACT_BACK": "N",
            "RESAMPLING_TYPE": "LANCZOS3", "OVERSAMPLING": "1", "FSCALE_KEYWORD": "NONE", "WRITE_XML": "N",
            "VERBOSE_TYPE": "QUIET", "NTHREADS": "1",
        }  # fmt: skip
        words = [word for key, value in options.items() for word in (f"-{key}", value)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        inputs = [f"{number}.fits" for number in range(len(exposures))]
        subprocess.run([program, *inputs, *words], cwd=folder, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return fits.getdata(folder / "coadd.fits").astype(float), seconds


def _print_bright(epochs: list[Visit]) -> None:
    """Print the median flux error of bright stars, both coadds."""
    rng = np.random.default_rng(2)
    grid = np.stack(np.meshgrid(np.arange(-4, 5) * 9.0, np.arange(-4, 5) * 9.0), axis=-1).reshape(-1, 2)
    stars = np.column_stack([grid + rng.uniform(-1, 1, grid.shape), np.full(len(grid), 3e4)])
    ratios: dict[str, list[float]] = {"ours": [], "reproject": []}
    for one in made(epochs, stars, 3):
        cell = one.cell
        by_visit = {exposure.info.visit: exposure for exposure in one.exposures}
        wcs, side = cell.plan.grid.cell_wcs(cell.plan.cell), cell.image.shape[0]
        weights = np.array([item.weight for item in cell.plan.inputs])
        planes = [_reprojected(by_visit[item.visit], wcs, side) for item in cell.plan.inputs]
        mean = np.tensordot(weights / weights.sum(), planes, axes=1)
        for x, y, flux in one.places:
            column, row = round(float(x)), round(float(y))
            if not (20 < column < side - 20 and 20 < row < side - 20):
                continue
            box = slice(row - 16, row + 17), slice(column - 16, column + 17)
            if np.isfinite(mean[box]).all() and (cell.mask[box] & 1 == 0).all():
                ratios["ours"].append(float(cell.image[box].sum(dtype=float) / flux))
                ratios["reproject"].append(float(mean[box].sum() / flux))
    for name, values in ratios.items():
        scatter = 1.4826 * np.median(np.abs(np.array(values) - np.median(values)))
        print(f"  stars of 30,000 nJy, {name:9}: flux over truth {np.median(values):.5f}, scatter {scatter:.5f}")
