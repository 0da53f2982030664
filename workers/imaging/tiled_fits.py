"""Tile-compressed FITS images (FITS standard 4.0, section 10), written and read without astropy.

Any FITS reader opens them: ZCMPTYPE is GZIP_2, byte planes of a tile one after the other in a gzip stream. A tile is a
page of a cube, so that one page is read alone. Real numbers are stored as whole multiples of a step, a power of two,
which makes every product exact in float32: what is read is what `quantised` returns. Without a step they are lossless.

A byte plane of noise has no repeats, at best frequent values (Huffman codes); the others are runs. Each is compressed
its own way, which takes a third of the time and two thirds of the bytes of one way for all.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.exposure import FloatImage
from workers.imaging.plain_fits import BITPIX, PIXELS, Cards, FileHdu, PlainHdu, hdu_bytes

__all__ = [
    "TileFormat",
    "TileIndex",
    "file_tiles",
    "packed",
    "pixels",
    "power_below",
    "quantised",
    "tile_index",
    "tiled_hdu",
    "tiled_hdu_of",
]

_OFFSET = 128
"""Added to the stored counts: noise about zero has then one byte that changes, and no sign bits in the others."""
_LIMIT = 2**31 - 512
"""Counts that an int32 holds with the offset."""
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
"""No name, no time: equal pixels, equal bytes."""
_AS_IT_IS = (0, zlib.Z_DEFAULT_STRATEGY)
_CODES = (1, zlib.Z_HUFFMAN_ONLY)
_RUNS = (1, zlib.Z_DEFAULT_STRATEGY)
_SAMPLE = 4096
"""Bytes from the middle of a plane that are tried."""
_WORTH = 0.6
"""Share of the bytes above which Huffman codes are not worth the time of reading them."""
_LOSSLESS = np.dtype([("length", ">i4"), ("offset", ">i4")])
_SCALED = np.dtype([*((name, ">i4") for name in ("length", "offset")), ("scale", ">f8"), ("zero", ">f8")])


def power_below(limit: float) -> float:
    """Return the largest power of two that is not above `limit` (> 0)."""
    return math.ldexp(1.0, math.frexp(limit)[1] - 1)


def quantised(array: NDArray[Any], step: float | None) -> FloatImage:
    """Return exactly what a reader gets of `array`: float32, rounded to multiples of `step` (None: as it is).

    Zero stays zero. Raises DataError where a value is not finite or above 2^31 steps.
    """
    if step is None:
        return np.asarray(array, np.float32)
    counts = _counts(array, step)
    counts *= np.float32(step)
    counts += np.float32(0.0)  # no negative zero
    return counts


def _counts(array: NDArray[Any], step: float) -> FloatImage:
    """Return whole numbers of steps, as float32: exact, as a float32 beyond 2^24 steps is whole already."""
    if math.frexp(step)[0] != 0.5:
        raise ValueError(f"the step {step} is no power of two")
    counts = np.asarray(array, np.float32) * np.float32(1.0 / step)
    np.rint(counts, out=counts)
    if counts.size and not max(-float(counts.min()), float(counts.max())) < _LIMIT:
        raise DataError(
            f"an image with NaN, or with a value above {_LIMIT} times its step {step}, can't be stored: mask what has "
            "no value, and set it to 0"
        )
    return counts


@dataclass(frozen=True)
class TileFormat:
    """How an image is cut and stored."""

    shape: tuple[int, ...]
    """(height, width), or (pages, height, width)."""
    bitpix: int
    """Of the pixels that a reader gets."""
    step: float | None = None
    """Of real numbers; None for whole and lossless ones."""
    pages: int = 1
    """Of a tile."""


def tiled_hdu(
    name: str, array: NDArray[Any], step: float | None = None, cards: Cards = (), *, whole: bool = False
) -> bytes:
    """Return the HDU of an image (h, w) or cube (k, h, w) of whole numbers or float32.

    A tile is a page, or with `whole` all of them. Raises DataError as `quantised`.
    """
    cube = array if array.ndim == 3 else array[None]
    pages = len(cube) if whole else 1
    tiles = [packed(cube[first : first + pages], step) for first in range(0, len(cube), pages)]
    return tiled_hdu_of(name, tiles, TileFormat(array.shape, BITPIX[array.dtype], step, pages), cards)


def tiled_hdu_of(name: str, tiles: Sequence[bytes], form: TileFormat, cards: Cards = ()) -> bytes:
    """Return the HDU of tiles that `packed` made."""
    axes = list(reversed(form.shape))
    cut = [*axes[:2], *([form.pages] if len(axes) > 2 else [])]
    columns = [("TTYPE1", "COMPRESSED_DATA"), ("TFORM1", f"1PB({max(map(len, tiles), default=0)})")]
    if form.step is not None:
        columns += [("TTYPE2", "ZSCALE"), ("TFORM2", "1D"), ("TTYPE3", "ZZERO"), ("TFORM3", "1D")]
    rows = np.zeros(len(tiles), _LOSSLESS if form.step is None else _SCALED)
    rows["length"] = [len(tile) for tile in tiles]
    rows["offset"] = np.cumsum(rows["length"], dtype=np.int64) - rows["length"]
    if form.step is not None:
        rows["scale"], rows["zero"] = form.step, -_OFFSET * form.step
    heap = b"".join(tiles)
    if len(heap) >= 2**31:
        raise ValueError(f"{len(heap)} bytes in {name}: a heap of a FITS table with 32-bit descriptors holds 2^31")
    quantisation = [] if form.bitpix > 0 else [("ZQUANTIZ", "NONE" if form.step is None else "NO_DITHER")]
    described = [
        *[("XTENSION", "BINTABLE"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", rows.itemsize), ("NAXIS2", len(rows))],
        *[("PCOUNT", len(heap)), ("GCOUNT", 1), ("TFIELDS", len(columns) // 2), *columns],
        *[("ZIMAGE", True, "tile-compressed image"), ("ZTENSION", "IMAGE"), ("ZBITPIX", form.bitpix)],
        *[("ZNAXIS", len(axes)), *((f"ZNAXIS{axis + 1}", side) for axis, side in enumerate(axes))],
        *[("ZPCOUNT", 0), ("ZGCOUNT", 1), *((f"ZTILE{axis + 1}", side) for axis, side in enumerate(cut))],
        *[("ZCMPTYPE", "GZIP_2"), *quantisation, ("EXTNAME", name)],
    ]
    return hdu_bytes([*described, *cards], rows.tobytes() + heap)


def packed(tile: NDArray[Any], step: float | None = None) -> bytes:
    """Return the gzip stream of a tile's bytes, the most significant of all pixels first.

    Raises DataError as `quantised`.
    """
    if step is not None:
        counts = _counts(tile, step).astype(np.int32)
        counts += _OFFSET
        tile = counts
    size = tile.dtype.itemsize
    stored = tile.astype(tile.dtype.newbyteorder(">")).reshape(-1).view(np.uint8)
    planes = np.ascontiguousarray(stored.reshape(-1, size).T)
    parts = [_deflated(plane, last=number == size - 1) for number, plane in enumerate(planes)]
    tail = zlib.crc32(planes.data).to_bytes(4, "little") + planes.nbytes.to_bytes(4, "little")
    return b"".join([_GZIP_HEAD, *parts, tail])


def _deflated(plane: NDArray[np.uint8], *, last: bool) -> bytes:
    """Return a piece of a deflate stream (RFC 1951) that ends at a whole byte, and the stream where it is the last."""
    if not plane.any():
        return _zeros(plane.size, last=last)
    if np.count_nonzero(plane[1:] == plane[:-1]) > plane.size // 2:
        return _stream(plane.data, _RUNS, last=last)
    middle = plane[plane.size // 2 :][:_SAMPLE]
    noise = len(_stream(middle.data, _CODES, last=True)) > _WORTH * middle.size
    return _stream(plane.data, _AS_IT_IS if noise else _CODES, last=last)


@lru_cache(maxsize=64)
def _zeros(size: int, *, last: bool) -> bytes:
    return _stream(bytes(size), _RUNS, last=last)


def _stream(data: bytes | memoryview, way: tuple[int, int], *, last: bool) -> bytes:
    level, strategy = way
    deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return deflate.compress(data) + deflate.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)


@dataclass(frozen=True)
class TileIndex:
    """Where the tiles of an image are, and how they are read."""

    form: TileFormat
    rows: NDArray[Any]
    """Length, offset in the heap and, of real numbers with a step, scale and zero of each tile."""
    heap: int
    """Where the heap begins: in the data of the HDU, or in the file."""
    end: int
    """Where it ends."""

    def __len__(self) -> int:
        """Return how many tiles there are."""
        return len(self.rows)

    def place(self, number: int) -> tuple[int, int]:
        """Return where a tile begins, and its bytes; ValueError where that is outside the heap."""
        length, offset = int(self.rows["length"][number]), int(self.rows["offset"][number])
        start = self.heap + offset
        if length < 0 or offset < 0 or start + length > self.end:
            raise ValueError(f"tile {number} lies outside its heap")
        return start, length

    def tile(self, number: int, stream: bytes | memoryview) -> NDArray[Any]:
        """Return the pixels of a tile, (h, w) or (pages, h, w), from its bytes; ValueError where they are damaged."""
        shape = self.form.shape if len(self.form.shape) == 2 else (self.form.pages, *self.form.shape[1:])
        stored = np.dtype(np.int32 if self.form.step is not None else PIXELS[self.form.bitpix]).newbyteorder("<")
        size = stored.itemsize * math.prod(shape)
        try:
            data = zlib.decompress(stream, 16 + zlib.MAX_WBITS, size)
        except zlib.error as error:
            raise ValueError(f"tile {number} is damaged: {error}") from error
        if len(data) != size:
            raise ValueError(f"tile {number} holds {len(data)} bytes and not {size}")
        joined = np.zeros(size // stored.itemsize, stored)
        by_byte = joined.view(np.uint8).reshape(-1, stored.itemsize)
        for byte, plane in enumerate(np.frombuffer(data, np.uint8).reshape(stored.itemsize, -1)[::-1]):
            if plane.any():
                by_byte[:, byte] = plane
        native = joined.astype(stored.newbyteorder("="), copy=False).reshape(shape)
        return native if self.form.step is None else _values(native, self.form.step)


def _values(counts: NDArray[np.int32], step: float) -> FloatImage:
    counts -= _OFFSET
    values = counts.astype(np.float32)
    values *= np.float32(step)
    return values


def tile_index(cards: Mapping[str, Any], rows: bytes | memoryview, start: int, end: int) -> TileIndex:
    """Return the index of a compressed image whose data (table `rows`, then heap) lie from `start` to `end`.

    ValueError for one that is not as `tiled_hdu` writes them.
    """
    bitpix, names = int(cards["ZBITPIX"]), [cards.get(f"TTYPE{n + 1}") for n in range(int(cards["TFIELDS"]))]
    scaled = names == ["COMPRESSED_DATA", "ZSCALE", "ZZERO"]
    if cards["ZCMPTYPE"] != "GZIP_2" or not (scaled or names == ["COMPRESSED_DATA"]):
        raise ValueError(f"compressed with {cards['ZCMPTYPE']} in columns {names}: not a file of ours")
    shape = tuple(int(cards[f"ZNAXIS{axis}"]) for axis in range(int(cards["ZNAXIS"]), 0, -1))
    pages = int(cards["ZTILE3"]) if len(shape) == 3 else 1
    table = np.frombuffer(rows, _SCALED if scaled else _LOSSLESS, int(cards["NAXIS2"]))
    if len(table) * pages != (shape[0] if len(shape) == 3 else 1):
        raise ValueError(f"{len(table)} tiles of {pages} pages for a cube of {shape}")
    step = float(table["scale"][0]) if scaled and len(table) else None
    if step is not None and not (
        math.frexp(step)[0] == 0.5 and (table["scale"] == step).all() and (table["zero"] == -_OFFSET * step).all()
    ):
        raise ValueError("steps other than one power of two: not a file of ours")
    return TileIndex(TileFormat(shape, bitpix, step, pages), table, start + table.nbytes, end)


def pixels(hdu: PlainHdu) -> NDArray[Any]:
    """Return the pixels of an image in native byte order, tile-compressed or plain; ValueError where it is damaged."""
    if not hdu.cards.get("ZIMAGE"):
        return hdu.image()
    index = tile_index(hdu.cards, hdu.data[: int(hdu.cards["NAXIS1"]) * int(hdu.cards["NAXIS2"])], 0, len(hdu.data))
    places = [index.place(number) for number in range(len(index))]
    tiles = [index.tile(number, hdu.data[at : at + size]) for number, (at, size) in enumerate(places)]
    if len(tiles) == 1:
        return tiles[0].reshape(index.form.shape)
    return np.stack(tiles).reshape(index.form.shape) if tiles else np.zeros(index.form.shape, np.float32)


def file_tiles(file: int, hdu: FileHdu) -> TileIndex:
    """Return the index of a compressed image in an open file (descriptor); ValueError as `tile_index`."""
    rows = os.pread(file, int(hdu.cards["NAXIS1"]) * int(hdu.cards["NAXIS2"]), hdu.start)
    return tile_index(hdu.cards, rows, hdu.start, hdu.end)
