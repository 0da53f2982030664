"""A cell's file: what is read is what was stored, astropy reads the same, and older files are still read."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from workers.imaging.fits import hdus_to_buffer, planes_to_hdus
from workers.imaging.masks import MaskPlane
from workers.imaging.tracts import Tessellation
from workers.imaging.wcs import SkyWcs
from workers.templates.cell import CellPlan, PlannedInput, TemplateCell
from workers.templates.cell_file import (
    PSF_STEP,
    cell_from_bytes,
    cell_to_bytes,
    inputs_table,
    plane_steps,
    stored_cell,
)

SIDE, INPUTS = 64, 12
GRID = Tessellation(0.2, SIDE)
ARRAYS = ("image", "mask", "variance", "nEpochs", "given", "psf", "psfs")
NUMBERS = ("plan", "used", "rejected", "depth", "fwhm", "noiseCorrelation")


def planned(band: str = "r") -> CellPlan:
    inputs = tuple(
        PlannedInput(None, 1000 + k, 5, 60000.5 + k * 10.123456789, 0.1 / (k + 3), f"{k:064d}", f"{k:x}" * 64)
        for k in range(INPUTS)
    )
    return CellPlan(band, GRID.cell_at(150.1, -2.2), GRID, 3, inputs, "tpl-0123456789abcdef0123")


def stamps(count: int, size: int = 21) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size // 2
    found = [np.exp(-0.5 * (x**2 + y**2) / (1.2 + 0.05 * k) ** 2) for k in range(count)]
    return np.array([stamp / stamp.sum() for stamp in found], np.float32)


def made(seed: int = 1, sigma: float = 1.5) -> TemplateCell:
    """Sky with a bright star, its mask, a corner without data, and a strip that some inputs do not reach."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    star = 1e5 * sigma * np.exp(-0.5 * ((x - 20) ** 2 + (y - 40) ** 2) / 1.5**2)
    given = rng.random((INPUTS, SIDE, SIDE)) > 0.01
    given[:3, :, :9] = False
    given[:, :9, :9] = False
    epochs = given.sum(axis=0).astype(np.int16)
    variance = np.where(epochs > 0, (sigma**2 + star / 50) * INPUTS / np.maximum(epochs, 1), 0.0)
    mask = np.where(epochs == 0, int(MaskPlane.NO_DATA), 0) | np.where(star > 1e3 * sigma, int(MaskPlane.SATURATED), 0)
    psfs = stamps(INPUTS)
    return TemplateCell(
        plan=planned(),
        image=(rng.normal(star, np.sqrt(variance)) * (epochs > 0)).astype(np.float32),
        mask=mask.astype(np.int32),
        variance=variance.astype(np.float32),
        nEpochs=epochs,
        given=np.packbits(given, axis=0, bitorder="little"),
        psf=psfs.mean(axis=0),
        used=tuple(given.mean(axis=(1, 2)).tolist()),
        rejected=tuple(range(INPUTS)),
        depth=12.345678901234567,
        fwhm=0.7,
        noiseCorrelation=1.0 / 3.0,
        psfs=psfs,
    )


def assert_same(one: TemplateCell, other: TemplateCell) -> None:
    for name in ARRAYS:
        first, second = getattr(one, name), getattr(other, name)
        assert (first is None) == (second is None), name
        if first is not None:
            assert first.dtype == second.dtype, name
            assert np.array_equal(first, second), name
    assert all(getattr(one, name) == getattr(other, name) for name in NUMBERS)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.floats(1e-2, 1e5))
def test_what_is_read_is_what_was_stored(seed: int, sigma: float) -> None:
    cell = made(seed, sigma)
    data = cell_to_bytes(cell)
    read, stored = cell_from_bytes(data, "cell"), stored_cell(cell)
    assert_same(read, stored)
    assert_same(stored_cell(stored), stored)
    assert cell_to_bytes(read) == cell_to_bytes(stored) == data


def test_rounding_is_far_below_the_noise() -> None:
    cell = made()
    read = cell_from_bytes(cell_to_bytes(cell), "cell")
    data = cell.variance > 0
    sigma = np.sqrt(np.median(cell.variance[data]))
    assert np.abs(read.image - cell.image).max() <= sigma / 32
    assert np.abs(read.variance - cell.variance).max() <= 0.002 * sigma**2
    assert np.abs(read.psfs - cell.psfs).max() <= PSF_STEP / 2
    assert np.array_equal(read.variance > 0, data)
    assert not read.image[~data].any()
    difference = (read.image - cell.image)[data].astype(float)
    assert abs(difference.mean()) < 4 * sigma / 32 / np.sqrt(3 * data.sum())


@given(st.floats(1e-9, 1e9), st.floats(0, 1e9))
def test_the_steps_of_rounded_planes_are_the_same(variance: float, peak: float) -> None:
    step, variance_step = plane_steps(variance, peak)
    assert plane_steps(float(np.rint(variance / variance_step)) * variance_step, peak) == (step, variance_step)
    assert variance_step <= 0.004 * variance * 1.003
    assert peak < 2**31 * step


def test_a_variance_below_a_step_stays_above_zero() -> None:
    cell = made()
    low = cell.variance.copy()
    low[30, 30] = 1e-9
    read = cell_from_bytes(cell_to_bytes(replace(cell, variance=low)), "cell")
    assert read.variance[30, 30] > 0


def test_astropy_reads_the_same() -> None:
    cell = made()
    stored = stored_cell(cell)
    with fits.open(io.BytesIO(cell_to_bytes(cell)), checksum=True) as hdus:
        hdus.verify("exception")
        names = ["IMAGE", "MASK", "VARIANCE", "NEPOCHS", "GIVEN", "PSF", "INPUTPSF"]
        assert [hdu.name for hdu in hdus] == ["PRIMARY", *names, "INPUTS"]
        for name, field in zip(names, ARRAYS, strict=True):
            assert np.array_equal(hdus[name].data, getattr(stored, field)), name
        header = hdus[0].header
        assert (header["TEMPLID"], header["DEPTH"]) == (cell.plan.templateId, cell.depth)
        assert (header["FIRSTMJD"], header["LASTMJD"]) == cell.plan.epochs
        assert hdus["IMAGE"].header["BUNIT"] == "nJy"
        assert hdus["MASK"].header["MP_NO_DATA"] == 4
        wcs, expected = SkyWcs(hdus["IMAGE"].header), GRID.cell_wcs(cell.plan.cell)
        x, y = np.array([0.0, 31.5, 63.0]), np.array([5.0, 31.5, 63.0])
        assert np.array_equal(wcs.pixel_to_sky(x, y), expected.pixel_to_sky(x, y))
        table, rows = hdus["INPUTS"].data, inputs_table(cell)
        for name in rows.dtype.names:
            assert [str(value) for value in table[name]] == [
                value.decode() if isinstance(value, bytes) else str(value) for value in rows[name]
            ]


def test_a_band_of_any_name_reads_back() -> None:
    cell = replace(made(), plan=planned("Hα 'n%"))
    assert cell_from_bytes(cell_to_bytes(cell), "cell").plan == cell.plan


def test_a_cell_without_noise_is_lossless() -> None:
    cell = made()
    cell = replace(cell, variance=np.zeros_like(cell.variance))
    assert np.array_equal(cell_from_bytes(cell_to_bytes(cell), "cell").image, cell.image)


def plain(cell: TemplateCell) -> bytes:
    """Return a cell's file as versions without compression wrote it."""
    plan, header = cell.plan, fits.Header()
    header["TEMPLID"], header["BAND"], header["TRACT"] = plan.templateId, plan.band, plan.cell.tract
    header["CELLX"], header["CELLY"] = plan.cell.cellX, plan.cell.cellY
    header["CELLSIZE"], header["PIXSCALE"], header["MINEPOCH"] = SIDE, GRID.pixel_scale, plan.min_epochs
    header["DEPTH"], header["FWHM"], header["NOISECOR"] = repr(cell.depth), cell.fwhm, repr(cell.noiseCorrelation)
    extra = [
        fits.ImageHDU(cell.nEpochs, name="NEPOCHS"),
        fits.ImageHDU(cell.given, name="GIVEN"),
        fits.ImageHDU(cell.psf, name="PSF"),
        fits.BinTableHDU(inputs_table(cell), name="INPUTS"),
    ]
    return bytes(hdus_to_buffer(header, [*planes_to_hdus(cell.image, cell.mask, cell.variance, "nJy"), *extra]))


def test_files_without_compression_are_read() -> None:
    cell = replace(made(), psfs=None)
    old = plain(cell)
    assert_same(cell_from_bytes(old, "cell"), cell)
    assert 4 * len(cell_to_bytes(cell)) < 3 * len(old)


def test_damage_is_named() -> None:
    data = cell_to_bytes(made())
    for name in (b"'IMAGE   '", b"'NEPOCHS '", b"'GIVEN   '", b"'INPUTPSF'"):
        broken = bytearray(data)
        broken[data.index(b"\x1f\x8b\x08", data.index(b"EXTNAME = " + name)) + 40] ^= 0xFF
        with pytest.raises(DataError, match=rf"cell\.fits.*{name.decode()[1:6]}.*damaged"):
            cell_from_bytes(bytes(broken), "cell.fits")
    for length in range(0, len(data), 2880):
        with pytest.raises(DataError, match=r"cell\.fits.*templates build"):
            cell_from_bytes(data[:length], "cell.fits")
