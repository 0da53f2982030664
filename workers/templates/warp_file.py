"""The kept warps of one exposure on the cells of one tract: one FITS file, of which one cell is read at a time.

Cubes IMAGE, MASK, VARIANCE (cells, side, side) and PSF (cells, n, n), tile-compressed with one tile a cell, and the
table CELLS in the cubes' order. Image and variance are rounded to the steps in the file's header, far below the noise.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import DataError
from workers.imaging.exposure import FloatImage, MaskImage
from workers.imaging.fits import current_bits, write_atomically
from workers.imaging.masks import MaskPlane, header_cards, planes_from_header
from workers.imaging.plain_fits import Cards, FileHdu, PlainHdu, file_hdus, primary_hdu, table_hdu
from workers.imaging.tiled_fits import TileFormat, TileIndex, file_tiles, packed, quantised, tiled_hdu_of
from workers.imaging.tracts import CellId
from workers.templates.cell_file import PSF_STEP, plane_steps, positive

__all__ = ["CELLS_DTYPE", "WarpBlock", "WarpFile", "WarpHeader", "stored_block", "warp_steps", "write_warps"]

CELLS_DTYPE = np.dtype([("cellX", "i4"), ("cellY", "i4"), ("noiseCorrelation", "f8"), ("covered", "f8")])
"""Columns of CELLS; `covered` is the share of the cell's own pixels, without the border, that are not NO_DATA."""
_PER_VARIANCE = 100.0
"""Steps in the background's variance, at least: rounded to 0.5 %."""
_CARDS = {
    "TRACT": ("tract", "nested HEALPix pixel, nside 32"),
    "PIXSCALE": ("pixel_scale", "[arcsec]"),
    "CELLSIZE": ("cell_size", "[pixel]"),
    "BORDER": ("border", "[pixel] round each cell"),
    "VISIT": ("visit", ""),
    "DETECTOR": ("detector", ""),
    "CALEXP": ("calexp", ""),
    "STEP": ("step", "[nJy] of the image"),
    "VARSTEP": ("variance_step", "[nJy2] of the variance"),
}


@dataclass(frozen=True)
class WarpHeader:
    """What all the blocks of a file share."""

    tract: int
    pixel_scale: float
    """Arcsec."""
    cell_size: int
    """Pixels."""
    border: int
    """Pixels round each cell."""
    visit: int
    detector: int
    calexp: str
    """Of the calibrated exposure's content (`CalexpEntry.calexp`)."""
    step: float
    """Of the image, nJy, a power of two."""
    variance_step: float
    """nJy²."""

    @property
    def side(self) -> int:
        """Of a block, pixels."""
        return self.cell_size + 2 * self.border


@dataclass(frozen=True)
class WarpBlock:
    """An exposure on the pixels of a cell and its border: (side, side) in nJy, `MaskPlane` bits and nJy²."""

    image: FloatImage
    mask: MaskImage
    variance: FloatImage
    psf: FloatImage
    """At the cell's centre, (n, n), unit sum; of one size in all blocks of a file."""
    noise_correlation: float


def warp_steps(variance: float, peak: float) -> tuple[float, float]:
    """Return the steps of the image (nJy) and variance (nJy²) of an exposure's warps, for `WarpHeader`.

    `variance`: median of its background on the cells' pixels, nJy² (> 0); `peak`: its brightest absolute value, nJy.
    They come from the exposure and not from its blocks, so that a block is the same whatever others are made with it.
    """
    return plane_steps(variance, peak, _PER_VARIANCE)


def stored_block(block: WarpBlock, header: WarpHeader) -> WarpBlock:
    """Return the block as its file gives it back: rounded, and 0 in image and variance where it is NO_DATA."""
    block = _cleared(block, header)
    return replace(
        block,
        image=quantised(block.image, header.step),
        variance=quantised(block.variance, header.variance_step),
        psf=quantised(block.psf, PSF_STEP),
    )


def _cleared(block: WarpBlock, header: WarpHeader) -> WarpBlock:
    empty = (block.mask & int(MaskPlane.NO_DATA)) != 0
    variance = positive(block.variance, header.variance_step)
    if empty.any():
        zero = np.float32(0.0)
        block = replace(block, image=np.where(empty, zero, block.image))
        variance = np.where(empty, zero, variance)
    return replace(block, variance=variance)


def write_warps(
    path: Path, header: WarpHeader, blocks: Mapping[CellId, WarpBlock] | Iterable[tuple[CellId, WarpBlock]]
) -> None:
    """Write the warps of an exposure, complete or not at all; equal blocks in any order give equal bytes.

    An iterable of pairs is taken one by one: only compressed blocks are kept in memory. Raises DataError where a block
    holds NaN.
    """
    pairs = blocks.items() if isinstance(blocks, Mapping) else blocks
    sizes, found = set(), {}
    for cell, block in pairs:
        sizes.add(len(block.psf))
        found[cell] = _row(cell, block, header), _tiles(cell, block, header)
    if len(sizes) > 1:
        raise ValueError(f"{path}: PSFs of {sizes} pixels in one file; make all of one size")
    order = sorted(found)
    shape, size = (len(order), header.side, header.side), sizes.pop() if sizes else 1
    forms: dict[str, tuple[TileFormat, Cards]] = {
        "IMAGE": (TileFormat(shape, -32, header.step), [("BUNIT", "nJy")]),
        "MASK": (TileFormat(shape, 32), header_cards().items()),
        "VARIANCE": (TileFormat(shape, -32, header.variance_step), [("BUNIT", "(nJy)2")]),
        "PSF": (TileFormat((len(order), size, size), -32, PSF_STEP), []),
    }
    rows = np.array([found[cell][0] for cell in order], CELLS_DTYPE)
    hdus = [table_hdu("CELLS", rows)]
    for plane, (name, (form, cards)) in enumerate(forms.items()):
        hdus.append(tiled_hdu_of(name, [found[cell][1][plane] for cell in order], form, cards))
    primary = primary_hdu([(key, getattr(header, name), note) for key, (name, note) in _CARDS.items()], len(hdus))
    write_atomically(path, b"".join([primary, *hdus]))


def _row(cell: CellId, block: WarpBlock, header: WarpHeader) -> tuple[int, int, float, float]:
    if cell.tract != header.tract or block.image.shape != (header.side, header.side):
        raise ValueError(f"a block of {block.image.shape} pixels for cell {cell.label} in a file of {header}")
    inner = slice(header.border, header.side - header.border)
    covered = float(((block.mask[inner, inner] & int(MaskPlane.NO_DATA)) == 0).mean())
    return cell.cellX, cell.cellY, float(block.noise_correlation), covered


def _tiles(cell: CellId, block: WarpBlock, header: WarpHeader) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the compressed image, mask, variance and PSF."""
    try:
        block = _cleared(block, header)
        image, variance = packed(block.image, header.step), packed(block.variance, header.variance_step)
        psf = packed(block.psf, PSF_STEP)
    except DataError as error:
        raise DataError(f"exposure {header.visit}:{header.detector} on cell {cell.label}: {error}") from error
    return image, packed(np.asarray(block.mask, np.int32)), variance, psf


class WarpFile:
    """The kept warps of one exposure. Opening reads the index only; keep it open to read many blocks.

    Raises DataError where the file is missing, cut short or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(
                f"kept warps {path} can't be read ({error.strerror}); `skydelta templates build` makes them again"
            ) from error
        try:
            hdus = file_hdus(self._file)
            cards = hdus["PRIMARY"].cards
            self.header = WarpHeader(**{name: cards[key] for key, (name, _) in _CARDS.items()})
            rows = self._table(hdus["CELLS"])
            self._planes: dict[str, TileIndex] = {
                name: file_tiles(self._file, hdus[name]) for name in ("IMAGE", "MASK", "VARIANCE", "PSF")
            }
            self._bits = planes_from_header(hdus["MASK"].cards)
            if any(len(plane) != len(rows) for plane in self._planes.values()):
                raise ValueError("its cubes and its table of cells differ in length")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            self.close()
            raise self._damaged(error) from error
        self._rows = {CellId(self.header.tract, int(row["cellX"]), int(row["cellY"])): row for row in rows}
        self._numbers = {cell: number for number, cell in enumerate(self._rows)}

    def _table(self, hdu: FileHdu) -> Any:
        table = PlainHdu(hdu.cards, memoryview(os.pread(self._file, hdu.end - hdu.start, hdu.start)))
        if not table.intact():
            raise ValueError("the checksum of its table of cells is wrong")
        return table.table(CELLS_DTYPE)

    def __enter__(self) -> WarpFile:
        """Return the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __del__(self) -> None:
        """Close it where nobody did."""
        self.close()

    def close(self) -> None:
        """Close the file; what was read stays."""
        file, self._file = getattr(self, "_file", -1), -1
        if file >= 0:
            with suppress(OSError):
                os.close(file)

    @property
    def cells(self) -> tuple[CellId, ...]:
        """By column and row."""
        return tuple(self._rows)

    def covered(self, cell: CellId) -> float:
        """Return the share of a cell's own pixels that the exposure covers; 0 where the file has no such cell."""
        return float(self._rows[cell]["covered"]) if cell in self._rows else 0.0

    def block(self, cell: CellId) -> WarpBlock:
        """Return the warp on a cell; raises DataError where it is damaged, or the file has no such cell."""
        if cell not in self._numbers:
            raise DataError(f"kept warps {self.path} have no cell {cell.label}; run `skydelta templates build`")
        number = self._numbers[cell]
        try:
            return WarpBlock(
                image=self._tile("IMAGE", number),
                mask=current_bits(self._tile("MASK", number), self._bits),
                variance=self._tile("VARIANCE", number),
                psf=self._tile("PSF", number),
                noise_correlation=float(self._rows[cell]["noiseCorrelation"]),
            )
        except ValueError as error:
            raise self._damaged(error) from error

    def _tile(self, name: str, number: int) -> Any:
        start, length = self._planes[name].place(number)
        return self._planes[name].tile(number, os.pread(self._file, length, start))[0]

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            f"kept warps {self.path} are damaged ({error}); remove the file: `skydelta templates build` makes it again"
        )
