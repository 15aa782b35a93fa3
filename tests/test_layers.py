"""The stride-2 pair against XLA's own convolutions."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from anogan_jax.layers import conv_down, conv_up

NHWC = ("NHWC", "HWIO", "NHWC")
shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from((1, 3, 17)), st.sampled_from((1, 16, 17))
)


def native_up(x, kernel):
    return lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=NHWC)


def native_down(x, kernel):
    return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=NHWC)


@pytest.mark.parametrize(("ours", "native", "factor"), [(conv_down, native_down, 2), (conv_up, native_up, 1)])
@settings(max_examples=20, deadline=None)
@given(shapes, st.sampled_from((4, 5)), st.integers(0, 2**31))
def test_the_pair_and_its_gradients_are_those_of_xla(ours, native, factor, shape, size, seed):
    batch, height, width, channels, features = shape
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, factor * height, factor * width, channels)).astype(np.float32)
    kernel = rng.normal(size=(size, size, channels, features)).astype(np.float32)
    result, gradients = jax.vjp(ours, x, kernel)
    expected, expected_gradients = jax.vjp(native, x, kernel)
    cotangent = rng.normal(size=result.shape).astype(np.float32)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)
    for mine, theirs in zip(gradients(cotangent), expected_gradients(cotangent), strict=True):
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
