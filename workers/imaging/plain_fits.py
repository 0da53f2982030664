"""FITS files of our own making, read and written without astropy, which takes ten times as long.

Only what this project writes: plain image extensions and binary tables of fixed columns (tile-compressed images are in
`tiled_fits`). Anything else is a ValueError.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BITPIX",
    "PIXELS",
    "Cards",
    "FileHdu",
    "PlainHdu",
    "file_hdus",
    "hdu_bytes",
    "header_at",
    "image_hdu",
    "plain_hdus",
    "primary_hdu",
    "table_hdu",
]

Cards = Iterable[tuple[Any, ...]]
"""Keyword, value and, where there is one, comment of each card."""
_BLOCK = 2880
PIXELS = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
"""Stored type of the pixels by BITPIX."""
BITPIX = {np.dtype(stored).newbyteorder("="): bits for bits, stored in PIXELS.items()}
"""BITPIX by type in memory."""
_CODES = {"i2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D", "u1": "B"}


@dataclass(frozen=True)
class PlainHdu:
    """Cards by key, and the bytes of the data."""

    cards: Mapping[str, Any]
    data: memoryview

    @property
    def name(self) -> str:
        """EXTNAME; ``PRIMARY`` for the first one."""
        return str(self.cards.get("EXTNAME", "PRIMARY"))

    def intact(self) -> bool:
        """Tell whether the data have the checksum that the header gives; true where it gives none."""
        if "DATASUM" not in self.cards:
            return True
        return _sum32(self.data) == int(self.cards["DATASUM"])

    def image(self) -> NDArray[Any]:
        """Return the pixels in native byte order."""
        shape = [int(self.cards[f"NAXIS{axis}"]) for axis in range(int(self.cards["NAXIS"]), 0, -1)]
        stored = np.dtype(PIXELS[int(self.cards["BITPIX"])])
        pixels = np.frombuffer(self.data, stored, math.prod(shape)).reshape(shape)
        return pixels.astype(stored.newbyteorder("="))

    def table(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the rows of a table whose columns are those of `dtype`; ValueError for another one."""
        names = [self.cards.get(f"TTYPE{column + 1}") for column in range(int(self.cards["TFIELDS"]))]
        if names != list(dtype.names or ()) or self.cards["NAXIS1"] != dtype.itemsize:
            raise ValueError(f"columns {names} instead of {dtype.names}")
        return np.frombuffer(self.data, dtype.newbyteorder(">"), int(self.cards["NAXIS2"])).astype(dtype)


def plain_hdus(data: bytes) -> dict[str, PlainHdu]:
    """Return the HDUs of a file by EXTNAME; ValueError where it is cut short or no FITS file of ours."""
    found: dict[str, PlainHdu] = {}
    position, view = 0, memoryview(data)
    while position < len(data):
        cards, position = header_at(data, position)
        end = _end(cards, position, len(data))
        hdu = PlainHdu(cards, view[position:end])
        found[hdu.name] = hdu
        position = end
    return found


@dataclass(frozen=True)
class FileHdu:
    """An HDU of a file on disk: cards by key, and where its data begin and (padded) end."""

    cards: Mapping[str, Any]
    start: int
    end: int


def file_hdus(file: int) -> dict[str, FileHdu]:
    """Return the HDUs of an open file (descriptor) by EXTNAME; headers only are read.

    ValueError as `plain_hdus`, and where a header's checksum is wrong.
    """
    found: dict[str, FileHdu] = {}
    position, length = 0, os.fstat(file).st_size
    while position < length:
        wanted, head = _BLOCK, os.pread(file, _BLOCK, position)
        while len(head) == wanted and not _holds_end(head):  # most headers have one block
            wanted *= 2
            head = os.pread(file, wanted, position)
        cards, size = header_at(head, 0)
        if "CHECKSUM" in cards and (_sum32(head[:size]) + int(cards["DATASUM"])) % 0xFFFFFFFF:
            raise ValueError("the checksum of a header is wrong")
        start = position + size
        position = _end(cards, start, length)
        found[str(cards.get("EXTNAME", "PRIMARY"))] = FileHdu(cards, start, position)
    return found


def _holds_end(head: bytes) -> bool:
    return any(head[start : start + 8] == b"END     " for start in range(0, len(head), 80))


def _end(cards: Mapping[str, Any], start: int, length: int) -> int:
    """Return where data that begin at `start` end, with their padding; ValueError where a file of `length` is cut."""
    shape = [int(cards[f"NAXIS{axis + 1}"]) for axis in range(int(cards["NAXIS"]))]
    size = abs(int(cards["BITPIX"])) // 8 * math.prod(shape) + int(cards.get("PCOUNT", 0)) if shape else 0
    end = start + -(-size // _BLOCK) * _BLOCK
    if size < 0 or end > length:
        raise ValueError(f"cut short: an HDU needs {size} bytes of data, {max(length - start, 0)} are left")
    return end


def _sum32(data: bytes | memoryview) -> int:
    """Return the ones'-complement sum of 32-bit words (FITS standard 4.0, appendix J)."""
    total = int(np.frombuffer(data, ">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def header_at(data: bytes, position: int) -> tuple[dict[str, Any], int]:
    """Return the cards of the header at `position`, and where its data begin."""
    cards: dict[str, Any] = {}
    for start in range(position, len(data), 80):
        card = data[start : start + 80]
        if card.startswith(b"END     "):
            return cards, position + -(-(start + 80 - position) // _BLOCK) * _BLOCK
        read = _read(card)
        if read is not None:
            cards[read[0]] = read[1]
    raise ValueError("cut short in a header")


@lru_cache(maxsize=4096)
def _read(card: bytes) -> tuple[str, Any] | None:
    """Return keyword and value of a card, None where it has none; most cards are the same in many files."""
    if card[8:10] == b"= ":
        return card[:8].rstrip().decode("ascii"), _value(card[10:].decode("ascii"))
    if card.startswith(b"HIERARCH"):
        name, _, text = card[9:].decode("ascii").partition("=")
        return name.strip(), _value(text)
    return None


def _value(text: str) -> Any:
    """Return what a card says: text, a truth value, a whole number, a number."""
    text = text.lstrip()
    if text.startswith("'"):
        end = text.find("'", 1)
        while end >= 0 and text[end + 1 : end + 2] == "'":
            end = text.find("'", end + 2)
        if end < 0:
            raise ValueError(f"a card's text has no end: {text}")
        return text[1:end].replace("''", "'").rstrip()
    word = text.split("/", 1)[0].strip()
    if word in ("T", "F"):
        return word == "T"
    return float(word) if any(mark in word for mark in ".EDN") else int(word) if word else None


def primary_hdu(cards: Cards, extensions: int) -> bytes:
    """Return a primary HDU without data, of a file with that many extensions; no date is written."""
    first = [("SIMPLE", True, "FITS standard"), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True)]
    return hdu_bytes([*first, *cards, ("NEXTEND", extensions, "extensions that follow")], b"")


def image_hdu(name: str, pixels: NDArray[Any], cards: Cards = ()) -> bytes:
    """Return a plain image extension."""
    axes = [(f"NAXIS{axis + 1}", side) for axis, side in enumerate(reversed(pixels.shape))]
    bits = BITPIX[pixels.dtype]
    first = [("XTENSION", "IMAGE"), ("BITPIX", bits), ("NAXIS", pixels.ndim), *axes, ("PCOUNT", 0), ("GCOUNT", 1)]
    return hdu_bytes([*first, ("EXTNAME", name), *cards], pixels.astype(PIXELS[bits]).tobytes())


def table_hdu(name: str, rows: NDArray[Any], cards: Cards = ()) -> bytes:
    """Return a binary table of a structured array whose columns are numbers or ASCII texts (S)."""
    columns: list[tuple[str, str]] = []
    for number, column in enumerate(rows.dtype.names or (), start=1):
        kind = rows.dtype[column]
        code = f"{kind.itemsize}A" if kind.kind == "S" else _CODES[kind.str[1:]]
        columns += [(f"TTYPE{number}", column), (f"TFORM{number}", code)]
    first = [("XTENSION", "BINTABLE"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", rows.dtype.itemsize)]
    first += [("NAXIS2", len(rows)), ("PCOUNT", 0), ("GCOUNT", 1), ("TFIELDS", len(columns) // 2)]
    return hdu_bytes([*first, *columns, ("EXTNAME", name), *cards], rows.astype(rows.dtype.newbyteorder(">")).tobytes())


def hdu_bytes(cards: Cards, data: bytes) -> bytes:
    """Return an HDU with these cards, then DATASUM and CHECKSUM (FITS standard 4.0, section 4.4.2.7), and its data."""
    data += bytes(-len(data) % _BLOCK)
    total = _sum32(data)
    texts = [*(_card(*card) for card in cards), _card("DATASUM", str(total)), _card("CHECKSUM", "0" * 16), "END"]
    head = "".join(text.ljust(80) for text in texts).encode("ascii")
    head += b" " * (-len(head) % _BLOCK)
    whole = _sum32(head) + total
    whole = (whole & 0xFFFFFFFF) + (whole >> 32)
    place = (len(texts) - 2) * 80 + 11
    return b"".join([head[:place], _checksum(whole), head[place + 16 :], data])


def _checksum(total: int) -> bytes:
    """Return the complement of a sum as 16 letters and digits (FITS standard 4.0, appendix J.2)."""
    columns = [_letters(byte) for byte in (0xFFFFFFFF - total).to_bytes(4, "big")]
    text = bytes(column[row] for row in range(4) for column in columns)
    return text[-1:] + text[:-1]


@lru_cache(maxsize=256)
def _letters(byte: int) -> bytes:
    """Return four letters or digits whose codes, less that of 0, have the sum `byte`."""
    four = [byte // 4 + 48 + byte % 4, *[byte // 4 + 48] * 3]
    while not bytes(four).isalnum():
        for pair in (0, 2):  # one up, one down: the sum stays
            if not bytes(four[pair : pair + 2]).isalnum():
                four[pair], four[pair + 1] = four[pair] + 1, four[pair + 1] - 1
    return bytes(four)


@lru_cache(maxsize=4096, typed=True)
def _card(key: str, value: Any, comment: str = "") -> str:
    """Return a card of at most 80 characters; a comment that is too long is cut, a value that is, a ValueError."""
    key = key.removeprefix("HIERARCH ")
    short = len(key) <= 8 and key.isupper()
    text = (f"{key:8}= " if short else f"HIERARCH {key} = ") + _worded(value)
    if len(text) > 80:
        raise ValueError(f"the FITS card {key} = {value!r} is longer than 80 characters")
    return f"{text} / {comment}"[:80] if comment else text


def _worded(value: Any) -> str:
    """Return a value as FITS writes it: all digits of a number, zero without a sign; what is not finite as text."""
    if isinstance(value, bool):
        return f"{'T' if value else 'F':>20}"
    if isinstance(value, float) and math.isfinite(value):
        digits, mark, power = repr(float(value) + 0.0).partition("e")
        digits += "" if "." in digits else ".0"
        return f"{f'{digits}E{power}' if mark else digits:>20}"
    if isinstance(value, int):
        return f"{value:>20}"
    return f"'{str(value).replace(chr(39), chr(39) * 2):8}'"
