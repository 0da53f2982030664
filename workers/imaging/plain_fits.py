"""FITS files of our own making, read without astropy: a template cell in half a millisecond instead of ten.

Only what this project writes: plain image extensions and binary tables of fixed columns. Anything else is a ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PlainHdu", "header_at", "plain_hdus"]

_BLOCK = 2880
_PIXELS = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


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
        total = int(np.frombuffer(self.data, ">u4").sum(dtype=np.uint64))
        while total >> 32:
            total = (total & 0xFFFFFFFF) + (total >> 32)
        return total == int(self.cards["DATASUM"])

    def image(self) -> NDArray[Any]:
        """Return the pixels in native byte order."""
        shape = [int(self.cards[f"NAXIS{axis}"]) for axis in range(int(self.cards["NAXIS"]), 0, -1)]
        stored = np.dtype(_PIXELS[int(self.cards["BITPIX"])])
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
        shape = [int(cards[f"NAXIS{axis + 1}"]) for axis in range(int(cards["NAXIS"]))]
        size = abs(int(cards["BITPIX"])) // 8 * math.prod(shape) + int(cards.get("PCOUNT", 0)) if shape else 0
        padded = -(-size // _BLOCK) * _BLOCK
        if size < 0 or position + padded > len(data):
            raise ValueError(f"cut short: an HDU needs {size} bytes of data, {max(len(data) - position, 0)} are left")
        hdu = PlainHdu(cards, view[position : position + padded])
        found[hdu.name] = hdu
        position += padded
    return found


def header_at(data: bytes, position: int) -> tuple[dict[str, Any], int]:
    """Return the cards of the header at `position`, and where its data begin."""
    cards: dict[str, Any] = {}
    for start in range(position, len(data), 80):
        key = data[start : start + 8]
        if key == b"END     ":
            return cards, position + -(-(start + 80 - position) // _BLOCK) * _BLOCK
        if data[start + 8 : start + 10] == b"= ":
            cards[key.rstrip().decode("ascii")] = _value(data[start + 10 : start + 80].decode("ascii"))
        elif key == b"HIERARCH":
            name, _, text = data[start + 9 : start + 80].decode("ascii").partition("=")
            cards[name.strip()] = _value(text)
    raise ValueError("cut short in a header")


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
