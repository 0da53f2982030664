"""Kept warps: a block reads back as `stored_block` gives it, from memory and by astropy, and damage is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from schemas.errors import DataError
from workers.imaging.masks import MaskPlane
from workers.imaging.tracts import CellId
from workers.templates.warp_file import WarpBlock, WarpFile, WarpHeader, stored_block, warp_steps, write_warps

SIGMA = 5.0
STEP, VARIANCE_STEP = warp_steps(SIGMA**2, 1e6)
HEADER = WarpHeader(77, 0.2, 48, 4, 1234, 5, "c" * 64, STEP, VARIANCE_STEP)
FIELDS = ("image", "mask", "variance", "psf")


def block_of(seed: int) -> WarpBlock:
    """Sky, a star, and an edge beyond which there are no data; NaN there, as if it had not been cleared."""
    rng, side = np.random.default_rng(seed), HEADER.side
    y, x = np.mgrid[:side, :side]
    star = 1e6 * np.exp(-0.5 * ((x - 20) ** 2 + (y - 30) ** 2) / 2.0)
    variance = SIGMA**2 * (1 + 0.02 * rng.random((side, side))) + star / 50
    mask = np.where(star > 1e4, int(MaskPlane.SATURATED), 0)
    mask[:, : 4 * seed] = int(MaskPlane.NO_DATA)
    image = rng.normal(star, np.sqrt(variance))
    image[mask == int(MaskPlane.NO_DATA)] = np.nan
    psf = rng.random((21, 21))
    return WarpBlock(
        image.astype(np.float32),
        mask.astype(np.int32),
        variance.astype(np.float32),
        (psf / psf.sum()).astype(np.float32),
        1.0 + seed / 7,
    )


BLOCKS = {CellId(77, 10 + k % 3, 20 + k // 3): block_of(k) for k in range(6)}


@pytest.fixture
def path(tmp_path):
    write_warps(tmp_path / "warps.fits", HEADER, BLOCKS)
    return tmp_path / "warps.fits"


def test_a_block_reads_back_as_stored(path):
    with WarpFile(path) as warps:
        assert warps.header == HEADER
        assert warps.cells == tuple(sorted(BLOCKS))
        for cell, block in BLOCKS.items():
            read, stored = warps.block(cell), stored_block(block, HEADER)
            for name in FIELDS:
                assert getattr(read, name).dtype == getattr(stored, name).dtype
                assert getattr(read, name).tobytes() == getattr(stored, name).tobytes()
            assert read.noise_correlation == block.noise_correlation
            again = stored_block(read, HEADER)
            assert all(np.array_equal(getattr(read, name), getattr(again, name)) for name in FIELDS)


def test_rounding_is_far_below_the_noise(path):
    with WarpFile(path) as warps:
        for cell, block in BLOCKS.items():
            read, data = warps.block(cell), (block.mask & int(MaskPlane.NO_DATA)) == 0
            assert np.abs((read.image - block.image)[data]).max() <= SIGMA / 32
            assert np.abs((read.variance - block.variance)[data]).max() <= 0.005 * SIGMA**2
            assert not read.image[~data].any()
            assert not read.variance[~data].any()


def test_the_share_covered_is_that_of_the_cell_without_its_border(path):
    with WarpFile(path) as warps:
        for cell, block in BLOCKS.items():
            inner = block.mask[4:-4, 4:-4] & int(MaskPlane.NO_DATA)
            assert warps.covered(cell) == np.mean(inner == 0)
        assert warps.covered(CellId(77, 0, 0)) == 0.0
        with pytest.raises(DataError, match=r"warps\.fits.*77/0_0.*templates build"):
            warps.block(CellId(77, 0, 0))


def test_astropy_reads_the_cubes(path):
    stored = [stored_block(BLOCKS[cell], HEADER) for cell in sorted(BLOCKS)]
    with fits.open(path, checksum=True) as hdus:
        hdus.verify("exception")
        for field in FIELDS:
            assert np.array_equal(hdus[field.upper()].data, np.stack([getattr(block, field) for block in stored]))
        cells = hdus["CELLS"].data
        assert list(zip(cells["cellX"], cells["cellY"], strict=True)) == [(c.cellX, c.cellY) for c in sorted(BLOCKS)]
        assert cells["noiseCorrelation"].tolist() == [block.noise_correlation for block in stored]
        header = hdus[0].header
        assert [header[key] for key in ("TRACT", "CELLSIZE", "BORDER", "VISIT", "DETECTOR")] == [77, 48, 4, 1234, 5]
        assert (header["PIXSCALE"], header["CALEXP"]) == (0.2, "c" * 64)


def test_any_order_and_rounded_blocks_give_the_same_bytes(path, tmp_path):
    other = tmp_path / "other.fits"
    write_warps(other, HEADER, reversed(BLOCKS.items()))
    assert other.read_bytes() == path.read_bytes()
    write_warps(other, HEADER, {cell: stored_block(block, HEADER) for cell, block in BLOCKS.items()})
    assert other.read_bytes() == path.read_bytes()


def test_a_file_without_cells_is_one(tmp_path):
    write_warps(tmp_path / "none.fits", HEADER, {})
    with WarpFile(tmp_path / "none.fits") as warps:
        assert warps.cells == ()


def test_what_does_not_fit_is_refused(tmp_path):
    cell, block = next(iter(BLOCKS.items()))
    nan = replace(block, image=np.full_like(block.image, np.nan))
    with pytest.raises(DataError, match=r"1234:5 on cell 77/10_20.*NaN"):
        write_warps(tmp_path / "a.fits", HEADER, {cell: nan})
    with pytest.raises(ValueError, match="a block of"):
        write_warps(tmp_path / "a.fits", replace(HEADER, border=5), {cell: block})
    small = replace(block, psf=block.psf[1:-1, 1:-1])
    with pytest.raises(ValueError, match="one size"):
        write_warps(tmp_path / "a.fits", HEADER, {cell: block, CellId(77, 0, 0): small})
    assert not (tmp_path / "a.fits").exists()


def read_all(path) -> list[WarpBlock]:
    with WarpFile(path) as warps:
        return [warps.block(cell) for cell in warps.cells]


def same(blocks: list[WarpBlock]) -> bool:
    stored = [stored_block(BLOCKS[cell], HEADER) for cell in sorted(BLOCKS)]
    return len(blocks) == len(stored) and all(
        np.array_equal(getattr(one, name), getattr(two, name))
        for one, two in zip(blocks, stored, strict=True)
        for name in FIELDS
    )


def test_damage_is_named(path):
    data, told = path.read_bytes(), []
    for place in np.random.default_rng(2).integers(0, len(data), 150).tolist():
        broken = bytearray(data)
        broken[place] ^= 0x24
        path.write_bytes(bytes(broken))
        try:
            assert same(read_all(path)), place  # padding, and bits that say nothing
        except DataError as error:
            told.append(str(error))
    assert len(told) > 100
    assert all(str(path) in text and "templates build" in text for text in told)


def test_a_cut_or_missing_file_is_named(path):
    data = path.read_bytes()
    for length in (*range(0, len(data), 2880), len(data) - 1, 100):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"warps\.fits.*templates build"):
            read_all(path)
    path.unlink()
    with pytest.raises(DataError, match=r"warps\.fits.*can't be read.*templates build"):
        WarpFile(path)
