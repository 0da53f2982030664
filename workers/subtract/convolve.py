"""Convolution with a kernel that varies smoothly over the image: direct sums, the kernel anew for each small block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from workers.imaging.exposure import FloatImage, frozen_array
from workers.imaging.psf import PsfModel, polynomial_terms
from workers.subtract.taps import NARROW, ROWS, WIDE, narrow_taps, wide_taps

__all__ = [
    "VaryingKernel",
    "block_shape",
    "blocks_near",
    "convolve",
    "grid_positions",
    "grow",
    "grow_bits",
    "polynomial_row",
]

_Float = NDArray[np.float64]
_Bool = NDArray[np.bool_]
_LARGE = 2048
"""Pixels along a side, from which blocks are large: a kernel changes little over a thirtieth of the image."""


def grid_positions(shape: tuple[int, int], count: int = 5) -> tuple[_Float, _Float]:
    """Return pixel (x, y) of a `count` by `count` grid that spans an image of `shape`, float64 (count²,)."""
    x, y = np.meshgrid(np.linspace(0, shape[1] - 1, count), np.linspace(0, shape[0] - 1, count))
    return x.ravel(), y.ravel()


_READ = 64
"""Rows of an image that a convolution copies at once."""
_PIECE = 256
"""Pixels of a row looked at as one."""


@dataclass(frozen=True)
class VaryingKernel:
    """K(x, y) = sum_k t_k(u, v) coefficients[k]; u, v as in `PsfModel`, and no normalisation."""

    coefficients: _Float
    """Shape (terms, n, n), n odd."""
    degree: int
    shape: tuple[int, int]
    """(height, width) of the image: the domain of the polynomial."""

    @property
    def half(self) -> int:
        """Half width, pixels: the kernel is 2 half + 1 on a side."""
        return int(self.coefficients.shape[1]) // 2

    def terms(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return the polynomial terms at pixel positions, float64 (m, terms)."""
        u, v = (_scaled(np.asarray(p, float), n) for p, n in ((x, self.shape[1]), (y, self.shape[0])))
        return polynomial_terms(u, v, self.degree)

    def at(self, x: ArrayLike, y: ArrayLike) -> _Float:
        """Return the kernels at pixel positions, float64 (m, n, n)."""
        return np.asarray(np.tensordot(self.terms(x, y), self.coefficients, axes=1))

    def flipped(self) -> VaryingKernel:
        """Return the kernel turned by 180 degrees: convolving with it is correlating with this one."""
        return VaryingKernel(self.coefficients[:, ::-1, ::-1], self.degree, self.shape)

    def sums(self, count: int = 17) -> _Float:
        """Return the kernel's sum on a `count` by `count` grid over the image, float64 (count²,)."""
        return np.asarray(self.terms(*grid_positions(self.shape, count)) @ self.coefficients.sum(axis=(1, 2)))

    def sum_image(self) -> FloatImage:
        """Return the kernel's sum at each pixel, float32 of `shape`."""
        rows, u = self.row_polynomials()
        out = np.empty(self.shape, np.float32)
        for y in range(len(out)):
            polynomial_row(rows[y], u, out[y])
        return out

    def row_polynomials(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return, for `polynomial_row`, the kernel's sum along each row (height, degree + 1), and u (width,)."""
        sums, powers = self.coefficients.sum(axis=(1, 2)), _powers(self.degree)
        table = np.zeros((self.degree + 1, self.degree + 1))
        for value, (i, j) in zip(sums, powers, strict=True):
            table[j, i] = value
        u, v = (_scaled(np.arange(n, dtype=float), n) for n in self.shape[::-1])
        return (v[:, None] ** np.arange(self.degree + 1) @ table).astype(np.float32), u.astype(np.float32)

    def trimmed(self, share: float) -> VaryingKernel:
        """Return the kernel without the outer rows and columns that hold no more than `share` of its square's sum.

        By the one in the middle; what is left is scaled to keep the sum there.
        """
        height, width = self.shape
        square = np.square(self.at(0.5 * width, 0.5 * height)[0])
        away = np.abs(np.arange(-self.half, self.half + 1))
        ring = np.maximum(away[:, None], away[None, :]).ravel()
        held = np.cumsum(np.bincount(ring, weights=square.ravel()))
        half = int(np.argmax(held >= (1.0 - share) * held[-1]))
        part = slice(self.half - half, self.half + half + 1)
        inner = self.coefficients[:, part, part]
        whole = float(self.coefficients[0].sum())
        scale = whole / float(inner[0].sum()) if abs(whole) > 0.1 * np.abs(self.coefficients[0]).sum() else 1.0
        return VaryingKernel(inner * scale, self.degree, self.shape)

    @classmethod
    def fit(
        cls, kernels: NDArray[np.floating], x: ArrayLike, y: ArrayLike, degree: int, shape: tuple[int, int]
    ) -> VaryingKernel:
        """Fit the polynomial to kernels (m, n, n) given at m pixel positions, by least squares."""
        empty = cls(np.zeros((1, 1, 1)), degree, shape)
        flat = np.linalg.lstsq(empty.terms(x, y), kernels.reshape(len(kernels), -1), rcond=None)[0]
        return cls(flat.reshape(-1, *kernels.shape[1:]), degree, shape)

    @classmethod
    def from_psf(cls, psf: PsfModel) -> VaryingKernel:
        """Return a PSF model as a kernel (unit sum to the accuracy of the model's fit)."""
        psf = psf.on_pixels()
        return cls(psf.coefficients.astype(float), psf.degree, (psf.height, psf.width))

    @classmethod
    def constant(cls, kernel: NDArray[np.floating] | _Bool, shape: tuple[int, int]) -> VaryingKernel:
        """Return one kernel (n, n) for the whole image."""
        return cls(np.asarray(kernel, float)[None], 0, shape)


def convolve(
    image: NDArray[np.floating] | _Bool,
    kernel: VaryingKernel,
    active: _Bool | None = None,
    fill: float = 0.0,
    *,
    hidden: _Bool | None = None,
    rows: tuple[int, int] | None = None,
) -> FloatImage:
    """Return sum_d K(d; x) image[x - d], float32; outside the image is 0. `image` must be finite.

    The kernel is the one at the middle of a block of 16 rows and 64 pixels (4 and 16 in images below 2048 pixels).
    With `active`, blocks of `blocks_near` that are not are skipped and get the value `fill`. `hidden` pixels count as
    0, whatever they hold. `rows`: the first and the one after the last to return, the first that of a block.
    """
    across, depth = block_shape(kernel.shape)
    first, last = (0, kernel.shape[0]) if rows is None else (rows[0], min(rows[1], kernel.shape[0]))
    down, along = -(-(last - first) // depth), -(-kernel.shape[1] // across)
    x, y = (np.arange(along) + 0.5) * across - 0.5, first + (np.arange(down) + 0.5) * depth - 0.5
    terms = kernel.terms(np.tile(x, down), np.repeat(y, along)).astype(np.float32).reshape(down, along, -1)
    taps = np.ascontiguousarray(kernel.coefficients[:, ::-1, ::-1], dtype=np.float32)
    out = np.full((last - first, kernel.shape[1]), fill, np.float32)
    chosen = np.ones((down, along), bool) if active is None else active[first // depth :][:down]
    covered = np.zeros((0, 0), bool) if hidden is None else hidden
    plane = image if image.dtype == np.bool_ else np.asarray(image, np.float32)
    planes = [frozen_array(np.ascontiguousarray(one)) for one in (plane, covered)]
    _convolve(planes[0], planes[1], taps, terms, np.ascontiguousarray(chosen), (across, depth, first), out)
    return out


def block_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Return pixels along x and rows of a block of `convolve`."""
    return (WIDE, 4 * ROWS) if min(shape) >= _LARGE else (NARROW, ROWS)


def blocks_near(mask: _Bool, reach: int) -> _Bool:
    """Return the blocks of `convolve` that a pixel of `mask` (2-D) may lie within `reach` pixels of, bool."""
    across, rows = block_shape(_shape(mask))
    down, along = -(-mask.shape[0] // rows), -(-mask.shape[1] // across)
    found = np.zeros((down, along), bool)
    _touched(mask, rows, across, found)
    return np.asarray(
        ndimage.binary_dilation(found, np.ones((2 * -(-reach // rows) + 1, 2 * -(-reach // across) + 1), bool))
    )


def grow(mask: _Bool, radius: float) -> _Bool:
    """Return `mask` (bool, 2-D) grown by a disc of `radius` pixels."""
    if int(np.floor(radius)) < 1 or not mask.any():
        return mask
    grown = np.array(mask, order="C")
    grow_bits(grown.view(np.uint8), 1, radius)
    return grown


def grow_bits(mask: NDArray[Any], planes: int, radius: float, onto: NDArray[Any] | None = None, name: int = 0) -> None:
    """Grow each plane of `planes` in `mask` (integers, 2-D, contiguous) by a disc of `radius` pixels, in place.

    With `onto`, another mask of that shape, the discs are put there, as the plane `name`.
    """
    reach = int(np.floor(radius))
    if reach < 1:
        return
    chords = np.floor(np.sqrt(radius**2 - np.square(np.arange(-reach, reach + 1.0)))).astype(np.int64)
    source, bits = frozen_array(mask), mask.dtype.type(planes)
    edge = np.empty((_edges(source, bits, np.empty((0, 3), np.int64)), 3), np.int64)
    _edges(source, bits, edge)
    if name:
        edge[:, 2] = name
    _paint(edge, chords, mask if onto is None else onto)


@njit(cache=True, nogil=True)
def polynomial_row(coefficients: Any, u: Any, line: Any) -> None:  # pragma: no cover - compiled
    """Fill `line` with sum_i coefficients[i] u^i, all float32."""
    last = coefficients.size - 1
    line[:] = coefficients[last]
    for i in range(last - 1, -1, -1):
        for x in range(line.size):
            line[x] = line[x] * u[x] + coefficients[i]


@njit(cache=True, nogil=True)
def _kernel_at(taps: Any, terms: Any, turned: Any) -> None:  # pragma: no cover - compiled
    """Write the kernel to `turned`, between ROWS - 1 rows of zeros, its last row first."""
    n = taps.shape[1]
    for i in range(n):
        line = turned[ROWS - 2 + n - i]
        line[:] = 0.0
        for k in range(terms.size):
            weight, row = terms[k], taps[k, i]
            for j in range(n):
                line[j] += weight * row[j]


@njit(cache=True, nogil=True)
def _read(image: Any, hidden: Any, first: int, margin: int, strip: Any) -> None:  # pragma: no cover - compiled
    """Copy the image's rows from `first` on into `strip`, `margin` pixels from its left; 0 above and below."""
    height, width = image.shape
    for row in range(strip.shape[0]):
        y, line = first + row, strip[row, margin : margin + width]
        if y < 0 or y >= height:
            line[:] = 0.0
        elif hidden.size == 0:
            line[:] = image[y]
        else:
            pixels, covered = image[y], hidden[y]
            for x in range(width):
                line[x] = np.float32(0.0) if covered[x] else np.float32(pixels[x])


@njit(cache=True, nogil=True)
def _convolve(
    image: Any, hidden: Any, taps: Any, terms: Any, active: Any, block: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """Fill the active blocks of `out`; `block` = (pixels along x, WIDE or NARROW, rows, first row of `out`)."""
    n, (across, rows, first) = taps.shape[1], block
    half, per = n // 2, max(_READ // rows, 1)
    strip = np.zeros((per * rows + 2 * half, terms.shape[1] * across + 2 * half), np.float32)
    turned, sums = np.zeros((n + 2 * ROWS - 2, n), np.float32), np.empty((ROWS, across), np.float32)
    for down in range(terms.shape[0]):
        if down % per == 0:
            _read(image, hidden, first + down * rows - half, half, strip)
        for along in range(terms.shape[1]):
            if not active[down, along]:
                continue
            _kernel_at(taps, terms[down, along], turned)
            x, width = along * across, min(across, out.shape[1] - along * across)
            for part in range(0, rows, ROWS):
                y, sums[:] = down % per * rows + part, 0.0
                for i in range(n + ROWS - 1):
                    pixels, lines = strip[y + i, x:], turned[n + ROWS - 2 - i : n + 2 * ROWS - 2 - i]
                    if across == WIDE:
                        wide_taps(pixels, lines, sums)
                    else:
                        narrow_taps(pixels, lines, sums)
                for row in range(down * rows + part, min(down * rows + part + ROWS, out.shape[0])):
                    out[row, x : x + width] = sums[row - down * rows - part, :width]


@njit(cache=True, nogil=True)
def _touched(mask: Any, rows: int, across: int, found: Any) -> None:  # pragma: no cover - compiled
    """Mark the blocks that hold a flagged pixel."""
    height, width = mask.shape
    for y in range(height):
        for along in range(found.shape[1]):
            flagged = False
            for x in range(along * across, min((along + 1) * across, width)):
                flagged |= mask[y, x]
            if flagged:
                found[y // rows, along] = True


@njit(cache=True, nogil=True)
def _edges(mask: Any, planes: Any, found: Any) -> int:  # pragma: no cover - compiled
    """Count the pixels whose planes a neighbour lacks; write (row, column, planes) of them where `found` has room."""
    height, width = mask.shape
    count = 0
    for y in range(height):
        for begin in range(0, width, _PIECE):
            union = mask[y, begin]
            for x in range(begin, min(begin + _PIECE, width)):
                union |= mask[y, x]
            if union & planes == 0:
                continue
            for x in range(begin, min(begin + _PIECE, width)):
                bits = mask[y, x] & planes
                if bits == 0:
                    continue
                if 0 < x < width - 1 and 0 < y < height - 1:
                    common = mask[y, x - 1] & mask[y, x + 1] & mask[y - 1, x] & mask[y + 1, x]
                    if common & bits == bits:
                        continue
                if count < found.shape[0]:
                    found[count, 0], found[count, 1], found[count, 2] = y, x, bits
                count += 1
    return count


@njit(cache=True, nogil=True)
def _paint(found: Any, chords: Any, mask: Any) -> None:  # pragma: no cover - compiled
    """Paint discs round pixels (row, column, planes); `chords` the disc's half widths by row."""
    height, width = mask.shape
    reach = chords.size // 2
    for k in range(found.shape[0]):
        y, x, bits = found[k, 0], found[k, 1], found[k, 2]
        for row in range(max(y - reach, 0), min(y + reach + 1, height)):
            chord = chords[row - y + reach]
            for column in range(max(x - chord, 0), min(x + chord + 1, width)):
                mask[row, column] |= bits


def _shape(image: NDArray[np.generic]) -> tuple[int, int]:
    return int(image.shape[0]), int(image.shape[1])


def _scaled(position: _Float, size: int) -> _Float:
    """Pixel positions to [-1, 1] over the image."""
    return 2.0 * position / max(size - 1, 1) - 1.0


def _powers(degree: int) -> list[tuple[int, int]]:
    """Exponents (i, j) of u^i v^j in the order of `polynomial_terms`."""
    return [(total - j, j) for total in range(degree + 1) for j in range(total + 1)]
