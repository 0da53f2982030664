"""Stamps: the same square cut round each source out of the difference, science and template images."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.exposure import Exposure, FloatImage, MaskImage
from workers.imaging.masks import MaskPlane

__all__ = ["Stamps", "cut", "from_bytes", "to_bytes"]


@dataclass(frozen=True)
class Stamps:
    """n stamps of S x S pixels per plane; pixel (S//2, S//2) is the pixel (round(x), round(y)) of the source.

    Images and variances float32 in nJy and nJy², masks int32 of MaskPlane bits; outside the image: NaN and NO_DATA.
    PSFs float32 (n, P, P), unit sum, centred on the middle pixel.
    """

    difference: FloatImage
    differenceVariance: FloatImage
    differenceMask: MaskImage
    differencePsf: FloatImage
    science: FloatImage
    scienceVariance: FloatImage
    scienceMask: MaskImage
    sciencePsf: FloatImage
    template: FloatImage
    templateVariance: FloatImage
    templateMask: MaskImage
    templatePsf: FloatImage

    def __len__(self) -> int:
        """Number of sources."""
        return len(self.difference)


def cut(
    exposure: Exposure, x: NDArray[np.floating], y: NDArray[np.floating], size: int
) -> tuple[FloatImage, FloatImage, MaskImage, FloatImage]:
    """Return image, variance, mask (n, size, size) and PSF (n, P, P) stamps of one exposure at pixel positions."""
    half = size // 2
    ys = np.round(y).astype(int)[:, None, None] + np.arange(-half, half + 1)[None, :, None]
    xs = np.round(x).astype(int)[:, None, None] + np.arange(-half, half + 1)[None, None, :]
    height, width = exposure.shape
    outside = (ys < 0) | (ys >= height) | (xs < 0) | (xs >= width)
    rows, columns = np.clip(ys, 0, height - 1), np.clip(xs, 0, width - 1)
    image = np.where(outside, np.float32(np.nan), exposure.image[rows, columns])
    variance = np.where(outside, np.float32(np.nan), exposure.variance[rows, columns])
    mask = np.where(outside, np.int32(MaskPlane.NO_DATA), exposure.mask[rows, columns])
    psf = exposure.need_psf()
    psfs = psf.stamps(x, y).astype(np.float32) if len(x) else np.zeros((0, psf.size, psf.size), np.float32)
    return image, variance, mask.astype(np.int32), psfs


def to_bytes(stamps: Stamps) -> bytes:
    """Return the stamps as one npz file (uncompressed, the same bytes for the same arrays)."""
    buffer = io.BytesIO()
    np.savez(buffer, **{item.name: getattr(stamps, item.name) for item in fields(stamps)})
    return buffer.getvalue()


def from_bytes(data: bytes) -> Stamps:
    """Read stamps back; raises DataError where the bytes are not what `to_bytes` wrote."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return Stamps(**{item.name: archive[item.name] for item in fields(Stamps)})
    except (ValueError, KeyError, OSError, EOFError, BadZipFile, TypeError) as error:
        raise DataError(
            f"the stamps can't be read ({error}); the payload is not one that the subtract stage wrote"
        ) from error
