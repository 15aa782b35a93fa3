"""What the transposed convolution costs: ours against XLA's dilated one, forward, interleaved.

python -m benchmarks.layers
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from anogan_jax.layers import conv_up

# batch, size, channels, features, kernel size
_SHAPES = ((32, 4, 512, 256, 5), (32, 16, 128, 64, 5), (64, 4, 256, 128, 4), (128, 8, 64, 32, 4), (128, 16, 32, 1, 4))


def dilated(x: Array, kernel: Array) -> Array:
    """XLA's own transposed convolution."""
    return lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def milliseconds(function: Callable[[Array, Array], Array], x: Array, kernel: Array) -> float:
    """One call, from start to result."""
    began = time.perf_counter()
    jax.block_until_ready(function(x, kernel))
    return 1e3 * (time.perf_counter() - began)


def main() -> None:
    """Prints medians of seven pairs."""
    ours, native = jax.jit(conv_up), jax.jit(dilated)
    for batch, size, channels, features, kernel_size in _SHAPES:
        x = jnp.ones((batch, size, size, channels))
        kernel = jnp.ones((kernel_size, kernel_size, channels, features))
        milliseconds(ours, x, kernel), milliseconds(native, x, kernel)  # compiles
        pairs = [(milliseconds(ours, x, kernel), milliseconds(native, x, kernel)) for _ in range(7)]
        mine, theirs = np.median(pairs, axis=0)
        shape = f"{batch}x{size}x{size}x{channels} to {features}, {kernel_size}x{kernel_size}"
        print(f"{shape:30} ours {mine:7.1f} ms   dilated {theirs:7.1f} ms   ratio {theirs / mine:.1f}")


if __name__ == "__main__":
    main()
