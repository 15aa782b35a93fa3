"""The stride-2 convolutions agree with XLA's and with NumPy."""

import jax
import numpy as np
import pytest
from jax import lax

from anogan_jax.layers import conv_down, conv_up

NHWC = ("NHWC", "HWIO", "NHWC")
SHAPES = [  # N, H, W of the smaller image, channels, features, kernel size; thin and wide, square and not
    (1, 1, 1, 1, 1, 4),
    (2, 4, 3, 3, 17, 4),
    (1, 2, 4, 17, 1, 5),
    (3, 3, 3, 16, 16, 5),
    (2, 1, 4, 17, 17, 4),
]


def native_up(x, kernel):
    return lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=NHWC)


def native_down(x, kernel):
    return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=NHWC)


@pytest.mark.parametrize(("ours", "native", "factor"), [(conv_down, native_down, 2), (conv_up, native_up, 1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_convolutions_and_their_gradients_agree_with_xla(ours, native, factor, shape):
    batch, height, width, channels, features, size = shape
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, factor * height, factor * width, channels)).astype(np.float32)
    kernel = rng.normal(size=(size, size, channels, features)).astype(np.float32)
    cotangent = rng.normal(size=jax.eval_shape(native, x, kernel).shape).astype(np.float32)

    @jax.jit
    def outputs(x, kernel, cotangent):
        """Return the result and both gradients, of ours and of XLA's."""
        results = []
        for convolve in (ours, native):
            result, gradients = jax.vjp(convolve, x, kernel)
            results.append((result, *gradients(cotangent)))
        return results

    for mine, theirs in zip(*outputs(x, kernel, cotangent), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [4, 5])
def test_conv_down_is_a_sum_over_windows(size):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 6, 8, 3)), rng.normal(size=(size, size, 3, 2))
    before = (size - 2) // 2
    padded = np.pad(x, ((0, 0), (before, size), (before, size), (0, 0)))
    expected = np.zeros((2, 3, 4, 2))
    for i in range(3):
        for j in range(4):
            window = padded[:, 2 * i : 2 * i + size, 2 * j : 2 * j + size]
            expected[:, i, j] = np.tensordot(window, kernel, 3)
    ours = conv_down(x.astype(np.float32), kernel.astype(np.float32))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
