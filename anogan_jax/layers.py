"""The stride-2 convolution pair: one halves an image's size, its transpose doubles it.

Each is the other's transpose, and its gradient rule says so. The rules give the gradients that
XLA would derive, but avoid convolving a dilated input, which XLA's CPU backend computes tens of
times slower than the same sum written otherwise, for many channels and a 5x5 kernel.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

_NHWC = ("NHWC", "HWIO", "NHWC")
_THIN = 8  # below so many output features, the dilated convolution is the faster one after all


@jax.custom_vjp
def conv_down(x: Array, kernel: Array) -> Array:
    """Stride-2 convolution, SAME padding: ``lax.conv_general_dilated``.

    Args:
      x: (N, H, W, C), H and W even.
      kernel: (k, k, C, features), k 4 or 5.

    Returns:
      (N, H/2, W/2, features).
    """
    return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=_NHWC)


@jax.custom_vjp
def conv_up(x: Array, kernel: Array) -> Array:
    """Stride-2 transposed convolution, SAME padding: ``lax.conv_transpose``.

    Output pixels of one parity, rows and columns, see every other row and column of the kernel:
    four small convolutions with stride 1, interleaved.

    Args:
      x: (N, H, W, C).
      kernel: (k, k, C, features), k 4 or 5.

    Returns:
      (N, 2 H, 2 W, features).
    """
    if kernel.shape[-1] < _THIN:
        return lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=_NHWC)
    batch, height, width, _ = x.shape
    size, features = kernel.shape[0], kernel.shape[-1]

    def taps(parity: int) -> tuple[slice, tuple[int, int]]:
        """The kernel rows that reach outputs of this parity, and the padding they need.

        Row u carries input pixel i to output pixel 2 i + size - 2 - u.
        """
        first = (size - parity) % 2
        last = first + 2 * ((size - 1 - first) // 2)
        return slice(first, None, 2), ((size - 2 - first - parity) // 2, (last + parity - size + 2) // 2)

    def plane(row_parity: int, column_parity: int) -> Array:
        (rows, row_padding), (columns, column_padding) = taps(row_parity), taps(column_parity)
        padding = (row_padding, column_padding)
        return lax.conv_general_dilated(x, kernel[rows, columns], (1, 1), padding, dimension_numbers=_NHWC)

    rows = [jnp.stack([plane(parity, 0), plane(parity, 1)], axis=3) for parity in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, features)


def _kernel_gradient(image: Array, kernel: Array, small: Array) -> Array:
    """The gradient of <conv_down(image, kernel), small> for the kernel."""
    _, pull_back = jax.vjp(
        lambda k: lax.conv_general_dilated(image, k, (2, 2), "SAME", dimension_numbers=_NHWC), kernel
    )
    return pull_back(small)[0]


def _transposed(kernel: Array) -> Array:
    """The kernel of the transposed layer: rotated by 180 degrees, inputs and outputs exchanged."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _down_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return conv_up(cotangent, _transposed(kernel)), _kernel_gradient(x, kernel, cotangent)


def _up_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    down = _transposed(kernel)
    return conv_down(cotangent, down), _transposed(_kernel_gradient(cotangent, down, x))


conv_down.defvjp(lambda x, kernel: (conv_down(x, kernel), (x, kernel)), _down_backward)
conv_up.defvjp(lambda x, kernel: (conv_up(x, kernel), (x, kernel)), _up_backward)


class StridedConv(nn.Module):
    """A stride-2 layer, down or up, with N(0, 0.02) weights.

    The bias is for layers without batch normalisation, which would cancel it.
    """

    features: int
    kernel_size: int
    up: bool
    use_bias: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(0.02), shape)
        x = conv_up(x, kernel) if self.up else conv_down(x, kernel)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
            x = x + jnp.broadcast_to(bias, x.shape)
        return x
