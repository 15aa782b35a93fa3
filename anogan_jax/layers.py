"""The stride-2 convolution pair: one halves an image's size, its transpose doubles it."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax


def conv_down(x: Array, kernel: Array) -> Array:
    """Stride-2 convolution, SAME padding.

    Args:
      x: (N, H, W, C), H and W even.
      kernel: (k, k, C, features).

    Returns:
      (N, H/2, W/2, features).
    """
    return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def conv_up(x: Array, kernel: Array) -> Array:
    """Stride-2 transposed convolution, SAME padding: ``lax.conv_transpose``.

    Its own gradient rule says that it is the transpose of ``conv_down``. The gradients are equal;
    but the weight gradient that XLA derives by itself convolves a dilated input, which its CPU
    backend computes ten times slower than the one of ``conv_down``.

    Args:
      x: (N, H, W, C).
      kernel: (k, k, C, features).

    Returns:
      (N, 2 H, 2 W, features).
    """
    return lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _conv_up_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv_up(x, kernel), (x, kernel)


def _conv_up_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    x_gradient, pull_back = jax.vjp(lambda down: conv_down(cotangent, down), _swap(kernel))
    (kernel_gradient,) = pull_back(x)
    return x_gradient, _swap(kernel_gradient)


conv_up.defvjp(_conv_up_forward, _conv_up_backward)


def _swap(kernel: Array) -> Array:
    """The kernel of the transposed layer: rotated by 180 degrees, inputs and outputs exchanged."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


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
