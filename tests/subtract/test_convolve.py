import hashlib
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal

from workers.subtract.convolve import VaryingKernel, block_shape, blocks_near, convolve, grid_positions, grow, grow_bits


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 250), st.integers(1, 250), st.integers(0, 12), st.integers(0, 2**31))
def test_constant_kernel_agrees_with_scipy(height: int, width: int, half: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, kernel = rng.normal(size=(height, width)), rng.normal(size=(2 * half + 1, 2 * half + 1))
    ours = convolve(image, VaryingKernel.constant(kernel, (height, width)))
    full = signal.fftconvolve(image, kernel)[half : half + height, half : half + width]
    np.testing.assert_allclose(ours, full, atol=1e-4 * (1 + 2 * half))


def test_varying_kernel_is_the_one_at_the_middle_of_the_block() -> None:
    rng = np.random.default_rng(3)
    shape = (150, 290)
    kernel = VaryingKernel(rng.normal(size=(6, 7, 7)), 2, shape)
    image = rng.normal(size=shape)
    ours = convolve(image, kernel)
    for x, y in ((10, 20), (145, 75), (280, 140), (126, 3)):
        window = image[y - 3 : y + 4, x - 3 : x + 4]
        across, rows = block_shape(shape)
        middle = (x // across + 0.5) * across - 0.5, (y // rows + 0.5) * rows - 0.5
        np.testing.assert_allclose(ours[y, x], (window[::-1, ::-1] * kernel.at(*middle)[0]).sum(), atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_blocks_that_are_skipped_get_the_fill(seed: int, half: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((90, 200)) < 1e-4
    kernel = VaryingKernel.constant(np.ones((2 * half + 1, 2 * half + 1)), mask.shape)
    whole, some = convolve(mask, kernel), convolve(mask, kernel, blocks_near(mask, half), 0.0)
    np.testing.assert_allclose(some, whole, atol=1e-5)


def test_trimmed_keeps_the_sum_and_large_images_have_large_blocks() -> None:
    shape = (2100, 2100)
    axis = np.arange(-12, 13)
    gauss = np.exp(-0.5 * (axis[:, None] ** 2 + axis[None, :] ** 2) / 2.0**2)
    kernel = VaryingKernel.constant(gauss / gauss.sum(), shape)
    small = kernel.trimmed(1e-4)
    assert small.half < 8
    assert small.coefficients.sum() == pytest.approx(1.0)
    image = np.zeros(shape)
    image[1000, 1037] = image[2099, 2099] = 1.0
    ours = convolve(image, kernel)
    np.testing.assert_allclose(ours[988:1013, 1025:1050], gauss / gauss.sum(), atol=1e-7)
    assert ours[2099, 2099] == pytest.approx(1.0 / gauss.sum())


def test_fit_recovers_coefficients_and_sum_image_matches() -> None:
    rng = np.random.default_rng(4)
    kernel = VaryingKernel(rng.normal(size=(3, 5, 5)), 1, (60, 80))
    x, y = grid_positions(kernel.shape)
    again = VaryingKernel.fit(kernel.at(x, y), x, y, 1, kernel.shape)
    np.testing.assert_allclose(again.coefficients, kernel.coefficients, atol=1e-10)
    np.testing.assert_allclose(kernel.sum_image()[[0, 33], [79, 12]], kernel.at([79, 12], [0, 33]).sum((1, 2)), 1e-4)


def test_grow_is_a_disc() -> None:
    mask = np.zeros((140, 160), bool)
    mask[50, 60] = mask[139, 0] = True
    expected = ndimage.distance_transform_edt(~mask) <= 6
    np.testing.assert_array_equal(grow(mask, 6.0), expected)
    assert grow(mask, 0.5) is mask


SUMS = """
import hashlib, numpy as np
from workers.subtract.convolve import VaryingKernel, convolve

rng = np.random.default_rng(1)
image, kernel = rng.normal(size=(2100, 2100)), VaryingKernel(rng.normal(size=(6, 9, 9)), 2, (2100, 2100))
print(hashlib.sha256(convolve(image, kernel).tobytes()).hexdigest())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names features of x86-64")
def test_narrower_registers_give_the_same_bytes() -> None:
    older = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+sse4.2,+bmi,+bmi2,+popcnt"}
    done = subprocess.run(
        [sys.executable, "-c", SUMS], env={**os.environ, **older}, capture_output=True, text=True, check=True
    )
    rng = np.random.default_rng(1)
    image, kernel = rng.normal(size=(2100, 2100)), VaryingKernel(rng.normal(size=(6, 9, 9)), 2, (2100, 2100))
    assert done.stdout.strip() == hashlib.sha256(convolve(image, kernel).tobytes()).hexdigest()


@settings(max_examples=20, deadline=None)
@given(st.integers(20, 200), st.integers(1, 90), st.integers(0, 9), st.integers(0, 2**31))
def test_hidden_pixels_count_nothing_and_bands_make_up_the_whole(height: int, width: int, half: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, hidden = rng.normal(size=(height, width)), rng.random((height, width)) < 0.1
    kernel = VaryingKernel(rng.normal(size=(3, 2 * half + 1, 2 * half + 1)), 1, (height, width))
    expected = convolve(np.where(hidden, 0.0, image), kernel)
    image[hidden] = np.nan
    depth = block_shape((height, width))[1]
    bands = [
        convolve(image, kernel, hidden=hidden, rows=(first, first + 3 * depth)) for first in range(0, height, 3 * depth)
    ]
    np.testing.assert_array_equal(np.concatenate(bands), expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(1.0, 9.0))
def test_planes_grow_each_by_itself(seed: int, radius: float) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.choice(np.array([0, 1, 2, 4, 5, 7], np.int32), (70, 300), p=[0.99, *[0.002] * 5])
    grown = mask.copy()
    grow_bits(grown, 1 | 4, radius)
    for plane in (1, 2, 4):
        before = (mask & plane) != 0
        near = ndimage.distance_transform_edt(~before) <= radius if before.any() and plane != 2 else before
        np.testing.assert_array_equal((grown & plane) != 0, near)
