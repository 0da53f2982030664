"""Two filters that give both images the same PSF and the sum of their noises a flat spectrum.

Zackay, Ofek & Gal-Yam (2016), ApJ 830, 27, eq. 13. Both are bounded, so neither image needs to be the sharper one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from workers.subtract.basis import tapered

__all__ = ["preconvolved_filters", "proper_filters"]

_Float = NDArray[np.float64]
_Complex = NDArray[np.complex128]
_FLOOR = 1e-3
"""Of the transform of a PSF of unit sum: what is below tells nothing."""
_TOLD = 0.03
"""Of the transform of Q: from there on stars tell less of the kernel than the PSFs do."""
_ROUNDS = 10
_RIDGE = 1e-4
"""Of the squared change of the filters, beside the squared mismatch."""
_TRIMMED = 1e-6
"""Of a filter's sum of squares, cut off before the filters are matched."""
_TINY = 1e-300


def proper_filters(
    psfs: tuple[_Float, _Float],
    variances: tuple[_Float, _Float],
    ratio: _Float,
    half: int,
    shift: _Float | None = None,
) -> tuple[_Float, _Float]:
    """Return A (m, a, a) of unit sum and B (m, b, b), at most 2 `half` + 1 pixels on a side: D = A * n - B * r.

    `psfs` of new image and reference, (m, p, p) each and of unit sum; `variances` of their skies and the flux `ratio`
    F_n / F_r, (m,) each; `shift` (m, 2), pixels along x and y, of the reference against the new image. Cut to
    squares, A and B no longer give the same PSF to both images: they are changed a little so that they do.
    """
    size = fft.next_fast_len(psfs[0].shape[1] + psfs[1].shape[1] + 2 * half, real=True)
    new, reference = (_transform(stamps, size) for stamps in psfs)
    scale = ratio[:, None, None]
    floored = [plane + rest for plane, rest in zip((new, reference), _unseen(new, reference), strict=True)]
    plain, through = (variance[:, None, None] for variance in variances)
    noise = np.sqrt(plain * np.square(np.abs(floored[1])) + through * np.square(scale * np.abs(floored[0])))
    ours, theirs = floored[1] / noise, scale * floored[0] / noise
    if shift is not None:
        turn = _turn(shift, size)
        reference = reference * turn
        theirs = theirs * turn.conj()
    return _of_unit_sum(*_matched(*_squares(ours, theirs, half), scale * new, reference, size))


def preconvolved_filters(
    kernels: _Float, preconvolution: _Float, psfs: tuple[_Float, _Float], variances: tuple[_Float, _Float], half: int
) -> tuple[_Float, _Float]:
    """Return A (m, a, a) of unit sum and B (m, b, b), at most 2 `half` + 1 pixels on a side: D = A * n - B * r.

    `kernels` K (m, k, k) turn the reference r into n convolved with `preconvolution` Q (q, q), of unit sum; A and B are
    1 and H = K / Q over the root of the spectrum of the noise of n - H * r. Where Q leaves too little to tell H, the
    quotient of `psfs` (of n and r, (m, p, p) each, of unit sum) does. `variances` of the skies of n and r, (m,) each.
    """
    size = fft.next_fast_len(psfs[0].shape[1] + psfs[1].shape[1] + 2 * half, real=True)
    new, reference = (_transform(stamps, size) for stamps in psfs)
    floored = [plane + rest for plane, rest in zip((new, reference), _unseen(new, reference), strict=True)]
    wanted, before = _transform(kernels, size), _transform(preconvolution[None], size)
    models = kernels.sum(axis=(1, 2), keepdims=True) * floored[0] * _turn(_shift(wanted), size)
    seen = (wanted * before.conj() * floored[1] + _TOLD**2 * models) / (np.square(np.abs(before)) + _TOLD**2)
    powers = (np.square(np.abs(plane)) for plane in (floored[1], seen))
    noise = np.sqrt(sum(variance[:, None, None] * power for variance, power in zip(variances, powers, strict=True)))
    return _of_unit_sum(*_matched(*_squares(floored[1] / noise, seen / noise, half), seen, floored[1], size))


def _shift(transforms: _Complex) -> _Float:
    """Return the places (m, 2) of the kernels with these transforms, (x, y) in pixels from the middle: their phases."""
    size = transforms.shape[1]
    along, up = 2.0 * np.pi * fft.rfftfreq(size), 2.0 * np.pi * fft.fftfreq(size)[:, None]
    weight, phase = np.square(np.abs(transforms)), np.angle(transforms)
    slopes = [-(weight * wave * phase).sum(axis=(1, 2)) / (weight * wave**2).sum(axis=(1, 2)) for wave in (along, up)]
    return np.stack(slopes, axis=1)


def _squares(ours: _Complex | _Float, theirs: _Complex, half: int) -> tuple[_Float, _Float]:
    """Return the images of two transforms as tapered squares of at most 2 `half` + 1 pixels."""
    size = ours.shape[1]
    wide = _cut(_stamps(ours, size), half), _cut(_stamps(theirs, size), half)
    edge = tapered(np.arange(-half, half + 1) / (half + 1))
    a, b = (kernels * edge[:, None] * edge for kernels in wide)
    return _cut(a, _enough(a)), _cut(b, _enough(b))


def _of_unit_sum(a: _Float, b: _Float) -> tuple[_Float, _Float]:
    """Return both over the sum of A."""
    total = a.sum(axis=(1, 2), keepdims=True)
    return a / total, b / total


def _unseen(new: _Complex, reference: _Complex) -> tuple[_Float, _Float]:
    """Return what to add to the transforms where neither PSF has power: to the sharper, as if it went on being so.

    The quotients have a value there, noise stays white, and nothing changes where there is power.
    """
    power = np.square(np.abs(new)) + np.square(np.abs(reference))
    rest = _FLOOR**3 / (_FLOOR**2 + power)
    sharper = np.square(np.abs(reference)).sum() >= np.square(np.abs(new)).sum()
    nothing = np.zeros_like(rest)
    return (nothing, rest) if sharper else (rest, nothing)


def _matched(a: _Float, b: _Float, new: _Complex, reference: _Complex, size: int) -> tuple[_Float, _Float]:
    """Return A and B changed a little so that A * (scaled PSF of n) = B * (PSF of r): what is left of stars.

    Least squares of the difference of the two with a ridge on the change, by conjugate gradients.
    """
    halves = a.shape[1] // 2, b.shape[1] // 2

    def mismatch(ours: _Float, theirs: _Float) -> _Complex:
        return np.asarray(new * _transform(ours, size) - reference * _transform(theirs, size))

    def slope(error: _Complex) -> list[_Float]:
        sides = _stamps(new.conj() * error, size), _stamps(-reference.conj() * error, size)
        return [_cut(side, half) for side, half in zip(sides, halves, strict=True)]

    found, rest = [a, b], [-side for side in slope(mismatch(a, b))]
    step, square = rest, _products(rest, rest)
    for _ in range(_ROUNDS):
        bent = [one + _RIDGE * two for one, two in zip(slope(mismatch(*step)), step, strict=True)]
        far = square / np.maximum(_products(step, bent), _TINY)
        found = [one + far * two for one, two in zip(found, step, strict=True)]
        rest = [one - far * two for one, two in zip(rest, bent, strict=True)]
        before, square = square, _products(rest, rest)
        turn = square / np.maximum(before, _TINY)
        step = [one + turn * two for one, two in zip(rest, step, strict=True)]
    return found[0], found[1]


def _products(first: list[_Float], second: list[_Float]) -> _Float:
    """Return the inner products over both stacks, (m, 1, 1)."""
    products = [(one * two).sum(axis=(1, 2), keepdims=True) for one, two in zip(first, second, strict=True)]
    return np.asarray(products[0] + products[1])


def _enough(kernels: _Float) -> int:
    """Return the half width that holds all but a share of `_TRIMMED` of the squares' sum."""
    half = kernels.shape[1] // 2
    away = np.abs(np.arange(-half, half + 1))
    ring = np.maximum(away[:, None], away[None, :]).ravel()
    held = np.cumsum(np.bincount(ring, weights=np.square(kernels).sum(axis=0).ravel()))
    return int(np.argmax(held >= (1.0 - _TRIMMED) * held[-1]))


def _transform(stamps: _Float, size: int) -> _Complex:
    """Return the transforms of stamps whose middle is the origin, (m, size, size // 2 + 1)."""
    n = stamps.shape[1]
    padded = np.zeros((len(stamps), size, size))
    padded[:, :n, :n] = stamps
    return np.asarray(fft.rfft2(np.roll(padded, (-(n // 2), -(n // 2)), axis=(1, 2)), axes=(1, 2)))


def _stamps(transforms: _Complex | _Float, size: int) -> _Float:
    """Return the images of the transforms, the origin in the middle pixel (size // 2)."""
    return np.asarray(fft.fftshift(fft.irfft2(transforms, s=(size, size), axes=(1, 2)), axes=(1, 2)))


def _cut(stamps: _Float, half: int) -> _Float:
    """Return the inner 2 `half` + 1 pixels of stamps whose origin is at pixel n // 2."""
    middle = stamps.shape[1] // 2
    part = slice(middle - half, middle + half + 1)
    return stamps[:, part, part]


def _turn(shift: _Float, size: int) -> _Complex:
    """Return the transform of a shift by (x, y) pixels, (m, size, size // 2 + 1)."""
    along, up = 2.0 * np.pi * fft.rfftfreq(size), 2.0 * np.pi * fft.fftfreq(size)
    phase = shift[:, 0, None, None] * along + shift[:, 1, None, None] * up[:, None]
    return np.asarray(np.exp(-1j * phase))
