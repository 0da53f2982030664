import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal

from workers.subtract.convolve import VaryingKernel, convolve, grid_positions, grow


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 250), st.integers(1, 250), st.integers(0, 12), st.integers(0, 2**31))
def test_constant_kernel_agrees_with_scipy(height: int, width: int, half: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, kernel = rng.normal(size=(height, width)), rng.normal(size=(2 * half + 1, 2 * half + 1))
    ours = convolve(image, VaryingKernel.constant(kernel, (height, width)))
    full = signal.fftconvolve(image, kernel)[half : half + height, half : half + width]
    np.testing.assert_allclose(ours, full, atol=1e-4 * (1 + 2 * half))


def test_varying_kernel_is_the_one_at_the_output_pixel() -> None:
    rng = np.random.default_rng(3)
    shape = (150, 290)
    kernel = VaryingKernel(rng.normal(size=(6, 7, 7)), 2, shape)
    image = rng.normal(size=shape)
    ours = convolve(image, kernel)
    for x, y in ((10, 20), (145, 75), (280, 140), (126, 3)):
        window = image[y - 3 : y + 4, x - 3 : x + 4]
        assert ours[y, x] == np.float32(ours[y, x])
        np.testing.assert_allclose(ours[y, x], (window[::-1, ::-1] * kernel.at(x, y)[0]).sum(), atol=1e-4)


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
