"""Raw frames that are wrong in one way, or good ones that are taken at another time, made from one good frame."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.time import Time, TimeDelta
from numpy.typing import NDArray

__all__ = ["REFUSED", "blank", "other_bytes", "retaken"]


def _truncated(good: bytes) -> bytes:
    return good[: len(good) // 2]


def _not_fits(good: bytes) -> bytes:
    return b"<html>404 not found</html>" * 200


def _nan_wcs(good: bytes) -> bytes:
    start = good.index(b"CRVAL1  =")
    card = good[start : start + 80]
    return good.replace(card, f"CRVAL1  = {'NaN':>20}".ljust(80).encode())


def _wrong_shape(good: bytes) -> bytes:
    return _changed(good, lambda pixels: pixels[: len(pixels) // 2])


REFUSED: dict[str, Callable[[bytes], bytes]] = {
    "empty.fits": lambda good: b"",
    "truncated.fits": _truncated,
    "not_fits.fits": _not_fits,
    "nan_wcs.fits": _nan_wcs,
    "wrong_shape.fits": _wrong_shape,
}
"""What ingest refuses, by file name."""


def blank(good: bytes) -> bytes:
    """Return a frame whose pixels are all the same: only the pixel stages can tell."""
    return _changed(good, lambda pixels: np.full_like(pixels, 1000))


def other_bytes(good: bytes) -> bytes:
    """Return a frame of the same visit and detector in which one pixel differs."""

    def brighter(pixels: NDArray[Any]) -> NDArray[Any]:
        pixels[len(pixels) // 2, len(pixels) // 2] += 1
        return pixels

    return _changed(good, brighter)


def retaken(good: bytes, visit: int, minutes: float) -> bytes:
    """Return the frame as another `visit`, taken so many minutes later."""
    with fits.open(io.BytesIO(good)) as hdus:
        begin = Time(hdus[0].header["DATE-OBS"], format="isot", scale="utc") + TimeDelta(60.0 * minutes, format="sec")
    return _changed(good, lambda pixels: pixels, **{"EXPID": visit, "DATE-OBS": begin.isot})


def _changed(good: bytes, change: Callable[[NDArray[Any]], NDArray[Any]], **cards: object) -> bytes:
    with fits.open(io.BytesIO(good)) as hdus:
        hdu = fits.PrimaryHDU(change(hdus[0].data.copy()), header=hdus[0].header)
    hdu.header.update(cards)
    buffer = io.BytesIO()
    hdu.writeto(buffer)
    return buffer.getvalue()
